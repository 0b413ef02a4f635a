"""``steadytune init`` as a user meets it: four kinds of data, each with the embedded model, and what is refused."""

import csv
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from sweeps.init.begin import EMBEDDED, Wanted, begin
from sweeps.init.collect import Given
from sweeps.plan.cost import plan
from sweeps.study.load import load_study
from trainer.errors import UserError

WORDS = tuple(
    word
    for line in ("the a big small red blue cat dog house tree", "runs sleeps eats sees near far today again never")
    for word in line.split()
)
LABELS = ("animals", "weather", "money", "sports", "music")


def text(i):
    return " ".join(random.Random(i).choices(WORDS, k=6 + i % 9)) + f" {i}"


def spam_parquet(folder):
    rows = {"label": ["spam" if i % 8 == 0 else "ham" for i in range(200)], "text": [text(i) for i in range(200)]}
    pq.write_table(pa.table(rows), folder / "data.parquet")
    return folder / "data.parquet"


def chat_file(folder):
    lines = []
    for i in range(120):
        turns = [("system", "You filter."), ("user", f"Is this about cats?\n{text(i)}\nAnswer:"), ("assistant", "yes")]
        if i % 3:
            turns[2] = ("assistant", "no")
        lines.append(json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}))
    (folder / "data.jsonl").write_text("\n".join(lines))
    return folder / "data.jsonl"


def chat_parquet(folder):
    records = [json.loads(line) for line in chat_file(folder).open()]
    pq.write_table(pa.Table.from_pylist([*records, {"messages": None}]), folder / "data.parquet")
    return folder / "data.parquet"


def arc_file(folder):
    lines = []
    for i in range(120):
        choices = [{"text": f"{word} {i}", "label": "ABCD"[k]} for k, word in enumerate(WORDS[i % 10 : i % 10 + 4])]
        question = {"stem": f"Which word? {text(i)}", "choices": choices}
        lines.append(json.dumps({"id": f"q{i}", "question": question, "answerKey": "ABCD"[i % 4]}))
    (folder / "data.jsonl").write_text("\n".join(lines))
    return folder / "data.jsonl"


def five_labels(folder):
    with open(folder / "data.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Post text", "category", "length"])
        for i in range(200):
            writer.writerow([text(i), LABELS[i % 5], 6 + i % 9])
        writer.writerow(["", "money", 0])
        writer.writerow(["no label", "", 0])
    return folder / "data.csv"


def made(data, folder, given=None, said=None, **wanted):
    said = [] if said is None else said
    begun = begin(
        str(data), given or Given(), Wanted(**{"model": EMBEDDED, "minutes": 30, **wanted}, folder=folder),
        said.append, lambda question, default: default,
    )  # fmt: skip
    return begun, load_study(begun.study)


@pytest.mark.parametrize("data", [spam_parquet, chat_file, chat_parquet, arc_file, five_labels])
def test_check_passes_the_study_at_once(data, tmp_path):
    begun, study = made(data(tmp_path), tmp_path / "mine")
    assert begun.findings.errors == []
    assert {
        len(yaml.safe_load((tmp_path / "mine/prompts" / f"{s}.yaml").read_text())) > 5 for s in ("dev", "test")
    } == {True}
    assert begun.minutes <= 30
    assert plan(study).seconds / 60 == pytest.approx(begun.minutes, rel=0.1)
    assert study.confirm is not None
    assert study.scheduler.name == "asha"
    assert 8 <= plan(study).trials <= 16


def test_empty_rows_are_counted_and_columns_renamed(tmp_path):
    said = []
    _, study = made(five_labels(tmp_path), tmp_path / "mine", said=said)
    assert "note      2 rows left out: empty" in said
    assert study.task.fields == ("post_text",)
    assert set(study.task.names) == set(LABELS)
    rows = [json.loads(line) for s in ("train", "dev", "test") for line in (tmp_path / f"mine/rows/{s}.jsonl").open()]
    assert len(rows) == 200
    assert {row["post_text"] for row in rows} == {text(i) for i in range(200)}


def test_chat_data_bring_their_wording_and_system_text(tmp_path):
    _, study = made(chat_file(tmp_path), tmp_path / "mine")
    first = next(iter(yaml.safe_load((tmp_path / "mine/prompts/train.yaml").read_text()).values()))
    assert first == "Is this about cats?\n{{ text }}\nAnswer:"
    assert study.templates["chat"].system == "You filter."
    starters = yaml.safe_load((tmp_path / "mine/prompts/test.yaml").read_text()).values()
    assert all(wording.startswith("Is this about cats?\n") for wording in starters)


def test_multiple_choice_is_answered_with_letters_and_keeps_the_right_option(tmp_path):
    _, study = made(arc_file(tmp_path), tmp_path / "mine")
    assert (list(study.task.names), study.task.options) == (["A", "B", "C", "D"], "options")
    rows = [json.loads(line) for line in (tmp_path / "mine/rows/train.jsonl").open()]
    assert all(row["label"] == str(int(row["id"][1:]) % 4) for row in rows)


