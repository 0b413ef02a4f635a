"""``steadytune cluster render``: write a shipped cluster file with the machines that one study needs.

The files in ``ray_configs/`` are the only source. Single values in them are changed, so their comments stay, and a
machine type that is added there can be chosen here.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.files.capacity import Need, NodeGroup
from cluster.files.finding import PLACEHOLDER, FileFindings
from cluster.files.machines import SPARE
from cluster.files.pods import pod_groups
from cluster.files.ray_up import node_groups, prepared
from cluster.files.yaml_text import dump_with_comments, flow_mapping, load_with_comments, yaml_documents
from trainer.errors import UserError, nearest

CONFIGS = Path(__file__).resolve().parents[2] / "ray_configs"  # beside the packages, in a checkout and installed
PROVIDERS = {
    "aws": "aws.yaml",
    "gcp": "gcp.yaml",
    "kuberay": "kuberay-job.yaml",
    "slurm": "slurm.sh",
    "local": "local.yaml",
}


class ClusterFileError(UserError):
    """No shipped file fits the study, or there is no such choice."""


@dataclass(frozen=True)
class Choices:
    """What the user decides. None: it follows from the study."""

    study: str  # the file or name, as given on the command line
    out: str  # the name of the file to write, for its comments
    hosts: int | None = None  # at most this many (workers, if trials are gangs)
    gpu: str | None = None
    spot: bool | None = None
    run_folder: str | None = None
    image: str | None = None
    overrides: Sequence[str] = ()  # key=value, with which the study is run

    @property
    def words(self) -> str:
        """The overrides as a command line has them after the study."""
        return "".join(f" {shlex.quote(o)}" for o in self.overrides)


def render_cluster_file(provider: str, need: Need, choices: Choices) -> tuple[str, str]:
    """The text of the file, and one line on its machines. Raises ClusterFileError if nothing fits."""
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


def cheapest_group(nodes: Sequence[NodeGroup], need: Need, gpu: str | None) -> tuple[NodeGroup, int]:
    """The cheapest node type that the study fits on (the shipped files list them from cheap to expensive), and how many
    such nodes run all trials at once."""
    if not need.gpus:
        fitting = [n for n in nodes if not n.gpus and n.places(need)]
        if not fitting:
            raise ClusterFileError(f"no machine without GPU holds a host of {need.cpus:g} CPUs. Lower resources.cpus")
        node = next((n for n in fitting if n.cpus >= need.cpus), fitting[-1])
        return node, math.ceil(need.hosts / max(1, math.floor(node.cpus / need.cpus)))
    offered = [n for n in nodes if n.gpus]
    if gpu is not None:
        names = list(dict.fromkeys(n.name.rsplit("-x", 1)[0] for n in offered))
        offered = [n for n in offered if n.name.rsplit("-x", 1)[0] == gpu]
        if not offered:
            raise ClusterFileError(f'--gpu = "{gpu}" is not in the shipped config.{nearest(gpu, names)}')
    large = [n for n in offered if gpu or need.gpu_gib is None or need.gpu_gib <= (n.gpu_gib or 0) * SPARE]
    if not large:
        most = max(n.gpu_gib or 0 for n in offered)
        raise ClusterFileError(
            f"the study needs about {need.gpu_gib:.3g} GiB of a GPU, and the largest offered has {most:g}. Lower "
            "resources.slots or training.batch_size, or share the base out: resources.zero=3 resources.workers=4"
        )
    filled = [n for n in large if n.places(need) >= n.full(need)]
    if not filled:
        most_cpus = max(n.cpus / n.gpus for n in large)
        raise ClusterFileError(
            f"no machine with such a GPU has {need.cpus:g} CPUs for each; the most is {most_cpus:g}. "
            f"Run it with resources.cpus={math.floor(most_cpus)}"
        )
    whole = [n for n in filled if n.gpus >= need.workers]
    if not whole:  # a gang spans several nodes: take the largest
        whole = [max(filled, key=lambda n: n.gpus)]
    node = min(whole, key=lambda n: n.gpus)  # the first of the smallest, so the cheapest
    if node.gpus >= need.workers:
        return node, math.ceil(need.hosts / (math.floor(node.gpus / need.workers) * need.workers))
    return node, need.trials * math.ceil(need.workers / node.gpus)


def _limited(count: int, node: NodeGroup, need: Need, choices: Choices) -> int:
    if choices.hosts is None:
        return count
    each = max(1, math.floor(node.gpus)) if need.gpus else max(1, math.floor(node.cpus / need.cpus))
    return max(1, min(count, math.ceil(choices.hosts / each)))


def _summary(need: Need, node: str, count: int, spot: bool | None) -> str:
    memory = f", about {need.gpu_gib:.2g} GiB of a GPU" if need.gpus and need.gpu_gib is not None else ""
    shape = f"gangs of {need.workers}" if need.workers > 1 else f"{need.slots} slots a host"
    price = {True: " at spot prices", False: " on demand", None: ""}[spot]
    return f"{need.trials} trial{'s' * (need.trials != 1)}, {shape}{memory}: up to {count} x {node}{price}"


def _name(need: Need) -> str:
    """A name that AWS, Google Cloud and Kubernetes accept."""
    return ("steadytune-" + re.sub(r"[^a-z0-9]+", "-", need.name.lower()).strip("-"))[:40].rstrip("-")


# ray up -------------------------------------------------------------------------------------------------------


def _ray_up(provider: str, text: str, need: Need, choices: Choices) -> tuple[str, str]:
    full = prepared(FileFindings(PROVIDERS[provider]), yaml_documents(text, PROVIDERS[provider])[0])
    if full is None:
        raise ClusterFileError(f"{CONFIGS / PROVIDERS[provider]} is not what Ray accepts. Install Steadytune again")
    node, count = cheapest_group(node_groups(full, provider), need, choices.gpu)
    count = _limited(count, node, need, choices)
    if choices.image:
        commands = r"(?m)^((?:head|worker)_setup_commands:).*\n(?: +.*\n)+"
        text = re.sub(commands, r"\1 [] # the image has everything\n", text)
    config = load_with_comments(text)[0]
    types = config["available_node_types"]
    for other in [n for n in types if n not in (node.name, config["head_node_type"])]:
        del types[other]
    types[node.name]["max_workers"] = config["max_workers"] = count
    config["cluster_name"] = _name(need)
    machine = types[node.name]["node_config"]
    spot = need.workers == 1 if choices.spot is None else choices.spot
    if spot != node.spot:
        _set_price(provider, machine, spot)
    folder = choices.run_folder or f"{config['metadata']['run_folder']}/{need.name}"
    config["metadata"]["run_folder"] = folder
    if choices.image:
        config["docker"]["head_image"] = config["docker"]["worker_image"] = choices.image
    kind = machine.get("InstanceType") or machine.get("machineType")
    return dump_with_comments([config]), _summary(need, f"{node.name} ({kind})", count, spot)


def _set_price(provider: str, machine: Any, spot: bool) -> None:
    if provider == "gcp":
        model = {"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE"} if spot else {}
        machine["scheduling"] = flow_mapping({"onHostMaintenance": "TERMINATE", **model})
    elif spot:
        machine["InstanceMarketOptions"] = flow_mapping({"MarketType": "spot"})
    else:
        del machine["InstanceMarketOptions"]


# KubeRay ------------------------------------------------------------------------------------------------------


def _kuberay(provider: str, text: str, need: Need, choices: Choices) -> tuple[str, str]:
    study = choices.study.replace("\\", "/").rsplit("/", 1)[-1]
    study = study if study.endswith((".yaml", ".yml")) else f"{study}.yaml"
    job, *others = load_with_comments(text)
    cluster = job["spec"]["rayClusterSpec"]
    node, count = cheapest_group(pod_groups((), cluster), need, choices.gpu)
    count = _limited(count, node, need, choices)
    groups = cluster["workerGroupSpecs"]
    for other in reversed([i for i, g in enumerate(groups) if g["groupName"] != node.name]):
        del groups[other]
    [group] = groups
    group["maxReplicas"] = count
    pod = group["template"]["spec"]
    spot = need.workers == 1 if choices.spot is None else choices.spot
    if spot != node.spot:
        selector = {k: v for k, v in pod["nodeSelector"].items() if "spot" not in k}
        pod["nodeSelector"] = flow_mapping(selector | ({"cloud.google.com/gke-spot": "true"} if spot else {}))
    if spot and not node.spot:
        toleration = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        pod["tolerations"].append(flow_mapping(toleration))
    folder = choices.run_folder or f"gs://{PLACEHOLDER}/steadytune/runs/{need.name}"
    job["spec"]["entrypoint"] = f"steadytune run /study/{study}{choices.words} --out {folder}"
    job["metadata"]["name"] = _name(need)
    text = dump_with_comments([job, *others])
    text = text.replace("--from-file=study.yaml", f"--from-file={study}")
    text = text.replace("job/steadytune ", f"job/{_name(need)} ")
    if choices.image:
        text = re.sub(rf"(image: ){PLACEHOLDER}/\S+", lambda m: m[1] + str(choices.image), text)
    return text, _summary(need, f"pods of group {node.name}", count, spot)


# Slurm and one machine ----------------------------------------------------------------------------------------


def _slurm(provider: str, text: str, need: Need, choices: Choices) -> tuple[str, str]:
    """The nodes of a Slurm cluster are not known here: assume one GPU a node, and for gangs up to 8."""
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
    return text, _summary(need, kind, nodes, None)


def _local(provider: str, text: str, need: Need, choices: Choices) -> tuple[str, str]:
    config = load_with_comments(text)[0]
    config["cluster_name"] = _name(need)
    config["metadata"]["run_folder"] = choices.run_folder or f"~/steadytune-runs/{need.name}"
    return dump_with_comments([config]), _summary(need, "machine, this one; trials without a slot wait", 1, None)
