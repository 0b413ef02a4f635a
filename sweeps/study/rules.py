"""Rules between the sections of a study: names that must exist, settings that exclude each other.

Each rule comes with the sections that it reads. It is skipped while one of them has an error of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sweeps.study import stages
from sweeps.study.overlay import Path, get
from sweeps.study.problems import PASSWORD, Problem
from sweeps.study.schema import MOST_TRIALS, TOO_MANY_TRIALS
from sweeps.study.values import LARGEST_SEED
from trainer.errors import nearest
from trainer.measure.registry import kind_of

Rule = Callable[[Mapping[str, Any]], Iterator[Problem]]


def disagreements(parts: Mapping[str, Any]) -> Iterator[Problem]:
    """Every contradiction between the sections in ``parts`` (name -> validated section)."""
    for needs, rule in RULES:
        if all(name in parts for name in needs):
            yield from rule(parts)


def _templates_are_known(s: Mapping[str, Any]) -> Iterator[Problem]:
    for i, name in enumerate(s["axes"].template):
        if name not in s["templates"]:
            yield Problem(("axes", "template", i), f"is not one of templates.{nearest(name, s['templates'])}")


def _pools_are_known(s: Mapping[str, Any]) -> Iterator[Problem]:
    for i, name in enumerate(s["axes"].pool):
        if name not in s["pools"].train:
            yield Problem(("axes", "pool", i), f"is not one of pools.train.{nearest(name, s['pools'].train)}")


def _one_length(s: Mapping[str, Any]) -> Iterator[Problem]:
    if s["axes"].steps is not None and s["axes"].epochs is not None:
        yield Problem(("axes", "epochs"), "cannot be combined with axes.steps: both say how long to train. Remove one")


def _words_fit_labels(s: Mapping[str, Any]) -> Iterator[Problem]:
    labels = dict.fromkeys(s["task"].names)
    for name, template in s["templates"].items():
        if template is None:
            continue
        if not s["task"].labels:
            if template.words:
                yield Problem(
                    ("templates", name, "words"),
                    "has no meaning with task.options: the model answers with the option itself. Remove it",
                )
            continue
        for label in template.words:
            if label not in labels:
                yield Problem(("templates", name, "words", label), f"is the word of no label.{nearest(label, labels)}")
        absent = [label for label in labels if label not in template.words]
        if absent:
            yield Problem(("templates", name, "words"), f"has no word for {', '.join(absent)}. Give one for each label")


def _grid_can_be_run(s: Mapping[str, Any]) -> Iterator[Problem]:
    """Counted, not built. Of stages, each tunes a group of axes as a grid."""
    if s["search"].method != "grid":
        return
    axes = s["axes"]
    sizes = {f"axes.lora.{k}": v for k, v in axes.lora} | {f"axes.{k}": v for k, v in axes if k != "lora"}
    every = {name: len(values) for name, values in sizes.items() if isinstance(values, tuple) and len(values) > 1}
    stages = s.get("stages")
    for group in [None] if stages is None else [(*group, "seed") for group in stages.order]:
        counts = {name: n for name, n in every.items() if group is None or name.rpartition(".")[2] in group}
        total = math.prod(counts.values())
        if total <= MOST_TRIALS:
            continue
        product = " x ".join(f"{n:,} of {name}" for name, n in counts.items())
        yield Problem(
            ("axes",),
            f"make a grid of {total:,} trials ({product}), and at most {MOST_TRIALS:,} are allowed: {TOO_MANY_TRIALS}. "
            "Give fewer values, or draw some points with search.method = random or tpe",
            bare=True,
        )


def _ranges_are_drawn(s: Mapping[str, Any]) -> Iterator[Problem]:
    if s["search"].method != "grid":
        return
    axes = s["axes"]
    numeric: list[tuple[Path, Any]] = [(("axes", "lora", k), getattr(axes.lora, k)) for k in ("r", "alpha", "dropout")]
    numeric += [(("axes", k), getattr(axes, k)) for k in ("lr", "steps", "epochs", "plw", "seed")]
    for path, values in numeric:
        if values is not None and not isinstance(values, tuple):
            yield Problem(
                path,
                "is a range, and search.method = grid needs values. Give a list, or use search.method = random or tpe",
            )


def _seeds_are_whole(s: Mapping[str, Any]) -> Iterator[Problem]:
    """A configuration is compared by all of its seeds."""
    seeds, search = s["axes"].seed, s["search"]
    if not isinstance(seeds, tuple) or len(seeds) < 2 or search.trials is None:
        return
    n, trials = len(seeds), search.trials
    if search.method == "tpe":
        yield Problem(
            ("axes", "seed"),
            f"has {n} values, and search.method = tpe chooses one trial at a time. Give one seed; `confirm` trains the "
            "best configurations with more",
        )
    elif trials % n:
        near = " or ".join(str(k) for k in (trials // n * n, -(-trials // n) * n) if k)
        yield Problem(
            ("search", "trials"),
            f"is no multiple of the {n} seeds of axes.seed, and every configuration that is drawn gets all of them. "
            f"Give {near}",
        )


def _confirming_seeds_are_fresh(s: Mapping[str, Any]) -> Iterator[Problem]:
    confirm, used = s["confirm"], s["axes"].seed
    if confirm is None:
        return
    if confirm.top > 1 and confirm.n_seeds < 2:
        yield Problem(
            ("confirm", "seeds"),
            "is one seed, and with confirm.top above 1 some seeds choose and others report. Give 2 or more",
        )
    if not isinstance(confirm.seeds, tuple):
        if confirm.fresh_seeds(used)[-1] > LARGEST_SEED:
            yield Problem(
                ("confirm", "seeds"),
                f"counts on from the largest of axes.seed, and seeds end at {LARGEST_SEED}. Give the seeds themselves",
            )
        return
    for i, seed in enumerate(confirm.seeds):
        if seed in used if isinstance(used, tuple) else used.low <= seed <= used.high:
            yield Problem(
                ("confirm", "seeds", i),
                "is one of axes.seed, by which the configuration was chosen. Give seeds that are not, or how many",
            )


def _enough_to_confirm(s: Mapping[str, Any]) -> Iterator[Problem]:
    """``confirm.top`` against the number of configurations, where that is known."""
    confirm, axes, search = s["confirm"], s["axes"], s["search"]
    if confirm is None:
        return
    if s.get("stages") is not None:
        yield Problem(("confirm",), "cannot be combined with stages, whose last stage has several seeds", bare=True)
        return
    sizes = [v for k, v in axes if k not in ("lora", "seed")] + [v for _, v in axes.lora]
    n = math.prod(len(v) for v in sizes if isinstance(v, tuple) and v)
    if search.trials is not None:
        n = search.trials // (len(axes.seed) if isinstance(axes.seed, tuple) else 1)
    if confirm.top > n:
        yield Problem(("confirm", "top"), f"is more than the {n} configuration{'s' * (n != 1)} of the study. Give {n}")


def _classifier_reads_no_words(s: Mapping[str, Any]) -> Iterator[Problem]:
    if s["model"].head != "classifier":
        return
    if "task" in s and not s["task"].labels:
        yield Problem(("model", "head"), "needs task.labels: a row's own options have no fixed classes. Use head lm")
    if "scoring" in s and s["scoring"].scorer != "labels":
        yield Problem(
            ("scoring", "scorer"), "cannot be used with model.head = classifier, which writes no text. Use labels"
        )
    if "scoring" in s and s["scoring"].decision not in ("raw", "batch"):
        yield Problem(
            ("scoring", "decision"), "corrects for the wording of labels; a classifier has none. Use raw or batch"
        )
    if "axes" in s and s["axes"].plw != (0.0,):
        yield Problem(("axes", "plw"), "must be 0 with model.head = classifier, which has no loss on the prompt")


def _whole_weights_are_sharded(s: Mapping[str, Any]) -> Iterator[Problem]:
    if s["model"].quantization != "none" and s["resources"].zero == 3:
        yield Problem(
            ("model", "quantization"),
            "cannot be combined with resources.zero = 3, which shards whole weights only. Set resources.zero=2, or "
            "model.quantization=none",
        )


def _text_is_parsed(s: Mapping[str, Any]) -> Iterator[Problem]:
    if s["scoring"].scorer == "generate" and s["scoring"].decision != "raw":
        yield Problem(
            ("scoring", "decision"), "compares label probabilities, and scoring.scorer = generate has none. Use raw"
        )


def _labels_are_balanced(s: Mapping[str, Any]) -> Iterator[Problem]:
    if s["training"].balance == "labels" and not s["task"].labels:
        yield Problem(
            ("training", "balance"), "needs task.labels: a row's own options are no labels. Set training.balance=none"
        )


def _rungs_are_sampled(s: Mapping[str, Any]) -> Iterator[Problem]:
    scheduler = s["scheduler"]
    if s["scoring"].sample < 1 and (scheduler.name == "none" or len(scheduler.rungs) == 1):
        yield Problem(
            ("scoring", "sample"),
            "has no effect: only rungs before a trial's last are sampled, and scheduler has none. Remove it",
        )


def _asynchronous_decisions_are_repeated(s: Mapping[str, Any]) -> Iterator[Problem]:
    if s["scheduler"].rule != "asynchronous":
        return
    at = ("scheduler", "rule")
    if s["search"].method == "tpe":
        yield Problem(
            at,
            "decides by the order of reports, and so does search.method = tpe, which then proposes other trials when "
            "the study is run again. Use grid or random, or rule certain",
        )
    if s.get("stages") is not None:
        yield Problem(at, "cannot be combined with stages, whose sweeps are small. Use rule certain")
    if s["scheduler"].name == "none":
        yield Problem(at, "has no effect with scheduler.name = none, which trains every trial to its end. Remove it")


def _precision_is_of_one_search(s: Mapping[str, Any]) -> Iterator[Problem]:
    asked = s["tables"].precision
    if asked is None or asked.whole:
        return
    for key, given in (("stages", s["stages"] is not None), ("arms", bool(s["arms"]))):
        if given:
            yield Problem(
                ("tables", "precision"),
                f"cannot be combined with {key}, which are compared on whole grids. Remove it, or set it to whole",
                bare=True,
            )


def _ranks_read_log_probabilities(s: Mapping[str, Any]) -> Iterator[Problem]:
    if not kind_of(s["task"].metric).ranks:
        return
    at, instead = ("task", "metric"), "Use balanced_accuracy or f1_macro"
    stages = s.get("stages")
    if s["scoring"].scorer == "generate":
        yield Problem(at, f"ranks rows by label probabilities, and scoring.scorer = generate has none. {instead}")
    elif stages is not None and "generate" in stages.heads:
        yield Problem(
            at,
            f"ranks rows by label probabilities, and the head generate has none. {instead}, or leave generate out of "
            "stages.heads",
        )


def _ranks_need_whole_grids(s: Mapping[str, Any]) -> Iterator[Problem]:
    """Without ``tables.precision`` such a study has its grids scored whole (``sweeps.study.precision``)."""
    if not kind_of(s["task"].metric).ranks:
        return
    asked = s["tables"].precision
    for given, whole in (
        (s["scoring"].sample < 1, "scoring.sample=1"),
        (asked is not None and not asked.whole, "tables.precision=whole"),
    ):
        if given:
            yield Problem(
                ("task", "metric"),
                f"cannot be estimated from a sample: a row's rank needs all rows of its prompt. Set {whole}, or use "
                "balanced_accuracy or f1_macro",
            )


def _arms_are_known(s: Mapping[str, Any]) -> Iterator[Problem]:
    arms, axes = s["arms"], s["axes"]
    for i, name in enumerate(axes.arm):
        if name not in arms:
            yield Problem(("axes", "arm", i), f"is not one of arms.{nearest(name, arms)}")
    known = s["pools"].train
    for name, arm in arms.items():
        if arm.pool is None:
            yield Problem(("arms", name, "pool"), f"is missing: one of {', '.join(known)}", bare=True)
        elif arm.pool not in known:
            yield Problem(("arms", name, "pool"), f"is not one of pools.train.{nearest(arm.pool, known)}")
        for i, form in enumerate(arm.formats):
            if form not in s["templates"]:
                yield Problem(("arms", name, "formats", i), f"is not one of templates.{nearest(form, s['templates'])}")
    used = {arms[n].pool for n in axes.arm if n in arms}
    if used and used <= set(known) and used != set(axes.pool):
        yield Problem(("axes", "pool"), "has no effect together with arms, which name their pools. Remove it")


def _arms_make_sense(s: Mapping[str, Any]) -> Iterator[Problem]:
    training = s["training"]
    size = training.batch_size * training.accumulation
    for name, arm in s["arms"].items():
        at = ("arms", name)
        if arm.steps is not None and arm.epochs is not None:
            yield Problem((*at, "epochs"), "cannot be combined with steps: both say how long to train. Remove one")
        if 0 in (arm.steps, arm.epochs) and s["scheduler"].name != "none" and len(s["scheduler"].rungs) > 1:
            key = "steps" if arm.steps == 0 else "epochs"
            yield Problem((*at, key), "needs scheduler.name = none: a trial without steps has no rungs")
        if size % arm.views:
            yield Problem(
                (*at, "views"), f"must divide training.batch_size x training.accumulation = {size} sequences of a step"
            )
        draw = arm.draw or training.draw
        if arm.choice != "uniform" and draw.mode == "load":
            yield Problem(
                (*at, "choice"), "needs draw.mode = dynamic: `load` draws all prompts before any loss is known"
            )
        if arm.choice == "importance" and arm.views > 1:
            yield Problem((*at, "views"), "must be 1 with choice = importance. Use uniform or curriculum")
        if arm.choice == "adversarial" and arm.search_worst > arm.search_candidates:
            yield Problem(
                (*at, "search_worst"), f"is more than the {arm.search_candidates} of search_candidates. Give fewer"
            )
        if arm.consistency > 0 and arm.views == 1:
            yield Problem((*at, "consistency"), "compares the views of a row. Set views to 2 or more")
        searched = [(key, "adversarial") for key in type(arm).model_fields if key.startswith("search_")]
        for key, choice in (("temperature", "importance"), ("step_size", "group_dro"), *searched):
            if arm.choice != choice and getattr(arm, key) != type(arm).model_fields[key].default:
                yield Problem((*at, key), f"has no effect with choice = {arm.choice}; it belongs to {choice}")


RULES: tuple[tuple[tuple[str, ...], Rule], ...] = (
    (("axes", "templates"), _templates_are_known),
    (("axes", "pools"), _pools_are_known),
    (("axes",), _one_length),
    (("task", "templates"), _words_fit_labels),
    (("axes", "search"), _ranges_are_drawn),
    (("axes", "search"), _grid_can_be_run),
    (("axes", "search"), _seeds_are_whole),
    (("axes", "confirm"), _confirming_seeds_are_fresh),
    (("axes", "confirm", "search"), _enough_to_confirm),
    (("model",), _classifier_reads_no_words),
    (("model", "resources"), _whole_weights_are_sharded),
    (("scoring",), _text_is_parsed),
    (("scoring", "scheduler"), _rungs_are_sampled),
    (("scheduler", "search", "stages"), _asynchronous_decisions_are_repeated),
    (("task", "training"), _labels_are_balanced),
    (("task", "scoring"), _ranks_read_log_probabilities),
    (("task", "scoring", "tables"), _ranks_need_whole_grids),
    (("stages",), stages.disagreements),
    (("tables", "stages", "arms"), _precision_is_of_one_search),
    (("arms", "axes", "pools", "templates"), _arms_are_known),
    (("arms", "training", "scheduler"), _arms_make_sense),
)


# files --------------------------------------------------------------------------------------------------------


def named_files(layer: Mapping[str, Any], unread: bool = False) -> Iterator[tuple[Path, str]]:
    """(path in the study, file or name) of everything that a study reads. Train pools that no axis uses are left out,
    unless ``unread``: nobody reads them, and the file of a prompt that is still to be searched need not exist yet."""
    candidates: list[Path] = [("model", "path")]
    for use in ("train", "dev", "test"):
        candidates += [("task", "rows", use), ("task", "rows", use, "path")]
    train = get(layer, ("pools", "train"))
    used = get(layer, ("axes", "pool"))
    names = list(train) if isinstance(train, dict) else []
    if not unread and isinstance(used, list | tuple) and all(isinstance(n, str) and n in names for n in used):
        names = [n for n in names if n in used]
    for place in [("train",), ("dev",), ("test",), ("split",), *(("train", n) for n in names)]:
        candidates += [("pools", *place), ("pools", *place, "file")]
    for path in dict.fromkeys(candidates):
        value = get(layer, path)
        if isinstance(value, str) and value:
            yield path, value


def unsafe_files(layer: Mapping[str, Any]) -> Iterator[Problem]:
    """Paths that would read the environment or carry a password into the run folder."""
    train = get(layer, ("pools", "train"))
    pools = [("dev",), ("test",), *(("train", name) for name in (train if isinstance(train, dict) else ()))]
    preferred: list[Path] = [("pools", *pool, "prefer") for pool in pools]  # also where `file` is missing
    asked = [(path, text) for path in preferred if isinstance(text := get(layer, path), str)]
    for path, text in [*named_files(layer, unread=True), *asked]:
        if "$" in text:
            yield Problem(
                path,
                "names an environment variable, which a study does not read. Write it out, or give it as key=value",
            )
        elif PASSWORD.search(text):
            yield Problem(
                path,
                "carries a password, which would be copied into the run folder. Set it in the environment instead",
                bare=True,
                hidden=True,
            )