def test_rows_that_the_model_cannot_read_are_counted_with_what_it_can(tmp_path):
    data = spam_parquet(tmp_path)
    table = pq.read_table(data).to_pylist()
    long = [{"label": "ham", "text": " ".join(text(j) for j in range(90)) + f" {i}"} for i in range(30)]
    pq.write_table(pa.Table.from_pylist(table + long), data)
    said = []
    made(data, tmp_path / "mine", said=said)
    told = [line for line in said if "need more than 256 tokens, which is all that the model reads" in line]
    assert sum(int(line.split()[1]) for line in told) == 30
    said.clear()
    made(data, tmp_path / "shorter", said=said, max_length=128)
    assert any("128 tokens, which is the limit (--max-length gives another)" in line for line in said)


def test_fewer_minutes_make_a_smaller_study(tmp_path):
    data = spam_parquet(tmp_path)
    large, _ = made(data, tmp_path / "large", minutes=1000)
    small, study = made(data, tmp_path / "small", minutes=large.minutes / 2)
    assert small.minutes <= large.minutes / 2
    assert study.axes.steps[0] < load_study(large.study).axes.steps[0]
    said = []
    made(data, tmp_path / "least", said=said, minutes=0.1)
    assert any("--minutes 0.1 is not met" in line for line in said)


def test_own_wordings_are_first_and_alone_in_the_pool_one(tmp_path):
    (tmp_path / "own.txt").write_text("My question about {{ text }}: ham or spam?\n")
    _, study = made(spam_parquet(tmp_path), tmp_path / "mine", wordings=str(tmp_path / "own.txt"))
    prompts = yaml.safe_load((tmp_path / "mine/prompts/train.yaml").read_text())
    assert next(iter(prompts.values())) == "My question about {{ text }}: ham or spam?"
    assert list(study.pools.train["one"].only) == [next(iter(prompts))]


def test_an_uneven_task_is_judged_by_f1_and_trained_on_labels_evenly(tmp_path):
    _, study = made(spam_parquet(tmp_path), tmp_path / "mine")
    assert (study.task.metric, study.training.balance) == ("f1_macro", "labels")
    _, even = made(five_labels(tmp_path), tmp_path / "even")
    assert (even.task.metric, even.training.balance) == ("accuracy", "none")


def test_labels_that_say_nothing_are_told(tmp_path):
    table = {"label": [i % 2 for i in range(100)], "text": [text(i) for i in range(100)]}
    pq.write_table(pa.table(table), tmp_path / "data.parquet")
    said = []
    made(tmp_path / "data.parquet", tmp_path / "mine", said=said)
    assert any("--names 0=WORD,1=WORD" in line for line in said)
    assert any("don't say what is asked" in line for line in said)
    said.clear()
    _, study = made(tmp_path / "data.parquet", tmp_path / "named", Given(names=(("0", "dull"), ("1", "fine"))), said)
    assert list(study.task.names) == ["dull", "fine"]
    assert not any("--names" in line for line in said)


def test_nothing_is_overwritten_and_a_mistake_leaves_nothing(tmp_path):
    data = spam_parquet(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="overwrites nothing"):
        made(data, tmp_path / "mine")
    with pytest.raises(UserError, match=r"model\.path"):
        made(data, tmp_path / "other", model=str(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.parquet", "mine"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Given(names=(("spm", "x"),)), 'Did you mean "spam"'),
        (Given(label="text"), "different values"),
        (Given(options="label"), "--label"),
    ],
)
def test_a_mistake_names_the_value_and_the_nearest(given, says, tmp_path):
    with pytest.raises(UserError, match=says):
        made(spam_parquet(tmp_path), tmp_path / "mine", given)


def test_unlabelled_rows_are_left_out_and_the_split_is_taken_from_train(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for split, numbers in {"train": range(100), "test": range(100, 140)}.items():
        label = [-1 if split == "test" else i % 2 for i in numbers]
        pq.write_table(pa.table({"text": [text(i) for i in numbers], "label": label}), folder / f"{split}.parquet")
    said = []
    _, study = made(folder, tmp_path / "mine", Given(names=(("0", "dull"), ("1", "fine"))), said)
    assert list(study.task.names) == ["dull", "fine"]
    assert "note      40 rows left out of test: unlabelled (-1)" in said
    assert len((tmp_path / "mine/rows/test.jsonl").read_text().splitlines()) == 16


def test_more_options_than_letters_are_refused(tmp_path):
    options = [str(i) for i in range(25)]
    lines = [json.dumps({"question": text(i), "choices": options, "answer": "3"}) for i in range(40)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match="most rows have 25 options"):
        made(tmp_path / "data.jsonl", tmp_path / "mine")


def test_free_answers_are_no_labels(tmp_path):
    lines = [
        json.dumps(
            {"messages": [{"role": "user", "content": text(i)}, {"role": "assistant", "content": text(i + 500)}]}
        )
        for i in range(60)
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"the assistant's last turn.*60 different values"):
        made(tmp_path / "data.jsonl", tmp_path / "mine")


def test_a_folder_with_splits_keeps_them(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for split, numbers in {"train": range(100), "test": range(100, 140)}.items():
        lines = [json.dumps({"text": text(i), "label": "ham" if i % 2 else "spam"}) for i in numbers]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    made(folder, tmp_path / "mine")
    rows = {
        s: [json.loads(line) for line in (tmp_path / f"mine/rows/{s}.jsonl").open()] for s in ("train", "dev", "test")
    }
    assert {row["text"] for row in rows["test"]} == {text(i) for i in range(100, 140)}
    assert len(rows["train"]) + len(rows["dev"]) == 100
