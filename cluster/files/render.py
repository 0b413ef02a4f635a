"""``steadytune cluster render``: a shipped config, cut to what one study needs.

The files in ``ray_configs/`` are the only source: their text is edited value by value, so that comments stay and a new
machine type there can be chosen here.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

from cluster.files.capacity import Need, Nodes
from cluster.files.finding import PLACEHOLDER, Findings, get, section
from cluster.files.machines import SPARE
from cluster.files.yaml_text import documents, inserted, replaced, without
from trainer.errors import UserError, nearest

CONFIGS = File(__file__).resolve().parents[2] / "ray_configs"  # beside the packages, in a checkout and installed
PROVIDERS = {
    "aws": "aws.yaml",
    "gcp": "gcp.yaml",
    "kuberay": "kuberay-job.yaml",
    "slurm": "slurm.sh",
    "local": "local.yaml",
}


class RenderError(UserError):
    """No shipped config can hold the study, or a choice that is not offered."""


@dataclass(frozen=True)
class Choices:
    """What the user decides. None leaves it to the study."""

    study: str  # the file or name, as it was given
    out: str  # the file's name, for its comments
    hosts: int | None = None  # at most so many (workers, where trials are gangs)
    gpu: str | None = None
    spot: bool | None = None
    run_folder: str | None = None
    image: str | None = None
    overrides: Sequence[str] = ()  # key=value that the study is run with

    @property
    def words(self) -> str:
        """The overrides as they stand after the study on a command line."""
        return "".join(f" {shlex.quote(o)}" for o in self.overrides)


def render(provider: str, need: Need, choices: Choices) -> tuple[str, str]:
    """The file's text, and one line on how it was sized. RenderError where nothing fits."""
    if provider not in PROVIDERS:
        raise RenderError(f'--provider = "{provider}" is not known.{nearest(provider, PROVIDERS)}')
    source = PROVIDERS[provider]
    text = (CONFIGS / source).read_text()
    make = {"aws": _ray_up, "gcp": _ray_up, "kuberay": _kuberay, "slurm": _slurm, "local": _local}[provider]
    text, sized = make(provider, text, need, choices)
    text = text.replace(f"ray_configs/{source}", choices.out)
    first, _, rest = text.partition("\n")
    made = f"# Made by `steadytune cluster render {choices.study}{choices.words} --provider {provider}`: {sized}."
    if first.startswith("#!"):
        second, _, rest = rest.partition("\n")
        first = f"{first}\n{second}"
    return f"{first}\n{made}\n{rest}", sized


# the size -----------------------------------------------------------------------------------------------------


def choose(nodes: Sequence[Nodes], need: Need, gpu: str | None) -> tuple[Nodes, int]:
    """The cheapest node type that holds the study (the shipped files list them from cheap to dear), and how many of
    it keep every trial running."""
    if not need.gpus:
        fitting = [n for n in nodes if not n.gpus and n.places(need)]
        if not fitting:
            raise RenderError(f"no machine without GPU holds a host of {need.cpus:g} CPUs. Lower resources.cpus")
        node = next((n for n in fitting if n.cpus >= need.cpus), fitting[-1])
        return node, math.ceil(need.hosts / max(1, math.floor(node.cpus / need.cpus)))
    offered = [n for n in nodes if n.gpus]
    if gpu is not None:
        names = list(dict.fromkeys(n.name.rsplit("-x", 1)[0] for n in offered))
        offered = [n for n in offered if n.name.rsplit("-x", 1)[0] == gpu]
        if not offered:
            raise RenderError(f'--gpu = "{gpu}" is not in the shipped config.{nearest(gpu, names)}')
    large = [n for n in offered if gpu or need.gpu_gib is None or need.gpu_gib <= (n.gpu_gib or 0) * SPARE]
    if not large:
        most = max(n.gpu_gib or 0 for n in offered)
        raise RenderError(
            f"the study needs about {need.gpu_gib:.3g} GiB of a GPU, and the largest offered has {most:g}. Lower "
            "resources.slots or training.batch_size, or share the base out: resources.zero=3 resources.workers=4"
        )
    filled = [n for n in large if n.places(need) >= n.full(need)]
    if not filled:
        most_cpus = max(n.cpus / n.gpus for n in large)
        raise RenderError(
            f"no machine with such a GPU has {need.cpus:g} CPUs for each; the most is {most_cpus:g}. "
            f"Run it with resources.cpus={math.floor(most_cpus)}"
        )
    whole = [n for n in filled if n.gpus >= need.workers]
    if not whole:  # a gang over several nodes: the largest ones
        whole = [max(filled, key=lambda n: n.gpus)]
    node = min(whole, key=lambda n: n.gpus)  # the first of the smallest, so the cheapest
    if node.gpus >= need.workers:
        return node, math.ceil(need.hosts / (math.floor(node.gpus / need.workers) * need.workers))
    return node, need.trials * math.ceil(need.workers / node.gpus)


