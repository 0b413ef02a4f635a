"""The learning rate with which to begin, from the base model's config, and what ``axes.lr: auto`` stands for.

LoRA's best rate is about ten times that of full fine-tuning, hardly depends on the rank where adapters are scaled by
alpha / r, and falls with the model's width: 5e-5 x 10 x (2000 / hidden size)^p, with p calibrated by family (Thinking
Machines' tinker-cookbook, ``hyperparam_utils.get_lr``). It is a prior and no result: batch size and length of training
move the best rate too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.study.overlay import StudyError
from sweeps.study.problems import Problem, Problems
from sweeps.study.values import Range
from trainer.errors import UserError

AUTO, CONFIG = "auto", "config.json"
FULL_RATE, LORA_TIMES, WIDTH = 5e-5, 10.0, 2000.0
EXPONENTS = {"Llama": 0.781, "Qwen": 0.0775}
SPREAD = 3.0  # between the rates of ``auto``: batch size and length move the best one by about as much
FAR = 10.0  # times the prior or a tenth of it, beyond which training diverges or hardly begins


@dataclass(frozen=True)
class RatePrior:
    rate: float
    hidden: int
    family: str  # as in ``EXPONENTS``; "" where the rule is not calibrated
    model_type: str

    @property
    def text(self) -> str:
        of = f"hidden size {self.hidden}"
        if self.family:
            return f"{_short(self.rate):g} ({self.family} family, {of})"
        return f"{_short(self.rate):g} ({of}; not calibrated for the family {self.model_type}: Llama's exponent)"

    def is_far(self, rates: tuple[float, ...] | Range[float]) -> bool:
        """Whether every rate of the axis lies more than ``FAR`` times above or below the prior."""
        if isinstance(rates, Range):
            return rates.low > FAR * self.rate or rates.high < self.rate / FAR
        return all(rate > FAR * self.rate or rate < self.rate / FAR for rate in rates)


def rate_prior(config: Mapping[str, Any]) -> RatePrior | None:
    """From a model's ``config.json``; None where it gives no hidden size."""
    config = {**config, **(config.get("text_config") or {})}
    hidden = next((config[k] for k in ("hidden_size", "n_embd", "d_model") if isinstance(config.get(k), int)), 0)
    if hidden <= 0:
        return None
    kind = str(config.get("model_type") or "unknown")
    family = next((name for name in EXPONENTS if kind.startswith(name.lower())), "")
    exponent = EXPONENTS[family or "Llama"]
    return RatePrior(FULL_RATE * LORA_TIMES * (WIDTH / hidden) ** exponent, hidden, family, kind)


def prior_of(path: str, revision: str | None = None) -> RatePrior | None:
    """Of the base model in a folder or under a hub name. Raises ``UserError`` where its config cannot be read."""
    from trainer.model.weights import read_config

    is_folder = os.path.isabs(path) or os.path.isdir(path)
    return rate_prior(read_config(Path(path) if is_folder else _downloaded(path, revision), path))


def _downloaded(name: str, revision: str | None) -> Path:
    """The folder with a hub model's config, which is downloaded where it is not here yet."""
    import huggingface_hub

    for here in (True, False):
        try:
            return Path(huggingface_hub.hf_hub_download(name, CONFIG, revision=revision, local_files_only=here)).parent
        except Exception as error:  # huggingface_hub's errors, and requests', have no common parent
            why = str(error).strip().splitlines()[0]
    raise StudyError(f'model.path = "{name}": its config.json is neither here nor on the hub ({why})')


def auto_rates(path: str, revision: str | None) -> list[float]:
    """What ``axes.lr: auto`` stands for: the prior, a third of it and three times it. The first of them is where a
    study with stages begins. Raises ``UserError``."""
    try:
        prior = prior_of(path, revision)
    except UserError as error:
        raise StudyError(f'axes.lr = "auto" needs the base model\'s config. {error}. Or write the rates') from None
    if prior is None:
        raise StudyError(
            f'axes.lr = "auto" needs the hidden size, and the config of model.path = "{path}" has none. Write the rates'
        )
    return [_short(rate) for rate in (prior.rate, prior.rate / SPREAD, prior.rate * SPREAD)]


def with_rates(layer: dict[str, Any]) -> dict[str, Any]:
    """``layer`` with the rates that its ``axes.lr: auto`` stands for. Raises ``UserError``."""
    axes, model = layer.get("axes"), layer.get("model")
    if not isinstance(axes, dict) or axes.get("lr") != AUTO:
        return layer
    model = model if isinstance(model, dict) else {}
    path = model.get("path")
    if not isinstance(path, str):  # which the schema reports
        return {**layer, "axes": {k: v for k, v in axes.items() if k != "lr"}}
    return {**layer, "axes": {**axes, "lr": auto_rates(path, model.get("revision"))}}


def as_rates(value: Any) -> Any:
    """``auto`` stands alone: in a list it would be a rate that is three."""
    items = value.get("choice") if isinstance(value, dict) else value
    if isinstance(items, list | tuple) and AUTO in items:
        found = "cannot stand in a list: auto is three rates of its own. Write `axes.lr: auto`, or numbers alone"
        raise Problems([Problem((items.index(AUTO),), found)])
    if isinstance(items, str) and items.lower() == AUTO:
        raise Problems([Problem((), f"is not known. Write {AUTO}, or numbers")])
    return value


def _short(rate: float) -> float:
    return float(f"{rate:.2g}")
