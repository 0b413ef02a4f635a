"""TensorBoard reads what the board writes: with its own accumulator and its own hparams page, and without doubles."""

from __future__ import annotations

import html
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_run import made

from cluster.hosting.tensorboard import (
    BUCKETS,
    FOLDER,
    METRICS,
    Board,
    BoardRun,
    _literal,
    chart,
    write_configurations,
    write_ends,
)
from trainer.data.wording import Prompt
from trainer.measure.metrics import Objective
from trainer.store import Store, StoreError
from trainer.trial import AXES as AXES_OF_TRIALS

AXES = {"lr": 1e-3, "r": 4, "rslora": False, "template": "plain", "target_modules": ("q_proj", "v_proj")}
A, B = BoardRun("aa11", AXES), BoardRun("bb22", {**AXES, "lr": 1e-2, "template": "chat"})


def objective(value: float, stderr: float = 0.02) -> Objective:
    return Objective(value, stderr, value + 0.05, 0.05, value - 0.1, 4, 50, False, 0.5, 0.0)


def record(rung: int, first: int, last: int, prompt_loss: bool = True) -> dict[str, Any]:
    steps = list(range(first, last + 1))
    curve = {
        "step": steps,
        "completion_loss": [2.0 / s for s in steps],
        "prompt_loss": [3.0 / s if prompt_loss else None for s in steps],
        "lr": [1e-3] * len(steps),
        "grad_norm": [0.5] * len(steps),
        "tokens_per_s": [1000.0] * len(steps),
    }
    return {"rung": rung, "seconds": 10.0, "curve": curve}


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "histograms": 0}).Reload()


def steps(accumulator: Any, tag: str) -> list[int]:
    return [e.step for e in accumulator.Scalars(tag)]


def test_scalars_stand_at_their_steps_and_the_losses_apart(tmp_path: Path) -> None:
    board = Board(Store.open(tmp_path))
    board.rung(A, record(3, 1, 3), objective(0.6))
    board.rung(A, record(6, 4, 6), objective(0.7))
    run = read(tmp_path / FOLDER / A.name)
    for tag in ("completion_loss", "prompt_loss", "lr", "tokens_per_s", "grad_norm"):
        assert steps(run, f"train/{tag}") == [1, 2, 3, 4, 5, 6]
    assert [e.value for e in run.Scalars("train/completion_loss")][:2] == [2.0, 1.0]
    assert [e.value for e in run.Scalars("train/prompt_loss")][:2] == [3.0, 1.5]
    assert [(e.step, round(e.value, 4)) for e in run.Scalars("dev/objective")] == [(3, 0.6), (6, 0.7)]
    assert [(e.step, round(e.value, 4)) for e in run.Scalars("under_worst_prompt/dev")] == [(3, 0.5), (6, 0.6)]
    times = [e.wall_time for e in run.Scalars("train/completion_loss")][:3]
    assert times == sorted(times)
    assert 5 < times[2] - times[0] < 8


def test_a_replayed_rung_writes_no_point_twice(tmp_path: Path) -> None:
    first = Board(Store.open(tmp_path))
    first.rung(A, record(3, 1, 3), objective(0.6))
    first.rung(A, record(6, 4, 6), objective(0.7))
    before = {p.name: p.read_bytes() for p in (tmp_path / FOLDER / A.name).iterdir()}
    resumed = Board(Store.open(tmp_path))
    for args in (record(3, 1, 3), record(6, 4, 6), record(9, 7, 9)):
        resumed.rung(A, args, objective(0.8))
    after = {p.name: p.read_bytes() for p in (tmp_path / FOLDER / A.name).iterdir()}
    assert {n: after[n] for n in before} == before
    assert len(after) == 3
    run = read(tmp_path / FOLDER / A.name)
    assert steps(run, "train/completion_loss") == list(range(1, 10))
    assert steps(run, "dev/objective") == [3, 6, 9]


