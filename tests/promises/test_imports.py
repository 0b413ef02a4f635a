"""Which libraries a file may import, and what an import loads. ``make lint`` checks which package imports which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import FILES, PACKAGES, ROOT, loaded_by

LIGHT = {"torch", "transformers", "ray", "deepspeed", "peft"}


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports anywhere in it, inside functions too, with the line."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.lineno
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            name = node.args[0]
            assert isinstance(name, ast.Constant), f"{path}:{node.lineno}: what is imported here cannot be seen"
            yield str(name.value), node.lineno


def test_there_is_something_to_look_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(PACKAGES)
    assert ("ray",) in {(name.split(".")[0],) for path in FILES for name, _ in imported(path)}


def test_no_import_that_the_linter_does_not_see() -> None:
    """Tests put their folders on the path, so there an import of one works; for users it does not. The linter reads no
    ``import_module`` and no import for type checkers."""
    here = {"tests", "benchmarks", *(path.stem for path in (ROOT / "tests" / "support").glob("*.py"))}
    for path in FILES:
        forbidden = here | ({"ray"} if path.is_relative_to(ROOT / "trainer") else set())
        found = [f"line {line}: {name}" for name, line in imported(path) if name.split(".")[0] in forbidden]
        assert not found, path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_unpickles(path: Path) -> None:
    """Run folders, prompts and models may come from anyone, and a pickle can run code."""
    pickling = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    found = [f"{path.name}:{line} imports {name}" for name, line in imported(path) if name.split(".")[0] in pickling]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            unsafe = called in (
                "torch.load",
                "np.load",
                "numpy.load",
                "yaml.load",
                "yaml.unsafe_load",
                "yaml.full_load",
                "eval",
                "exec",
                "pd.read_pickle",
            )
            if unsafe:
                found.append(f"{path.name}:{node.lineno} calls {called}")
            found += [
                f"{path.name}:{node.lineno} turns {k.arg} on"
                for k in node.keywords
                if k.arg in ("trust_remote_code", "allow_pickle")
                and isinstance(k.value, ast.Constant)
                and k.value.value is True
            ]
    assert not found


@pytest.mark.parametrize(
    ("package", "names", "forbidden"),
    [
        (
            "trainer",
            "trial store errors setup data.pools data.wording data.rows data.assets measure.metrics measure.design "
            "measure.estimate measure.grid measure.rung score.decide work",
            LIGHT | {"datasets", "pandas"},
        ),
        (
            "sweeps",
            "tables.robustness statistics.intervals statistics.interaction statistics.binary report.write "
            "report.evidence report.verdict report.method checks.findings display.parts "
            "report.figures report.heat_map report.results_table display.vega display.vega_estimates",
            LIGHT | {"datasets"},
        ),
        (
            "sweeps",
            "study.load trials.from_points trials.assets trials.base_model schedule.asha search.points plan.cost "
            "checks.preflight live.table run",
            LIGHT | {"datasets"},
        ),
        ("cluster", "resources connect hosting.tensorboard", LIGHT),
        ("cluster", "hosting.hosts hosting.trainable", LIGHT - {"ray"}),
        ("trainer", "runner", {"ray"}),
    ],
    ids=[
        "trainer without an accelerator",
        "reading results",
        "deciding what to run",
        "cluster without Ray",
        "placing trials",
        "one accelerator",
    ],
)
def test_what_an_import_costs(package: str, names: str, forbidden: set[str]) -> None:
    assert not loaded_by(*(f"{package}.{name}" for name in names.split())) & forbidden
