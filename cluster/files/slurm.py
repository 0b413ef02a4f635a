"""Checks of a Slurm script that starts Ray over its nodes with ``ray symmetric-run``."""

from __future__ import annotations

import re
import shutil
import subprocess

from cluster.files import start_checks as start
from cluster.files.capacity import Need, NodeGroup, check_capacity
from cluster.files.finding import PLACEHOLDER, FileFindings
from trainer.errors import nearest

OPTIONS = (
    "account array begin chdir comment constraint cpus-per-gpu cpus-per-task dependency error exclude exclusive export "
    "gpu-bind gpus gpus-per-node gpus-per-task gres hold input job-name licenses mail-type mail-user mem mem-per-cpu "
    "mem-per-gpu nice nodelist nodes no-requeue ntasks ntasks-per-node open-mode output partition qos requeue "
    "reservation signal switches threads-per-core time time-min tmp wait wckey"
)
REFUSED = ("--head", "--port", "--block", "--node-ip-address")  # symmetric-run itself passes these to ray start


def check_slurm(findings: FileFindings, text: str, need: Need | None) -> None:
    given = _options(findings, text)
    _syntax(findings, text)
    body = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", body)
    run = re.search(r"ray symmetric-run .*", joined)
    nodes = _number(given.get("nodes", "1"))
    if run is None:
        findings.error(
            "ray symmetric-run",
            "is missing: nothing starts Ray on the nodes",
            "Write srun … ray symmetric-run --address HEAD:6379 --min-nodes N -- env RAY_ADDRESS=… steadytune run …",
        )
        return
    _command(findings, run[0], joined)
    _token(findings, joined)
    if given.get("ntasks-per-node", "1") != "1":
        findings.error(
            "--ntasks-per-node", "must be 1: Ray starts once on a node", "Write 1.", given["ntasks-per-node"]
        )
    if "requeue" not in given:
        findings.warn(
            "--requeue", "is missing: a failed node ends the study", "Add #SBATCH --requeue; the run resumes."
        )
    if "exclusive" not in given:
        findings.warn(
            "--exclusive",
            "is missing: at its end symmetric-run stops all your Ray processes on the node, also other jobs'",
            "Add #SBATCH --exclusive.",
        )
    if PLACEHOLDER in re.sub(r"^##.*$", "", text, flags=re.MULTILINE):
        findings.note("", f"values are still to be filled in ({PLACEHOLDER})")
    folder = re.search(r"--out[= ](\S+)", run[0])
    start.check_run_folder(findings, "--out", _value(joined, folder[1]) if folder else None, nodes, lambda path: True)
    if need is not None:
        cpus = float(_number(given.get("cpus-per-task", "1")))
        check_capacity(
            findings, [NodeGroup("node", ("#SBATCH",), nodes, cpus, _gpus(given))], need, nodes, ("--nodes",)
        )


def _options(findings: FileFindings, text: str) -> dict[str, str]:
    """The #SBATCH options. Slurm stops reading them at the first command."""
    given: dict[str, str] = {}
    past = False
    known = OPTIONS.split()
    for number, line in enumerate(text.splitlines(), 1):
        option = re.match(r"#SBATCH\s+(?:--([\w-]+)|-(\w))(?:[= ]\s*(\S+))?", line)
        if option is None:
            past = past or bool(line.strip() and not line.lstrip().startswith("#"))
            continue
        if past:
            findings.error(
                f"line {number}", "comes after the first command, where Slurm no longer reads options", "Move it up."
            )
            continue
        short = {
            "N": "nodes",
            "n": "ntasks",
            "c": "cpus-per-task",
            "G": "gpus",
            "t": "time",
            "p": "partition",
            "A": "account",
        }
        name = option[1] or short.get(option[2], option[2])
        if option[1] and name not in known:
            findings.error(f"#SBATCH --{name}", f"is not known.{nearest(name, known)}")
        given[name] = option[3] or ""
    return given


def _syntax(findings: FileFindings, text: str) -> None:
    shell = shutil.which("bash")
    if shell:
        done = subprocess.run([shell, "-n"], input=text, capture_output=True, text=True, timeout=10)
        if done.returncode:
            findings.error("", f"bash cannot read it: {done.stderr.strip().splitlines()[0]}")


def _command(findings: FileFindings, run: str, joined: str) -> None:
    options, separator, program = run.partition(" -- ")
    if not separator:
        findings.error(
            "ray symmetric-run", "has no ` -- ` before the command to run", "Write … -- steadytune run STUDY."
        )
    if not re.search(r"\bsrun\b[^\n]*ray symmetric-run", joined):
        findings.error(
            "ray symmetric-run", "runs on the first node only", "Put srun before it, which runs it on every node."
        )
    if not re.search(r"--address[= ]", options):
        findings.error(
            "ray symmetric-run", "has no --address: the nodes cannot find the head", "Write --address HEAD:6379."
        )
    for name in REFUSED:
        if re.search(rf"{name}\b", options):
            findings.error(f"ray symmetric-run {name}", "is refused: symmetric-run sets it itself", "Leave it out.")
    if "--min-nodes" not in options:
        findings.warn(
            "ray symmetric-run",
            "starts the study before the other nodes have joined (--min-nodes is missing)",
            'Write --min-nodes "$SLURM_JOB_NUM_NODES".',
        )
    if "steadytune run" in program and "RAY_ADDRESS=" not in program:
        findings.error(
            "ray symmetric-run",
            "starts the study without RAY_ADDRESS: it would start a Ray of its own on one node",
            'Write -- env RAY_ADDRESS="$HEAD" steadytune run …',
        )
    if re.search(r"--dashboard-host[= ]['\"]?(?:0\.0\.0\.0|::)", options):
        findings.warn(
            "--dashboard-host",
            "opens the dashboard to every network of the head",
            "Leave it out: 127.0.0.1 is the default.",
        )


def _token(findings: FileFindings, joined: str) -> None:
    if re.search(r"RAY_AUTH_TOKEN=[\"']?[A-Za-z0-9]{8,}", joined):
        findings.warn(
            "RAY_AUTH_TOKEN",
            "stands in the script in plain text",
            "Let the job make it, in a file that only you can read (umask 077).",
        )
    if not re.search(r"export\s+(?:\w+=\S+\s+)*RAY_AUTH_MODE=[\"']?token", joined):
        findings.warn(
            "RAY_AUTH_MODE",
            "is not token: other users of the cluster's network can run code as you",
            "Add export RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH.",
        )
    elif not re.search(r"RAY_AUTH_TOKEN(_PATH)?=", joined):
        findings.warn("RAY_AUTH_TOKEN_PATH", "is not set: Ray looks for ~/.ray/auth_token", "Make a token in the job.")


def _value(text: str, word: str) -> str:
    """A word of the command; a variable of the script is replaced by its value."""
    word = word.strip("\"'")
    name = re.fullmatch(r"\$\{?(\w+)\}?", word)
    set_to = re.search(rf"^{name[1]}=(\S+)", text, re.MULTILINE) if name else None
    return set_to[1].strip("\"'") if set_to else word


def _gpus(given: dict[str, str]) -> float:
    for name in ("gpus-per-node", "gpus-per-task", "gres"):
        if name in given and "CHANGE" not in given[name]:
            return float(_number(given[name].split(":")[-1]))
    return 0.0


def _number(text: str) -> int:
    digits = re.match(r"\d+", text)
    return int(digits[0]) if digits else 1