def test_other_rungs_of_a_later_study_repeat_no_training_step(tmp_path: Path) -> None:
    board = Board(Store.open(tmp_path))
    board.rung(A, record(6, 1, 6), objective(0.6))
    board.rung(A, record(3, 1, 3), objective(0.5))  # between: its steps are in 6's file
    board.rung(A, record(9, 1, 9), objective(0.7))  # a curve from the trial's start
    run = read(tmp_path / FOLDER / A.name)
    assert sorted(steps(run, "train/completion_loss")) == list(range(1, 10))
    assert sorted(steps(run, "dev/objective")) == [3, 6, 9]


def test_missing_values_are_left_out_and_a_nan_objective_is_shown(tmp_path: Path) -> None:
    Board(Store.open(tmp_path)).rung(A, record(3, 1, 3, prompt_loss=False), objective(math.nan, math.nan))
    run = read(tmp_path / FOLDER / A.name)
    tags = run.Tags()["scalars"]
    assert "train/prompt_loss" not in tags
    assert "uncertainty/dev_objective_stderr" not in tags
    assert "train/completion_loss" in tags
    assert math.isnan(run.Scalars("dev/objective")[0].value)


def test_hparams_page_lists_every_trial_from_its_first_rung(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2
    from tensorboard.plugins.hparams.backend_context import Context
    from tensorboard.plugins.hparams.list_session_groups import Handler

    board = Board(Store.open(tmp_path))
    board.study({"lr": [1e-2, 1e-3], "template": ["plain", "chat"], "r": [4], "rslora": [False]}, {"plw": (0, 0.5)})
    board.rung(A, record(3, 1, 3), objective(0.6))
    board.rung(A, record(6, 4, 6), objective(0.7))
    board.rung(B, record(3, 1, 3), objective(0.4))
    write_ends(Store.open(tmp_path), [(A, "finished", 6, objective(0.68)), (B, "failed", 3, None)])

    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(tmp_path / "tensorboard"))
    multiplexer.Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(tmp_path))))
    request = api_pb2.ListSessionGroupsRequest(slice_size=10, start_index=0)
    request.allowed_statuses.extend(
        [api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_RUNNING, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE]
    )
    ctx = RequestContext()
    metadata = context.hparams_metadata(ctx, "")
    experiment = context.experiment_from_metadata(ctx, "", True, metadata, [])
    request.col_params.extend(api_pb2.ColParams(hparam=info.name) for info in experiment.hparam_infos)
    groups = Handler(ctx, context, "", request).run().session_groups
    seen = {g.name: g for g in groups}
    assert set(seen) == {"aa11", "bb22"}
    assert seen["bb22"].hparams["lr"].number_value == 1e-2
    assert seen["bb22"].hparams["template"].string_value == "chat"
    assert seen["aa11"].hparams["rslora"].bool_value is False
    assert seen["aa11"].hparams["target_modules"].string_value == "q_proj, v_proj"
    values = {m.name.tag: m for m in seen["aa11"].metric_values}
    assert values["dev/objective"].value == pytest.approx(0.7)
    assert values["dev/objective"].training_step == 6
    assert values["test/mean"].value == pytest.approx(0.73)
    assert [seen[t].sessions[0].status for t in ("aa11", "bb22")] == [api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE]
    assert [m.name.tag for m in experiment.metric_infos] == list(METRICS)
    assert METRICS == ("dev/objective", "dev/mean", "dev/std", "test/mean", "test/std")
    domains = {info.name: info for info in experiment.hparam_infos}
    assert [v.number_value for v in domains["lr"].domain_discrete.values] == [1e-3, 1e-2]
    assert (domains["plw"].domain_interval.min_value, domains["plw"].domain_interval.max_value) == (0, 0.5)


