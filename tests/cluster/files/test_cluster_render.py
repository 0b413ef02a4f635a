"""Configs made for a study: sized as the study needs, and in order by our own check."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_files import command
from cluster_files import crds as crds  # the fixture
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.files.capacity import Need, NodeGroup
from cluster.files.check import check_text
from cluster.files.key_path import leaves
from cluster.files.render import CONFIGS, PROVIDERS, Choices, ClusterFileError, cheapest_group, render_cluster_file
from cluster.files.yaml_text import dump_with_comments, load_with_comments, yaml_documents

GIB = 2**30
SMALL = Need("tickets", trials=32, slots=8, cpus=4, gpus=1, gpu_bytes=10 * GIB)
LARGE = Need("tickets", trials=32, slots=8, cpus=4, gpus=1, gpu_bytes=35 * GIB)
GANG = Need("tickets", trials=4, slots=1, cpus=4, gpus=1, workers=4, zero=3, gpu_bytes=18 * GIB)
CPU = Need("tickets", trials=16, slots=8, cpus=2, gpus=0)
HUGE = Need("tickets", trials=4, slots=1, cpus=4, gpus=1, gpu_bytes=500 * GIB)


def made(provider: str, need: Need, **choices: Any) -> str:
    return render_cluster_file(provider, need, Choices("tickets.yaml", f"tickets-{provider}.yaml", **choices))[0]


def workers(text: str) -> dict[str, Any]:
    config = yaml.safe_load(text)
    return {n: t for n, t in config["available_node_types"].items() if n != config["head_node_type"]}


def groups(text: str) -> list[dict[str, Any]]:
    return next(yaml.safe_load_all(text))["spec"]["rayClusterSpec"]["workerGroupSpecs"]


@pytest.mark.parametrize("need", [SMALL, LARGE, GANG, CPU], ids=["small", "large", "gang", "cpu"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_is_made_passes_the_check_with_its_study(provider: str, need: Need, crds: dict[Any, Any]) -> None:
    text = made(provider, need)
    suffix = "sh" if provider == "slurm" else "yaml"
    found = check_text(text, f"tickets.{suffix}", need, crds)
    assert [str(f) for f in found.items if f.level != "note"] == []
    first = text.splitlines()[1 if provider == "slurm" else 0]
    assert re.match(rf"# (ray up|kubectl apply -f|sbatch) tickets-{provider}.yaml", first)
    assert f"Made by `steadytune cluster render tickets.yaml --provider {provider}`" in text
    assert "ray_configs/" + PROVIDERS[provider] not in text


@pytest.mark.parametrize(("need", "gpu", "machine"), [(SMALL, "l4", "g6.xlarge"), (LARGE, "l40s", "g6e.xlarge")])
def test_the_cheapest_gpu_that_is_large_enough(need: Need, gpu: str, machine: str) -> None:
    [(name, kind)] = workers(made("aws", need)).items()
    assert (name, kind["node_config"]["InstanceType"]) == (gpu, machine)


def test_as_many_hosts_as_trials_at_once_over_slots() -> None:
    config = yaml.safe_load(made("aws", SMALL))
    assert config["max_workers"] == config["available_node_types"]["l4"]["max_workers"] == 4  # 32 trials / 8 slots
    assert yaml.safe_load(made("gcp", SMALL, hosts=3))["max_workers"] == 3
    [group] = groups(made("kuberay", SMALL))
    assert (group["groupName"], group["maxReplicas"]) == ("l4", 4)
    assert "#SBATCH --nodes=4\n" in made("slurm", SMALL)
    assert "#SBATCH --cpus-per-task=4\n" in made("slurm", SMALL)
    assert yaml.safe_load(made("aws", CPU))["max_workers"] == 1  # 2 hosts of 2 CPUs on a machine of 8


def test_gangs_get_machines_with_several_gpus_on_demand() -> None:
    [(name, kind)] = workers(made("aws", GANG)).items()
    assert name == "l40s-x4"
    assert kind["max_workers"] == 4  # one machine holds one gang of 4
    assert "InstanceMarketOptions" not in kind["node_config"]
    assert "#SBATCH --gpus-per-node=4\n" in made("slurm", GANG)
    wide = Need("wide", trials=2, slots=1, cpus=4, gpus=1, workers=16, zero=3, gpu_bytes=60 * GIB)
    [(name, kind)] = workers(made("aws", wide)).items()
    assert (name, kind["max_workers"]) == ("h100-x8", 4)  # two machines a gang


@pytest.mark.parametrize("provider", ["aws", "gcp", "kuberay"])
def test_spot_or_on_demand(provider: str, crds: dict[Any, Any]) -> None:
    def spot(text: str) -> bool:
        plain = groups(text)[0]["template"]["spec"]["nodeSelector"] if provider == "kuberay" else workers(text)
        return any("spot" in f"{path[-1]} {value}".lower() for path, value in leaves(plain))

    assert spot(made(provider, SMALL))
    assert not spot(made(provider, SMALL, spot=False))
    assert not spot(made(provider, GANG))
    forced = made(provider, GANG, spot=True)
    assert spot(forced)
    found = check_text(forced, "x.yaml", GANG, crds)
    assert [f.level for f in found.items if f.level != "note"] == ["warning"]


def test_what_the_user_decides_is_in_the_file() -> None:
    image = "me/steadytune:0.1.0-ray2.60.0"
    text = made("aws", SMALL, run_folder="s3://b/runs/x", image=image, gpu="h100")
    config = yaml.safe_load(text)
    assert config["metadata"]["run_folder"] == "s3://b/runs/x"
    assert config["docker"]["head_image"] == config["docker"]["worker_image"] == image
    assert config["head_setup_commands"] == config["worker_setup_commands"] == []
    assert list(workers(text)) == ["h100"]
    job = made("kuberay", SMALL, run_folder="s3://b/runs/x", image=image, overrides=["axes.plw=[0, 0.1]"])
    entry = next(yaml.safe_load_all(job))["spec"]["entrypoint"]
    assert entry == "steadytune run /study/tickets.yaml 'axes.plw=[0, 0.1]' --out s3://b/runs/x"
    assert "CHANGE-ME" not in re.sub(r"(?m)#.*$", "", job)
    script = made("slurm", SMALL, run_folder="/nfs/a b", overrides=["axes.plw=[0, 0.1]"])
    assert "RUN_FOLDER='/nfs/a b'\n" in script
    assert """steadytune run "$STUDY" 'axes.plw=[0, 0.1]' --out "$RUN_FOLDER\"""" in script


