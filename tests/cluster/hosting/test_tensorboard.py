"""TensorBoard reads what the board writes: with its own accumulator and its own hparams page, and without doubles."""

from __future__ import annotations

import html
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_run import made

from cluster.hosting.tensorboard import BUCKETS, FINAL, FOLDER, METRICS, Board, _literal, chart, write_ends
from trainer.data.wording import Prompt
from trainer.measure.metrics import Objective
from trainer.store import Store, StoreError

AXES = {"lr": 1e-3, "r": 4, "rslora": False, "template": "plain", "target_modules": ("q_proj", "v_proj")}


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
    board.rung("aa11", AXES, record(3, 1, 3), objective(0.6))
    board.rung("aa11", AXES, record(6, 4, 6), objective(0.7))
    run = read(tmp_path / "tensorboard" / "aa11")
    for tag in ("loss/completion", "loss/prompt", "lr", "tokens_per_s", "grad_norm"):
        assert steps(run, tag) == [1, 2, 3, 4, 5, 6]
    assert [e.value for e in run.Scalars("loss/completion")][:2] == [2.0, 1.0]
    assert [e.value for e in run.Scalars("loss/prompt")][:2] == [3.0, 1.5]
    assert [(e.step, round(e.value, 4)) for e in run.Scalars("objective")] == [(3, 0.6), (6, 0.7)]
    assert [(e.step, round(e.value, 4)) for e in run.Scalars("rung/min")] == [(3, 0.5), (6, 0.6)]
    times = [e.wall_time for e in run.Scalars("loss/completion")][:3]
    assert times == sorted(times)
    assert 5 < times[2] - times[0] < 8


def test_a_replayed_rung_writes_no_point_twice(tmp_path: Path) -> None:
    first = Board(Store.open(tmp_path))
    first.rung("aa11", AXES, record(3, 1, 3), objective(0.6))
    first.rung("aa11", AXES, record(6, 4, 6), objective(0.7))
    before = {p.name: p.read_bytes() for p in (tmp_path / "tensorboard" / "aa11").iterdir()}
    resumed = Board(Store.open(tmp_path))
    for args in (record(3, 1, 3), record(6, 4, 6), record(9, 7, 9)):
        resumed.rung("aa11", AXES, args, objective(0.8))
    after = {p.name: p.read_bytes() for p in (tmp_path / "tensorboard" / "aa11").iterdir()}
    assert {n: after[n] for n in before} == before
    assert len(after) == 3
    run = read(tmp_path / "tensorboard" / "aa11")
    assert steps(run, "loss/completion") == list(range(1, 10))
    assert steps(run, "objective") == [3, 6, 9]


def test_other_rungs_of_a_later_study_repeat_no_training_step(tmp_path: Path) -> None:
    board = Board(Store.open(tmp_path))
    board.rung("aa11", AXES, record(6, 1, 6), objective(0.6))
    board.rung("aa11", AXES, record(3, 1, 3), objective(0.5))  # between: its steps are in 6's file
    board.rung("aa11", AXES, record(9, 1, 9), objective(0.7))  # a curve from the trial's start
    run = read(tmp_path / "tensorboard" / "aa11")
    assert sorted(steps(run, "loss/completion")) == list(range(1, 10))
    assert sorted(steps(run, "objective")) == [3, 6, 9]


def test_missing_values_are_left_out_and_a_nan_objective_is_shown(tmp_path: Path) -> None:
    Board(Store.open(tmp_path)).rung("aa11", AXES, record(3, 1, 3, prompt_loss=False), objective(math.nan, math.nan))
    run = read(tmp_path / "tensorboard" / "aa11")
    tags = run.Tags()["scalars"]
    assert "loss/prompt" not in tags
    assert "objective_stderr" not in tags
    assert "loss/completion" in tags
    assert math.isnan(run.Scalars("objective")[0].value)