def test_what_matters_comes_first_in_tensorboards_order(tmp_path: Path) -> None:
    """It sorts the groups, which are what stands before the slash, by name, and the tags within a group."""
    board = Board(Store.open(tmp_path))
    board.rung(A, record(3, 1, 3), objective(0.6), [0.5, 0.9])
    board.end(A, "finished", 3, objective(0.6))
    tags = read(tmp_path / FOLDER / A.name).Tags()
    shown = sorted(tag for kind in ("scalars", "tensors") for tag in tags[kind] if not tag.startswith("_hparams_"))
    assert shown[:5] == ["dev/mean", "dev/objective", "dev/std", "test/mean", "test/std"]
    assert set(shown[:5]) == set(METRICS)
    assert len(shown) == 5 + 5 + 4


def test_a_run_is_named_by_the_axes_that_vary_its_seed_and_its_id(tmp_path_factory: pytest.TempPathFactory) -> None:
    _, trials = made("labels", tmp_path_factory)
    names = {BoardRun.of(trial, ("target_modules", "rslora")).name for trial in trials}
    assert names == {
        f"target_modules={modules},rslora={t.lora.rslora},seed=0,{t.id}"
        for t in trials
        for modules in ["q_proj-v_proj" if "q_proj" in t.lora.target_modules else "all-linear"]
    }
    assert BoardRun.of(trials[0], ("rslora",)).axes == {"rslora": trials[0].lora.rslora}
    together = BoardRun.over_seeds(trials[0], ("lr", "seed"))
    assert together.axes == {"lr": 0.01, "seed": "all"}
    assert together.name == f"lr=0.01,seed=all,{trials[0].configuration}"


@pytest.mark.parametrize("value", ["../x", "a/b\\c:d*?", "例\n", "=,", "n" * 300, None, math.nan, 1e6, -1e-5, True])
def test_a_name_is_safe_for_every_file_system_and_ends_with_the_id(value: Any) -> None:
    name = BoardRun("3f2a91bc7d10", dict.fromkeys(AXES_OF_TRIALS, value), 7).name
    assert re.fullmatch(r"template=[A-Za-z0-9_.+=,-]{1,240}", name)
    assert name.endswith(",3f2a91bc7d10")


