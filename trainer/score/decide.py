"""From label log-probabilities to an answer. numpy only.

With ll[i, y] the summed log-probability of label y's tokens after request i's context:

raw         argmax ll
per_token   argmax ll / tokens(y)                      lighteval, LogProbTokenNorm
per_byte    argmax ll / UTF-8 bytes(y)                 lm-eval, acc_bytes
pmi         argmax ll - ll(y | no row, no prompt)      lm-eval, acc_mutual_info; Holtzman et al. 2021 with the bare
                                                       answer marker as domain premise
contextual  argmax p(y) / mean_c p_c(y)                Zhao et al. 2021 (W = diag(p_cf)^-1, b = 0); p renormalised over
                                                       the labels, c the content-free inputs
batch       argmax ll - mean_i ll[i] (+ log prior)     Zhou et al. 2023 (2309.17249), the mean over one prompt's rows

Batch calibration pushes towards uniform answers and so fails on imbalanced classes; ``prior`` (the dev rows' label
shares) puts the imbalance back. Whether ll is renormalised over the labels first makes no difference to it: that
moves a row's labels, and the mean's, by the same amount. Ties go to the first label; a request with a NaN, or without a
finite value, gives -1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from trainer.errors import nearest

Ragged = Sequence[np.ndarray] | np.ndarray


def decide(
    rule: str,
    logprobs: Ragged,
    n_tokens: Ragged | None = None,
    n_bytes: Ragged | Sequence[Sequence[int]] | None = None,
    *,
    baseline: Ragged | None = None,
    prompts: Sequence[str] | None = None,
    prior: Sequence[float] | None = None,
) -> np.ndarray:
    """Index of the answer to each of n requests, int64 [n]; -1 where a value is NaN or none is finite.

    The highest of what ``decision_values`` gives, which says what the arguments are."""
    adjusted = decision_values(rule, logprobs, n_tokens, n_bytes, baseline=baseline, prompts=prompts, prior=prior)
    return np.array([_argmax(x) for x in adjusted], dtype=np.int64)


def decision_values(
    rule: str,
    logprobs: Ragged,
    n_tokens: Ragged | None = None,
    n_bytes: Ragged | Sequence[Sequence[int]] | None = None,
    *,
    baseline: Ragged | None = None,
    prompts: Sequence[str] | None = None,
    prior: Sequence[float] | None = None,
) -> list[np.ndarray]:
    """The numbers that ``rule`` takes the highest of, float64 [k_i] for each of n requests.

    ``logprobs``, ``n_tokens``, ``n_bytes``: [n, k], or n arrays of their own lengths. ``baseline``: [n, k]
    unconditional log-probabilities for pmi, [n, c, k] those of the c content-free inputs for
    contextual. ``prompts`` [n] tells which requests are calibrated together by batch (all, when it is None); ``prior``
    [k] are label shares. A rule ignores what it does not use and raises ValueError where something it needs is missing
    or does not fit.
    """
    if rule not in RULES:
        raise ValueError(f'scoring.decision = "{rule}" is not known.{nearest(rule, RULES)}')
    needs = {
        "per_token": ("n_tokens", n_tokens),
        "per_byte": ("n_bytes", n_bytes),
        "pmi": ("baseline", baseline),
        "contextual": ("baseline", baseline),
    }
    if rule in needs and needs[rule][1] is None:
        raise ValueError(f'scoring.decision = "{rule}" needs {needs[rule][0]}')
    rows = [np.asarray(x, dtype=np.float64) for x in logprobs]
    if rule == "batch":
        adjusted = _batch(rows, prompts, prior)
    else:
        other = needs[rule][1] if rule in needs else rows
        assert other is not None
        if len(other) != len(rows):
            raise ValueError(
                f'scoring.decision = "{rule}": {len(rows)} requests, but {len(other)} entries of {needs[rule][0]}'
            )
        adjusted = [RULES[rule](x, np.asarray(o, dtype=np.float64)) for x, o in zip(rows, other, strict=True)]
    return adjusted


def _argmax(values: np.ndarray) -> int:
    """-1 where a value is NaN, or where none is finite: no label is better than another."""
    return -1 if not len(values) or not np.isfinite(values.max()) else int(values.argmax())


def _raw(logprobs: np.ndarray, _: np.ndarray) -> np.ndarray:
    return logprobs


def _divided(logprobs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    if (lengths <= 0).any():
        raise ValueError(f"an option has length {lengths.min():g}; lengths are at least 1")
    return logprobs / lengths


def _pmi(logprobs: np.ndarray, unconditional: np.ndarray) -> np.ndarray:
    return logprobs - unconditional


def _contextual(logprobs: np.ndarray, content_free: np.ndarray) -> np.ndarray:
    p = np.exp(content_free - content_free.max(axis=-1, keepdims=True))
    return logprobs - np.log((p / p.sum(axis=-1, keepdims=True)).mean(axis=0))


def _batch(
    rows: Sequence[np.ndarray], prompts: Sequence[str] | None, prior: Sequence[float] | None
) -> list[np.ndarray]:
    if not rows:
        return []
    if len({len(x) for x in rows}) > 1:
        raise ValueError(
            'scoring.decision = "batch" needs the same labels in every row. '
            "Use pmi or contextual where rows bring their own options"
        )
    table = np.stack(rows)
    shift = np.zeros(table.shape[1])
    if prior is not None:
        share = np.asarray(prior, dtype=np.float64)
        if share.shape != shift.shape or (share < 0).any() or not share.sum() > 0:
            raise ValueError(f"prior = {list(prior)}: give one share per label, {table.shape[1]} in all")
        with np.errstate(divide="ignore"):
            shift = np.log(share / share.sum())
    names = np.asarray(prompts if prompts is not None else [""] * len(rows))
    adjusted = table + shift
    whole = ~np.isnan(table).any(axis=1)
    for name in np.unique(names):
        members = names == name
        if (members & whole).any():
            adjusted[members] -= table[members & whole].mean(axis=0)
    return list(adjusted)


RULES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "raw": _raw,
    "per_token": _divided,
    "per_byte": _divided,
    "pmi": _pmi,
    "contextual": _contextual,
    "batch": _raw,  # looks at all of a prompt's requests at once: see ``_batch``
}
