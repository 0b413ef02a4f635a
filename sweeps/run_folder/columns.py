"""The columns of ``trials.parquet``."""

from __future__ import annotations

import pyarrow as pa

# what a trial is for
SEARCH = "search"  # a trial of the axes
CHOOSE = "choose"  # a fresh seed of `confirm`, one of those that choose the winner
REPORT = "report"  # a fresh seed of `confirm`, one of those whose figures are reported
FRESH = (CHOOSE, REPORT)

TRIALS = pa.schema(
    [
        ("trial_id", pa.string()),
        ("template", pa.string()),
        ("r", pa.int32()),
        ("alpha", pa.float64()),
        ("dropout", pa.float64()),
        ("target_modules", pa.string()),
        ("rslora", pa.bool_()),
        ("lr", pa.float64()),
        ("steps", pa.int32()),
        ("plw", pa.float64()),
        ("pool", pa.string()),
        ("seed", pa.int64()),
        ("status", pa.string()),  # finished | stopped | failed; running while the sweep runs
        ("rung", pa.int32()),  # optimizer steps at its last report
        ("reason", pa.string()),
        ("seconds", pa.float64()),  # of its accelerator, training and scoring
        ("tokens", pa.int64()),  # seen in training
        ("state", pa.string()),  # waiting | running | testing | finished | stopped | failed
        ("objective", pa.float64()),  # on the dev prompts, at its last report
        ("stderr", pa.float64()),  # of the objective
        ("degenerate", pa.bool_()),  # gives one answer nearly always, or none that can be read
        ("test_mean", pa.float64()),  # of the metric over the test prompts; null until they are scored
        ("test_std", pa.float64()),
        ("test_degenerate", pa.bool_()),  # gives one answer nearly always on the test prompts
        ("arm", pa.string()),  # name in the study; null where it has no arms
        ("unread", pa.bool_()),  # degenerate because nearly no generated answer could be read
        ("configuration", pa.string()),  # id of the trial without its seed; null in folders of before
        ("dev_std", pa.float64()),  # of the metric over the dev prompts, at its last report
        ("role", pa.string()),  # SEARCH | CHOOSE | REPORT; null, in folders of before, is SEARCH
    ]
)