def test_a_trial_keeps_one_run_when_a_study_of_before_or_with_other_axes_goes_on(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The runs under other names go, and those of other trials stay. What is deleted is written again from the score
    files, as each rung is replayed."""
    run, trials = made("labels", tmp_path_factory)
    trial, store = trials[0], Store.open(tmp_path)
    found = Store.open(run).read_scores(trial.id, trial.optimization.steps, "dev")
    assert found is not None
    store.write_scores(trial.id, trial.optimization.steps, "dev", *found)
    before = [trial.id, f"lr=0.01,seed=0,{trial.id}"]
    for folder in (*before, trials[1].id, f"configuration-{trial.configuration}"):
        store.write(f"{FOLDER}/{folder}/events.out.tfevents.0000000015.15", b"")
    now = BoardRun.of(trial, ("rslora",))
    chart(store, trial, trial.optimization.steps, 1.0, ("rslora",))
    names = store.folders(FOLDER)
    assert names == sorted([now.name, trials[1].id, f"configuration-{trial.configuration}"])
    assert read(tmp_path / FOLDER / now.name).Scalars("dev/mean")
    write_ends(store, [(BoardRun.of(trials[1], ("rslora",)), "failed", 0, None)])
    tests = {t.id: objective(0.5) for t in (trial, replace(trial, seed=1))}
    write_configurations(store, [trial, replace(trial, seed=1)], tests, ("rslora", "seed"))
    ids = [name.rsplit(",", 1)[-1] for name in store.folders(FOLDER)]
    assert sorted(ids) == sorted([trial.id, trials[1].id, trial.configuration])


def histogram(run: Any, at: int) -> Any:
    from tensorboard.util import tensor_util

    [event] = [e for e in run.Tensors("under_each_prompt/dev") if e.step == at]
    return tensor_util.make_ndarray(event.tensor_proto)  # [buckets, 3]: left, right, count


def test_the_metric_of_each_prompt_is_a_histogram_at_every_rung(tmp_path: Path) -> None:
    board = Board(Store.open(tmp_path))
    board.rung(A, record(3, 1, 3), objective(0.6), [0.5, 0.5, 0.6, 0.9])
    board.rung(A, record(6, 4, 6), objective(0.7), [0.7, 0.7, 0.7])
    run = read(tmp_path / FOLDER / A.name)
    assert [e.step for e in run.Tensors("under_each_prompt/dev")] == [3, 6]
    first = histogram(run, 3)
    assert first.shape == (BUCKETS, 3)
    assert (first[0, 0], first[-1, 1]) == pytest.approx((0.5, 0.9))
    assert first[:, 2].sum() == 4
    assert [first[0, 2], first[-1, 2]] == [2, 1]
    assert histogram(run, 6)[:, 2].sum() == 3
    kinds = {t: m.plugin_data.plugin_name for t, m in run.summary_metadata.items()}
    assert kinds["under_each_prompt/dev"] == "histograms"


def shown(run: Any, tag: str) -> str:
    """What TensorBoard's text page puts into the browser."""
    from tensorboard.plugins.text.text_plugin import text_array_to_html
    from tensorboard.util import tensor_util

    [event] = run.Tensors(tag)
    return str(text_array_to_html(tensor_util.make_ndarray(event.tensor_proto), True))


def test_prompts_are_listed_by_name_and_shown_as_they_stand(tmp_path: Path) -> None:
    board, store = Board(Store.open(tmp_path)), Store.open(tmp_path)
    wording = "**Is** {{ text }} | <b>good</b>?\n![x](http://elsewhere/x.png) <script>alert(1)</script> a_b_c"
    pools = {
        "train.many": [Prompt("t1", "{{ text }} ok?")],
        "dev": [Prompt("d_1", wording)],
        "test": [Prompt("x1", "?")],
    }
    board.prompts(pools)
    board.prompts(pools)  # a resume
    run = read(tmp_path / "tensorboard")
    assert set(run.Tags()["tensors"]) == {"prompts/train.many", "prompts/dev", "prompts/test"}
    page = shown(run, "prompts/dev")
    assert not re.search(r"<(?!/?(table|thead|tbody|tr|th|td|br)\b)", page)
    cells = [html.unescape(re.sub(r"<br ?/?>", "\n", c)) for c in re.findall(r"<td>(.*?)</td>", page, re.DOTALL)]
    assert cells == ["d_1", wording]
    board.prompts({**pools, "dev": [Prompt("d2", "new")]})
    assert len([n for n in store.names("tensorboard") if ".prompts." in n]) == 1, "of two, TensorBoard shows the older"
    assert "new" in shown(read(tmp_path / "tensorboard"), "prompts/dev")


@given(st.text(max_size=60))
@example("| a |\n|--|\n* b\r\n1. c\\|")
@example("<img src=x onerror=y> &amp; &#60;b&#62; [a](http://b)")
def test_no_wording_becomes_markup(text: str) -> None:
    """Nothing of it is left that Markdown or HTML would act on: letters, digits, spaces and references alone."""
    literal = _literal(text)
    assert re.fullmatch(r"(?:[^\W_]|[ ]|&#\d+;|<br>)*", literal)
    lines = re.split(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", text)
    by_number = re.sub(r"&#(\d+);", lambda m: chr(int(m[1])), literal.replace("<br>", "\n"))
    assert by_number == "\n".join(lines)


def test_how_a_trial_ended_is_written_once(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    Board(store).rung(A, record(3, 1, 3), objective(0.6))
    write_ends(store, [(A, "stopped", 3, objective(0.5))])
    before = {p.name: p.read_bytes() for p in (tmp_path / FOLDER / A.name).iterdir()}
    write_ends(store, [(A, "stopped", 3, objective(0.5))])
    Board(store).rung(A, record(3, 1, 3), objective(0.6))
    assert {p.name: p.read_bytes() for p in (tmp_path / FOLDER / A.name).iterdir()} == before
    run = read(tmp_path / FOLDER / A.name)
    assert [(e.step, round(e.value, 4)) for e in run.Scalars("test/mean")] == [(3, 0.55)]


def test_tensorboard_reads_a_run_folder_on_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written through pyarrow, read by TensorBoard through boto3, which AWS_ENDPOINT_URL sends to another server."""
    pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_EC2_METADATA_DISABLED": "true",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        import boto3

        boto3.client("s3").create_bucket(Bucket="runs")
        store = Store.open(f"s3://runs/demo?scheme=http&endpoint_override={host}%3A{port}&region=us-east-1")
        Board(store).rung(A, record(3, 1, 3), objective(0.6), [0.5, 0.9])
        Board(store).prompts({"dev": [Prompt("d1", "{{ text }}?")]})
        from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

        multiplexer = EventMultiplexer()
        multiplexer.AddRunsFromDirectory("s3://runs/demo/tensorboard")
        multiplexer.Reload()
        assert set(multiplexer.Runs()) == {".", A.name}
        tags = multiplexer.GetAccumulator(A.name).Tags()
        assert {"dev/objective", "under_each_prompt/dev", "train/completion_loss"} <= set(
            tags["tensors"]
        )  # scalars too, as it keeps them
    finally:
        server.stop()


def test_a_full_disk_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Store, name: str, data: bytes) -> None:
        raise StoreError(f"{name}: cannot be written (no space left)")

    monkeypatch.setattr(Store, "write", full)
    Board(Store.open(tmp_path)).rung(A, record(3, 1, 3), objective(0.6))
    assert "no space left" in caplog.text
    assert "The sweep goes on" in caplog.text


def test_the_driver_pays_for_neither_torch_nor_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom cluster.hosting.tensorboard import Board, BoardRun\n"
        "from trainer.measure.metrics import Objective\nfrom trainer.store import Store\n"
        f"b = Board(Store.open({str(tmp_path)!r}))\nb.study({{'lr': [1.0]}}, {{}})\n"
        "o = Objective(.5, .1, .5, 0., .5, 1, 2, False, .5, 0.)\n"
        "t = BoardRun('t', {'lr': 1.0})\nb.rung(t, {'rung': 1, 'seconds': 1, 'curve': {}}, o, [.5, .6])\n"
        "b.prompts({'dev': []})\nb.end(t, 'finished', 1, o)\n"
        "assert not {'torch', 'tensorflow', 'ray'} & {m.split('.')[0] for m in sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert len(list((tmp_path / FOLDER / "lr=1,seed=0,t").iterdir())) == 2


def test_a_rung_is_charted_from_its_score_rows_alone(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    run, trials = made("labels", tmp_path_factory)
    trial, store = trials[0], Store.open(tmp_path)
    rung = trial.optimization.steps
    chart(store, trial, rung, 1.0, ("rslora",))  # no rows, no file
    assert not (tmp_path / FOLDER).exists()
    found = Store.open(run).read_scores(trial.id, rung, "dev")
    assert found is not None
    store.write_scores(trial.id, rung, "dev", *found)
    chart(store, trial, rung, 2.0, ("rslora",))
    each = found[0].select(["prompt_id", "correct"]).to_pandas().groupby("prompt_id").correct.mean().to_numpy()
    shown = read(tmp_path / FOLDER / BoardRun.of(trial, ("rslora",)).name)
    assert shown.Scalars("dev/mean")[0].value == pytest.approx(each.mean(), abs=1e-6)
    assert shown.Scalars("dev/objective")[0].value == pytest.approx(each.mean() - 2.0 * each.std(ddof=1), abs=1e-6)
    assert not caplog.records
    store.write_scores(trial.id, rung + 1, "dev", found[0].slice(1), found[1])  # a cell is missing: a warning
    chart(store, trial, rung + 1, 2.0, ("rslora",))
    assert trial.id in caplog.text
