"""What the place where a command runs can do to it: encodings, closed and full outputs, limits and folders (CASES E7,
E11)."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from local_head import plain_environment
from small_study import write_study
from study_text import BASE
from tiny_run import make_run, write_trials

from cluster.limits import NEEDED, raise_open_files
from cluster.local_folder import LONGEST_PLACE, FolderError, place
from sweeps.cli.environment_errors import environment_line
from sweeps.cli.exit_codes import guarded
from trainer.errors import UserError, printable
from trainer.store import Store

PLACES = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "cp1252": {"PYTHONIOENCODING": "cp1252:strict"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


TABLE = r"""
import sys
from sweeps.cli import exit_codes
from sweeps.run_folder.reading import RunFolder
from sweeps.tables.terminal import show_table
from trainer.store import Store
def table(**_):
    show_table(RunFolder(Store.open(sys.argv[1])), "report.html")
    print("\u043d\u0435\u0442 \u662f \ud800")
exit_codes._app = lambda: table
exit_codes.main()
"""


def run(*arguments: str, where: Path, shell: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command, or the table of a run where the first argument is its folder; ``shell`` is put after it."""
    start = ["-c", TABLE] if os.path.isdir(arguments[0]) else ["-m", "sweeps"]
    command = ["bash", "-c", f'"$@" {shell}', "bash", sys.executable, *start, *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160", **environment}
    return subprocess.run(command, cwd=where, env=env, capture_output=True)


# encodings ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose names are written in three scripts."""
    folder = tmp_path_factory.mktemp("spoken")
    task = {"label": "label", "labels": {"0": "нет", "1": "是"}, "max_length": 200}
    uri, trials = make_run(
        folder, task, templates={"é": {"words": {"нет": " no", "是": " yes"}, "marker": "\n→:"}},
        axes={"lora": {"r": 2}, "lr": [1e-2, 2e-2], "steps": 2},
    )  # fmt: skip
    write_trials(Store.open(uri), trials)
    return Path(uri)


@pytest.mark.parametrize("at", PLACES)
def test_a_table_prints_in_every_encoding(spoken: Path, at: str) -> None:
    done = run(str(spoken), where=ROOT, **PLACES[at])
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"robustness over prompts" in done.stdout


def test_check_of_a_sound_study_prints_in_ascii(tmp_path: Path) -> None:
    prompts = "é→: 'Is this 垃圾 ? {{ text }}'\nь: 'Is this спам? {{ text }}'\n"
    (tmp_path / "p.yaml").write_text(prompts, encoding="utf-8")
    write_study(tmp_path, pools={"dev": str(tmp_path / "p.yaml")})
    done = run("check", "small.yaml", where=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stdout + done.stderr
    assert b"UnicodeEncodeError" not in done.stdout + done.stderr


def test_an_error_names_what_the_terminal_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(BASE)
    done = run("plan", "x.yaml", "axes.é→=1", where=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert b"axes.\\xe9\\u2192" in done.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\rb\tc", "a\\rb\\tc"),
        ("a\u2028b\x85c", "a\\u2028b\\x85c"),
        ("a\ud800b", "a\\ud800b"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("two\nlines é 垃圾", "two\nlines é 垃圾"),
    ],
)
def test_no_control_character_of_the_input_reaches_the_terminal(
    text: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing() -> None:
        raise UserError(text)

    assert printable(text) == shown
    assert guarded(failing) == 2
    assert capsys.readouterr().err == "".join(f"error: {line}\n" for line in shown.split("\n"))


# outputs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        ("| head -c 1 >/dev/null; exit ${PIPESTATUS[0]}", 0, b""),
        (">&-", 0, b""),
        (">/dev/full", 2, b"error: the disk is full ([Errno 28] No space left on device)"),
        ("2>&- >&-", 0, b""),
        (">/dev/full 2>&1", 2, b""),
    ],
)
def test_an_output_that_takes_nothing(spoken: Path, shell: str, code: int, said: bytes) -> None:
    done = run(str(spoken), where=ROOT, shell=shell)
    assert (done.returncode, done.stderr[: len(said)]) == (code, said), done.stderr
    assert b"Traceback" not in done.stderr
    assert b"unexpected" not in done.stderr


def test_ctrl_c_while_the_command_is_loaded_shows_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = run("--help", where=tmp_path, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert done.returncode == 130
    assert done.stderr == b"interrupted: run the same command again to continue\n"


# errors of the operating system, of memory and of packages ------------------------------------------------------------


class RustError(Exception):
    """As safetensors raises: the number of the operating system stands in the text only."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/runs/x"), "/runs/x: the disk is full. Free space"),
        (RustError("I/O error: No space left on device (os error 28)"), "the disk is full (I/O error: "),
        (OSError("[Errno 28] Error writing bytes to file"), "the disk is full ([Errno 28] Error writing"),
        (OSError(errno.EMFILE, "Too many open files"), "too many files are open in one process"),
        (PermissionError(errno.EACCES, "Permission denied", "/srv/x"), "/srv/x: this user may not read or write"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "/x: the file system is read-only. Choose"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/x"), "/x: the disk quota is used up"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "no more processes or threads"),
        (OSError(errno.ENOTTY, "Inappropriate ioctl for device"), "[Errno 25] Inappropriate ioctl for device. `steady"),
        (MemoryError(), "the memory of this machine is used up. End other programs"),
        (ModuleNotFoundError("No module named 'x.y'", name="x.y"), "the package x is not installed"),
        (ImportError("libx.so.1: cannot open shared object file", name="x"), "x cannot be loaded: libx.so.1: cannot"),
        (
            UnicodeEncodeError("ascii", "aé", 1, 2, "too large"),
            "the locale (ascii) cannot write '\\xe9'",
        ),
    ],
)
def test_a_fault_of_the_machine_is_told_in_one_line(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing() -> None:
        raise error

    monkeypatch.delenv("STEADYTUNE_DEBUG", raising=False)
    assert guarded(failing) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: {said}")
    assert line.count("\n") == 1


def test_what_another_error_was_raised_from_counts() -> None:
    wrapped = RuntimeError("cannot save")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/x")
    assert environment_line(wrapped) == environment_line(wrapped.__cause__)


@pytest.mark.parametrize("error", [ValueError("x"), ImportError("no name y", name="sweeps.run"), UnicodeError("x")])
def test_a_bug_is_no_fault_of_the_machine(error: Exception) -> None:
    assert environment_line(error) is None


def test_all_of_a_foreign_message_is_shown_and_of_a_traceback_its_end() -> None:
    assert "b; c d" in str(environment_line(OSError("a\n b; c\n\n d")))
    text = "ray failed\nTraceback (most recent call last):\n  File x\n    y\nValueError: the reason"
    assert str(environment_line(OSError(text))).startswith("ray failed ValueError: the reason. ")
    assert len(str(environment_line(OSError("x" * 99_999)))) < 1200


def test_a_current_folder_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = [sys.executable, "-m", "sweeps", "report", "x"]
    script = 'rmdir "$PWD" && exec "$@"'
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", script, "sh", *command], cwd=gone, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "unexpected" not in done.stderr


# limits and folders of a local Ray ------------------------------------------------------------------------------------


def test_a_run_that_may_open_too_few_files_is_told_how_many_are_needed(tmp_path: Path) -> None:
    write_study(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "sweeps", "run", "small.yaml"], cwd=tmp_path, env=plain_environment(str(tmp_path)),
        capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: this process may open 64 files, and Ray needs at least {NEEDED}. Raise")
    assert done.stderr.count("\n") == 1


def test_a_low_soft_limit_is_raised() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
        raise_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= NEEDED
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_rays_folder_is_where_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 200)))
    assert place() in ("/tmp", "/var/tmp"), "sockets need a short path"
    for folder, why in (("/proc", "cannot be written"), ("/" + "x" * 50, f"at most {LONGEST_PLACE}: it holds sockets")):
        monkeypatch.setenv("RAY_TMPDIR", folder)
        with pytest.raises(FolderError, match=why) as error:
            place()
        assert "Set RAY_TMPDIR to a folder that can be written" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts folders, as root")
@pytest.mark.parametrize(
    ("mounts", "said"),
    [
        (
            "mount -t tmpfs -o ro t /tmp && mount -t tmpfs -o ro t /var/tmp",
            "/tmp cannot be written (Read-only file system); /var/tmp ",
        ),
        (
            "mount -t tmpfs -o size=1m t /tmp && mount -t tmpfs -o size=1m t /var/tmp",
            "/tmp has 1 MiB free (64 are needed)",
        ),
    ],
)
def test_read_only_and_full_temporary_folders_are_told_before_ray_starts(mounts: str, said: str) -> None:
    code = "from sweeps.cli.exit_codes import guarded; from cluster.connect import prepare; exit(guarded(prepare))"
    script = f'{mounts} && cd / && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", code]
    env = {**plain_environment("/"), "TMPDIR": "/tmp"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.stderr.startswith(("unshare", "mount")) or done.returncode == 127:
        pytest.skip(f"nothing may be mounted here, or Python lies under /tmp: {done.stderr.strip()}")
    assert done.returncode == 2, done.stderr
    assert said in done.stderr.replace("has 0 MiB", "has 1 MiB")
    assert done.stderr.count("\n") == 1
