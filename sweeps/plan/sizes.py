"""The sizes on which a study's cost depends: how much data it has, and how large its base model is."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sweeps.study.overlay import StudyError
from sweeps.study.study import Study
from sweeps.trials.base_model import tensor_shapes
from sweeps.trials.long_rows import splits_without_long_rows, without_long_rows
from trainer.errors import UserError
from trainer.model.quantization import stored_bits
from trainer.model.weights import read_config

if TYPE_CHECKING:
    from trainer.data.assets import Assets

T = TypeVar("T")
CHARACTERS_PER_TOKEN = 4.0  # English text under the usual vocabularies of 32 to 128 thousand tokens
SAMPLE = 64  # rows and prompts from which the average length is taken
COUNTED = "counted with the tokenizer on a sample"


@dataclass(frozen=True)
class DataSizes:
    """How much data a study has. Lengths are tokens, averaged over prompts and rows."""

    train_rows: int
    dev_rows: int
    test_rows: int
    dev_prompts: int
    test_prompts: int
    prompt_tokens: float
    answer_tokens: float  # one label or option
    answers: float  # labels, or options of a row
    longest: float  # sequence, prompt and answer
    trained_tokens: float = 0.0  # of a training sequence with its answer and stop token; 0: those of prompt and answer
    source: str = COUNTED


@dataclass(frozen=True)
class ModelSize:
    """Counts of parameters; ``linear`` is (name, inputs + outputs) of each layer that may carry an adapter, and
    ``quantizable`` counts the weights of these layers."""

    parameters: int
    body: int  # without embedding and output layer
    layers: int
    hidden: int
    vocabulary: int
    linear: tuple[tuple[str, int], ...]
    quantizable: int = 0
    stored: Literal["none", "int8", "nf4"] = "none"  # how the checkpoint keeps them


def model_size(study: Study) -> ModelSize:
    """From the headers of the weights in a local folder; for a hub model, or one whose weights are packed, from its
    config, without its weights."""
    path = study.model.path
    if os.path.isabs(path) or os.path.isdir(path):
        shapes = tensor_shapes(path)
        if not shapes:
            raise StudyError(f'model.path = "{path}" has no weights: no *.safetensors file is in it')
        if not stored_bits(read_config(Path(path), path)):
            return _size_of_tensors(shapes)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    trust = {"revision": study.model.revision, "trust_remote_code": study.model.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(path, **trust)
    except OSError as error:
        raise StudyError(
            f'model.path = "{path}" is no folder, and cannot be read from the hub ({str(error).splitlines()[0]})'
        ) from None
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config, trust_remote_code=study.model.trust_remote_code)
    size = _size_of_tensors({name: tuple(p.shape) for name, p in built.named_parameters()})
    bits = stored_bits(config.to_dict())
    return dataclasses.replace(size, stored="int8" if bits == 8 else "nf4") if bits else size


def _size_of_tensors(shapes: Mapping[str, tuple[int, ...]]) -> ModelSize:
    """Counts from the shapes of the tensors. Embedding and output layer are the matrices with the embedding's shape."""
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    embedding = next(
        (s for n, s in matrices.items() if "embed_tokens" in n or n.endswith(("wte.weight", "embed_in.weight"))), None
    )
    embedding = embedding or max(matrices.values(), key=math.prod)
    layers = {n.removesuffix(".weight"): s for n, s in matrices.items() if s != embedding and "embed" not in n}
    linear = tuple((n, sum(s)) for n, s in layers.items())
    tables = sum(math.prod(s) for s in matrices.values() if s == embedding)
    total = sum(math.prod(s) for s in shapes.values())
    numbers = {int(part) for name in shapes for part in name.split(".") if part.isdigit()}
    quantizable = sum(map(math.prod, layers.values()))
    return ModelSize(total, total - tables, len(numbers), embedding[1], embedding[0], linear, quantizable)


def planned_sizes(study: Study) -> DataSizes:
    """The size of the data that a run of the study reads. Rows that the study drops are left out; too long ones only
    where the base model's tokenizer can be loaded. Raises ``UserError``."""
    from sweeps.plan.token_counts import model_of, tokenizer_of
    from sweeps.trials.assets import load_assets, task_of, templates_of

    assets = load_assets(study)
    if splits := splits_without_long_rows(study):
        try:
            tokenizer_of(study)
        except UserError:
            return data_sizes(study, assets)
        templates = list(templates_of(study).values())
        assets, _ = without_long_rows(assets, splits, model_of(study), task_of(study.task), templates)
    return data_sizes(study, assets)


def data_sizes(study: Study, assets: Assets) -> DataSizes:
    """The size of the data. Lengths are counted with the base model's tokenizer on a sample of prompts and rows; where
    it cannot be loaded, or cannot render them, they are estimated from characters, and ``source`` says so."""
    from sweeps.plan.token_counts import sampled_lengths, tokenizer_of

    try:
        tokenizer = tokenizer_of(study)
    except UserError:
        return _estimated(study, assets, "estimated as characters / 4: no tokenizer can be loaded")
    try:
        lengths = sampled_lengths(study, assets, tokenizer)
    except UserError:  # `check` says what it is
        return _estimated(study, assets, "estimated as characters / 4: check finds mistakes in prompts or rows")
    known: dict[str, Any] = {**_counts(assets), **dataclasses.asdict(lengths)}
    return DataSizes(**known)


def _counts(assets: Assets) -> dict[str, Any]:
    rows, prompts = assets.rows, assets.pools
    counted = {f"{split}_rows": len(rows[split]) for split in ("train", "dev", "test")}
    return counted | {f"{pool}_prompts": len(prompts[pool]) for pool in ("dev", "test")}


def spread(things: Sequence[T], n: int = SAMPLE) -> Sequence[T]:
    """At most ``n`` of them, evenly over their order."""
    return [things[i * len(things) // n] for i in range(n)] if len(things) > n else things


def _estimated(study: Study, assets: Assets, source: str) -> DataSizes:
    from trainer.data.wording import fill

    rows, prompts = spread(assets.rows["dev"]), spread(assets.pools["dev"])
    templates = [study.templates[name] for name in study.axes.template]
    frames = [len(t.system) + len(t.marker) for t in templates]
    sizes = [
        len(fill(p, rows[i % len(rows)].fields, rows[i % len(rows)].options).text) for i, p in enumerate([*prompts] * 4)
    ]
    words = [w for t in templates for w in t.words.values()] or [o for r in rows for o in r.options]
    prompt = (sum(sizes) / len(sizes) + sum(frames) / len(frames)) / CHARACTERS_PER_TOKEN
    answer = max(1.0, sum(map(len, words)) / len(words) / CHARACTERS_PER_TOKEN)
    longest = min(float(study.task.max_length), max(sizes) / CHARACTERS_PER_TOKEN + answer)
    return DataSizes(
        **_counts(assets),
        prompt_tokens=prompt,
        answer_tokens=answer,
        answers=float(len(study.task.names)) or sum(len(r.options) for r in rows) / len(rows),
        longest=max(longest, prompt + answer),
        source=source,
    )