def _limited(count: int, node: Nodes, need: Need, choices: Choices) -> int:
    if choices.hosts is None:
        return count
    each = max(1, math.floor(node.gpus)) if need.gpus else max(1, math.floor(node.cpus / need.cpus))
    return max(1, min(count, math.ceil(choices.hosts / each)))


def _said(need: Need, node: str, count: int, spot: bool | None) -> str:
    memory = f", about {need.gpu_gib:.2g} GiB of a GPU" if need.gpus and need.gpu_gib is not None else ""
    shape = f"gangs of {need.workers}" if need.workers > 1 else f"{need.slots} slots a host"
    price = {True: " at spot prices", False: " on demand", None: ""}[spot]
    return f"{need.trials} trial{'s' * (need.trials != 1)}, {shape}{memory}: up to {count} x {node}{price}"


def _name(need: Need) -> str:
    """A name that AWS, Google Cloud and Kubernetes accept."""
    return ("steadytune-" + re.sub(r"[^a-z0-9]+", "-", need.name.lower()).strip("-"))[:40].rstrip("-")


# ray up -------------------------------------------------------------------------------------------------------


def _ray_up(provider: str, text: str, need: Need, choices: Choices) -> tuple[str, str]:
    from cluster.files.ray_up import nodes_of, prepared

    raw = documents(text, PROVIDERS[provider])[0]
    full = prepared(Findings(PROVIDERS[provider]), raw)
    if full is None:
        raise RenderError(f"{CONFIGS / PROVIDERS[provider]} is not what Ray accepts. Install Steadytune again")
    node, count = choose(nodes_of(full, provider), need, choices.gpu)
    count = _limited(count, node, need, choices)
    for other in [n for n in raw["available_node_types"] if n not in (node.name, raw["head_node_type"])]:
        text = without(text, ("available_node_types", other))
    text = replaced(text, ("available_node_types", node.name, "max_workers"), count)
    text = replaced(text, ("max_workers",), count)
    text = replaced(text, ("cluster_name",), _name(need))
    spot = need.workers == 1 if choices.spot is None else choices.spot
    if spot != node.spot:
        text = _priced(provider, text, node, spot)
    folder = choices.run_folder or f"{raw['metadata']['run_folder']}/{need.name}"
    text = replaced(text, ("metadata", "run_folder"), folder)
    if choices.image:
        for key in ("head_image", "worker_image"):
            text = replaced(text, ("docker", key), choices.image)
        for key in ("head_setup_commands", "worker_setup_commands"):
            for i in reversed(range(len(raw[key]))):
                text = without(text, (key, i))
            text = re.sub(rf"(?m)^{key}:\s*$", f"{key}: [] # the image has everything", text)
    config = raw["available_node_types"][node.name]["node_config"]
    machine = config.get("InstanceType") or config.get("machineType")
    return text, _said(need, f"{node.name} ({machine})", count, spot)


def _priced(provider: str, text: str, node: Nodes, spot: bool) -> str:
    key = ("available_node_types", node.name, "node_config")
    if provider == "gcp":
        model = {"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE"} if spot else {}
        return replaced(text, (*key, "scheduling"), {"onHostMaintenance": "TERMINATE", **model})
    if not spot:
        return without(text, (*key, "InstanceMarketOptions"))
    return inserted(text, (*key, "BlockDeviceMappings"), "InstanceMarketOptions: {MarketType: spot}")


# KubeRay ------------------------------------------------------------------------------------------------------


