"""``stages.json`` is believed only as far as it is what was written (CASES B4: wrong types in a stages file)."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from tampering import HOSTILE

from sweeps.run_folder import stages
from sweeps.run_folder.stages import STAGES_FILE, StageRecords, read
from trainer.errors import UserError
from trainer.files import checksum
from trainer.store import Store

CANDIDATE = {
    "candidate": "plain", "objective": 0.5, "mean": 0.6, "std": 0.1, "min": 0.4, "gap": None, "gap_low": None,
    "gap_high": None, "degenerate": False, "whole": True, "leader": True, "tied": False, "taken": True,
    "trials": ["aa11"],
}  # fmt: skip
STAGE: dict[str, Any] = {
    "stage": 3, "name": "templates", "title": "templates", "key": "k", "seeds": 1, "candidates": [CANDIDATE],
    "taken": "plain", "leader": "plain", "reason": "the only one",
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(tmp_path)
    StageRecords(store).add(STAGE)
    return store


def test_what_was_written_is_read(store: Store) -> None:
    found = read(store)
    assert found is not None
    assert found["stages"] == [STAGE]
    assert StageRecords(store).earlier("k") == STAGE


def test_a_flipped_byte_is_told_and_the_stages_are_decided_anew(store: Store) -> None:
    sound = store.read(STAGES_FILE)
    for at in range(0, len(sound), 7):
        store.write(STAGES_FILE, sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        with pytest.raises(UserError, match=r"stages.json: is not a record of stages \(") as error:
            read(store)
        assert len(str(error.value).splitlines()) == 1
    assert StageRecords(store).earlier("k") is None
    assert not store.exists(STAGES_FILE)
    assert store.exists(STAGES_FILE + ".corrupt")


def test_values_of_other_types_are_told_whoever_wrote_them(store: Store) -> None:
    """Without a checksum, as an earlier version wrote it."""
    content = {"format": 1, "stages": [STAGE], "answer": None}
    store.write(STAGES_FILE, json.dumps(content).encode())
    found = read(store)
    assert found is not None
    assert found["stages"] == [STAGE]
    rng = random.Random(0)
    told = 0
    for key in (*STAGE, *CANDIDATE):
        for value in HOSTILE:
            changed = copy.deepcopy(content)
            holder = changed["stages"][0] if key in STAGE else changed["stages"][0]["candidates"][0]
            if rng.random() < 0.2:
                del holder[key]
            else:
                holder[key] = value
            store.write(STAGES_FILE, json.dumps(changed).encode())
            said = refusal(store)
            told += bool(said)
            assert len(said.splitlines()) <= 1
    assert told > 100


def refusal(store: Store) -> str:
    """Why the file is not read; "" where it is."""
    try:
        read(store)
    except UserError as error:
        return str(error)
    return ""


def test_a_file_of_another_kind_is_a_line(store: Store) -> None:
    for text in (b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"format": 2, "stages": [], "answer": null}'):
        store.write(STAGES_FILE, text)
        with pytest.raises(UserError, match="Remove it and run the study again"):
            stages.read(store)


def test_its_checksum_is_of_its_own_place(store: Store) -> None:
    assert checksum.state(store.read(STAGES_FILE), STAGES_FILE) == "sound"
    assert checksum.state(store.read(STAGES_FILE), "other.json") == "damaged"