def test_hparams_page_lists_every_trial_from_its_first_rung(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2
    from tensorboard.plugins.hparams.backend_context import Context
    from tensorboard.plugins.hparams.list_session_groups import Handler

    other = {**AXES, "lr": 1e-2, "template": "chat"}
    board = Board(Store.open(tmp_path))
    board.study({"lr": [1e-2, 1e-3], "template": ["plain", "chat"], "r": [4], "rslora": [False]}, {"plw": (0, 0.5)})
    board.rung("aa11", AXES, record(3, 1, 3), objective(0.6))
    board.rung("aa11", AXES, record(6, 4, 6), objective(0.7))
    board.rung("bb22", other, record(3, 1, 3), objective(0.4))
    write_ends(Store.open(tmp_path), [("aa11", "finished", 6, objective(0.68)), ("bb22", "failed", 3, None)])

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
    assert values["objective"].value == pytest.approx(0.7)
    assert values["objective"].training_step == 6
    assert values["test/mean"].value == pytest.approx(0.73)
    assert values["test/min"].value == pytest.approx(0.58)
    assert [seen[t].sessions[0].status for t in ("aa11", "bb22")] == [api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE]
    assert {m.name.tag for m in experiment.metric_infos} == {*METRICS, *FINAL}
    assert "objective" in METRICS
    domains = {info.name: info for info in experiment.hparam_infos}
    assert [v.number_value for v in domains["lr"].domain_discrete.values] == [1e-3, 1e-2]
    assert (domains["plw"].domain_interval.min_value, domains["plw"].domain_interval.max_value) == (0, 0.5)


def histogram(run: Any, at: int) -> Any:
    from tensorboard.util import tensor_util

    [event] = [e for e in run.Tensors("rung/prompts") if e.step == at]
    return tensor_util.make_ndarray(event.tensor_proto)  # [buckets, 3]: left, right, count


def test_the_metric_of_each_prompt_is_a_histogram_at_every_rung(tmp_path: Path) -> None:
    board = Board(Store.open(tmp_path))
    board.rung("aa11", AXES, record(3, 1, 3), objective(0.6), [0.5, 0.5, 0.6, 0.9])
    board.rung("aa11", AXES, record(6, 4, 6), objective(0.7), [0.7, 0.7, 0.7])
    run = read(tmp_path / "tensorboard" / "aa11")
    assert [e.step for e in run.Tensors("rung/prompts")] == [3, 6]
    first = histogram(run, 3)
    assert first.shape == (BUCKETS, 3)
    assert (first[0, 0], first[-1, 1]) == pytest.approx((0.5, 0.9))
    assert first[:, 2].sum() == 4
    assert [first[0, 2], first[-1, 2]] == [2, 1]
    assert histogram(run, 6)[:, 2].sum() == 3
    kinds = {t: m.plugin_data.plugin_name for t, m in run.summary_metadata.items()}
    assert kinds["rung/prompts"] == "histograms"


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
    Board(store).rung("aa11", AXES, record(3, 1, 3), objective(0.6))
    write_ends(store, [("aa11", "stopped", 3, objective(0.5))])
    before = {p.name: p.read_bytes() for p in (tmp_path / "tensorboard" / "aa11").iterdir()}
    write_ends(store, [("aa11", "stopped", 3, objective(0.5))])
    Board(store).rung("aa11", AXES, record(3, 1, 3), objective(0.6))
    assert {p.name: p.read_bytes() for p in (tmp_path / "tensorboard" / "aa11").iterdir()} == before
    run = read(tmp_path / "tensorboard" / "aa11")
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
        Board(store).rung("aa11", AXES, record(3, 1, 3), objective(0.6), [0.5, 0.9])
        Board(store).prompts({"dev": [Prompt("d1", "{{ text }}?")]})
        from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

        multiplexer = EventMultiplexer()
        multiplexer.AddRunsFromDirectory("s3://runs/demo/tensorboard")
        multiplexer.Reload()
        assert set(multiplexer.Runs()) == {".", "aa11"}
        tags = multiplexer.GetAccumulator("aa11").Tags()
        assert {"objective", "rung/prompts", "loss/completion"} <= set(tags["tensors"])  # scalars too, as it keeps them
    finally:
        server.stop()


def test_a_full_disk_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Store, name: str, data: bytes) -> None:
        raise StoreError(f"{name}: cannot be written (no space left)")

    monkeypatch.setattr(Store, "write", full)
    Board(Store.open(tmp_path)).rung("aa11", AXES, record(3, 1, 3), objective(0.6))
    assert "no space left" in caplog.text
    assert "The sweep goes on" in caplog.text


def test_the_driver_pays_for_neither_torch_nor_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom cluster.hosting.tensorboard import Board\n"
        "from trainer.measure.metrics import Objective\nfrom trainer.store import Store\n"
        f"b = Board(Store.open({str(tmp_path)!r}))\nb.study({{'lr': [1.0]}}, {{}})\n"
        "o = Objective(.5, .1, .5, 0., .5, 1, 2, False, .5, 0.)\n"
        "b.rung('t', {'lr': 1.0}, {'rung': 1, 'seconds': 1, 'curve': {}}, o, [.5, .6])\n"
        "b.prompts({'dev': []})\nb.end('t', 'finished', 1, o)\n"
        "assert not {'torch', 'tensorflow', 'ray'} & {m.split('.')[0] for m in sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert list((tmp_path / "tensorboard" / "t").iterdir())


def test_a_rung_is_charted_from_its_score_rows_alone(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    run, trials = made("labels", tmp_path_factory)
    trial, store = trials[0], Store.open(tmp_path)
    rung = trial.optimization.steps
    chart(store, trial, rung, 1.0)  # no rows, no file
    assert not (tmp_path / FOLDER).exists()
    found = Store.open(run).read_scores(trial.id, rung, "dev")
    assert found is not None
    store.write_scores(trial.id, rung, "dev", *found)
    chart(store, trial, rung, 2.0)
    each = found[0].select(["prompt_id", "correct"]).to_pandas().groupby("prompt_id").correct.mean().to_numpy()
    shown = read(tmp_path / FOLDER / trial.id)
    assert shown.Scalars("rung/mean")[0].value == pytest.approx(each.mean(), abs=1e-6)
    assert shown.Scalars("objective")[0].value == pytest.approx(each.mean() - 2.0 * each.std(ddof=1), abs=1e-6)
    assert not caplog.records
    store.write_scores(trial.id, rung + 1, "dev", found[0].slice(1), found[1])  # a cell is missing: a warning
    chart(store, trial, rung + 1, 2.0)
    assert trial.id in caplog.text