def test_comments_of_the_shipped_file_stay() -> None:
    text = made("aws", SMALL)
    for line in (
        "# What you give as `--out` to run and submit.",
        "#   sg-CHANGE-ME    a group that allows",
        "# The head only",
    ):
        assert line in text
    assert "g6e.12xlarge" not in text


@pytest.mark.parametrize(
    ("need", "choices", "words"),
    [
        (HUGE, {}, "needs about 500 GiB of a GPU, and the largest offered has 79.6"),
        (Need("x", 4, 1, 64, 1), {}, "Run it with resources.cpus="),
        (Need("x", 4, 1, 64, 0), {}, "no machine without GPU holds a host of 64 CPUs"),
        (SMALL, {"gpu": "l40"}, 'Did you mean "l40s"'),
    ],
)
def test_what_cannot_be_made(need: Need, choices: dict[str, Any], words: str) -> None:
    with pytest.raises(ClusterFileError, match=re.escape(words)):
        made("aws", need, **choices)


@given(
    trials=st.integers(1, 200),
    slots=st.integers(1, 16),
    workers=st.integers(1, 16),
    gpus=st.integers(0, 1),
    memory=st.floats(0.1, 70),
)
@settings(max_examples=60, deadline=None)
def test_the_size_keeps_every_trial_running(trials: int, slots: int, workers: int, gpus: int, memory: float) -> None:
    need = Need("s", trials, 1 if workers > 1 else slots, 2, gpus, workers, gpu_bytes=memory * GIB)
    nodes = [
        NodeGroup("cpu", ("cpu",), 99, 8, 0),
        NodeGroup("l4", ("l4",), 99, 8, 1, 22.3),
        NodeGroup("h100", ("h100",), 99, 26, 1, 79.6),
        NodeGroup("l4-x4", ("l4-x4",), 99, 48, 4, 22.3),
        NodeGroup("h100-x8", ("h100-x8",), 99, 200, 8, 79.6),
    ]
    node, count = cheapest_group(nodes, need, None)
    each = node.places(need)
    if workers == 1:
        assert count * each >= trials
        assert (count - 1) * each < trials
    else:
        assert count * each >= trials * workers
    assert bool(node.gpus) == bool(gpus)


# YAML with its comments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda f: f.name)
def test_a_shipped_file_that_is_not_changed_comes_out_as_it_went_in(file: Path) -> None:
    text = file.read_text()
    assert dump_with_comments(load_with_comments(text)) == text


@pytest.mark.parametrize("provider", ["aws", "gcp", "kuberay", "local"])
@pytest.mark.parametrize("image", [None, "me/steadytune:0.1.0-ray2.60.0"])
def test_only_what_the_choices_concern_is_changed(provider: str, image: str | None) -> None:
    source, text = (CONFIGS / PROVIDERS[provider]).read_text(), made(provider, SMALL, image=image)
    before, after = (yaml_documents(t, "x.yaml")[0] for t in (source, text))
    touched = {"available_node_types", "cluster_name", "docker", "max_workers", "metadata", "spec"}
    touched |= {"head_setup_commands", "worker_setup_commands"} if image else set()
    assert {k: v for k, v in before.items() if k not in touched} == {k: v for k, v in after.items() if k not in touched}
    comments = [c for c in re.findall(r"(?m)^#.*$", source) if "steadytune" not in c and "ray_configs/" not in c]
    assert len(comments) >= 3
    assert [c for c in comments if c not in text] == []


# the command --------------------------------------------------------------------------------------------------


def test_the_command_writes_a_file_once(tmp_path: Path) -> None:
    out = tmp_path / "q.yaml"
    arguments = ("cluster", "render", "quickstart", "resources.gpus=1", "--provider", "aws", "--out", str(out))
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert "16 trials, 8 slots a host" in done.stderr
    assert yaml.safe_load(out.read_text())["max_workers"] == 2
    assert command("cluster", "check", "--study", "quickstart", str(out)).returncode == 0
    again = command(*arguments)
    assert again.returncode == 2
    assert "exists. Remove it first" in again.stderr


def test_the_command_prints_the_file_alone(tmp_path: Path) -> None:
    done = command("cluster", "render", "quickstart", "--provider", "slurm")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/bin/bash\n# sbatch quickstart-slurm.sh\n")
    assert "--gpus-per-node" not in done.stdout
    assert command("cluster", "render", "quickstart", "--provider", "gpc").stderr.startswith(
        'error: --provider = "gpc" is not known. Did you mean "gcp"?'
    )


def test_a_model_that_cannot_be_read_from_here_needs_the_gpu_named(tmp_path: Path) -> None:
    arguments = (
        "cluster",
        "render",
        "quickstart",
        "resources.gpus=1",
        "model.path=nobody/nothing",
        "--provider",
        "aws",
    )
    done = command(*arguments, HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "--gpu l40s" in done.stderr
    done = command(*arguments, "--gpu", "l40s", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert list(workers(done.stdout)) == ["l40s"]