def _kuberay(provider: str, text: str, need: Need, choices: Choices) -> tuple[str, str]:
    from cluster.files.pods import check_groups

    raw = documents(text, PROVIDERS[provider])[0]
    cluster = ("spec", "rayClusterSpec")
    groups = get(raw, *cluster, "workerGroupSpecs")
    node, count = choose(check_groups(Findings(""), cluster, section(raw, *cluster)), need, choices.gpu)
    count = _limited(count, node, need, choices)
    at = [g["groupName"] for g in groups].index(node.name)
    key = (*cluster, "workerGroupSpecs", at)
    text = replaced(text, (*key, "maxReplicas"), count)
    spot = need.workers == 1 if choices.spot is None else choices.spot
    if spot != node.spot:
        selector = {k: v for k, v in _selector(groups[at]).items() if "spot" not in k}
        selector |= {"cloud.google.com/gke-spot": "true"} if spot else {}
        text = replaced(text, (*key, "template", "spec", "nodeSelector"), selector)
    if spot and not node.spot:
        toleration = '{key: cloud.google.com/gke-spot, operator: Equal, value: "true", effect: NoSchedule}'
        text = inserted(text, (*key, "template", "spec", "tolerations", 0), f"- {toleration}")
    for other in reversed(range(len(groups))):
        if other != at:
            text = without(text, (*cluster, "workerGroupSpecs", other))
    folder = choices.run_folder or f"gs://{PLACEHOLDER}/steadytune/runs/{need.name}"
    entry = f"steadytune run /study/{_file(choices.study)}{choices.words} --out {folder}"
    text = replaced(text, ("spec", "entrypoint"), entry)
    text = text.replace("--from-file=study.yaml", f"--from-file={_file(choices.study)}")
    text = replaced(text, ("metadata", "name"), _name(need)).replace("job/steadytune ", f"job/{_name(need)} ")
    if choices.image:
        text = re.sub(rf"(image: ){PLACEHOLDER}/\S+", lambda m: m[1] + str(choices.image), text)
    return text, _said(need, f"pods of group {node.name}", count, spot)


def _selector(group: dict[str, Any]) -> dict[str, str]:
    return dict(section(group, "template", "spec", "nodeSelector"))


def _file(study: str) -> str:
    name = study.replace("\\", "/").rsplit("/", 1)[-1]
    return name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"


# Slurm and one machine ----------------------------------------------------------------------------------------


def _slurm(provider: str, text: str, need: Need, choices: Choices) -> tuple[str, str]:
    """A centre's nodes are not known here: one GPU a node, and for gangs up to 8."""
    gpus = min(need.workers, 8) if need.gpus else 0
    per_node = gpus or 1
    nodes = need.trials * math.ceil(need.workers / per_node) if need.workers > 1 else need.hosts
    if choices.hosts is not None:
        nodes = max(1, min(nodes, math.ceil(choices.hosts / per_node)))
    for option, value in (
        ("nodes", nodes),
        ("cpus-per-task", math.ceil(need.cpus * per_node)),
        ("gpus-per-node", gpus),
    ):
        line = f"#SBATCH --{option}={value}\n" if value else ""
        text = re.sub(rf"(?m)^#SBATCH --{option}=.*\n", line, text)
    text = re.sub(r"(?m)^#SBATCH --job-name=.*$", f"#SBATCH --job-name={_name(need)}", text)
    folder = choices.run_folder or f"/shared/steadytune/runs/{need.name}"
    text = re.sub(r"(?m)^STUDY=.*$", lambda _: f"STUDY={shlex.quote(choices.study)}", text)
    text = re.sub(r"(?m)^RUN_FOLDER=.*$", lambda _: f"RUN_FOLDER={shlex.quote(folder)}", text)
    text = text.replace('steadytune run "$STUDY"', f'steadytune run "$STUDY"{choices.words}')
    kind = f"node{'s' * (nodes != 1)}" + (f" with {gpus} GPU{'s' * (gpus > 1)}" if gpus else "")
    return text, _said(need, kind, nodes, None)


def _local(provider: str, text: str, need: Need, choices: Choices) -> tuple[str, str]:
    text = replaced(text, ("cluster_name",), _name(need))
    text = replaced(text, ("metadata", "run_folder"), choices.run_folder or f"~/steadytune-runs/{need.name}")
    return text, _said(need, "machine, this one; trials without a slot wait", 1, None)
