"""The training arms beyond a plain draw: how each chooses or weights prompts, and what it must remember.

``uniform``     PAFT, Algorithm 1 (arXiv 2502.12859): every prompt is as likely.
``curriculum``  Competence-based curriculum (Platanios et al. 2019, arXiv 1903.09848): uniform among the easiest share
                of the pool, which grows with the square root of progress until it is all of it half way through.
                Difficulty is the length of the wording, as one of theirs is a sentence's. Needs no memory.
``importance``  Prompt j with probability 0.8 softmax(L_j / temperature) + 0.2 / P. L_j is the running mean of the
                answer's loss under j. The loss is not reweighted to undo the unequal draws, because hard prompts are
                meant to count more. A review of PAFT names it as future work; mixing in the uniform draw is as in
                prioritised replay (arXiv 1511.05952).
``group_dro``   Group DRO (Sagawa et al. 2020, arXiv 1911.08731, Algorithm 1), prompts as groups: draws stay uniform,
                an example weighs P q_g, and after each step q_g grows by exp(step_size x loss_g), then is normalised.
                The weights of a step come from the steps before it, so that no batch passes the model twice.

Three more do not choose prompts. ``typos`` is ``trainer.data.typos``. ``formats``: the template an example is trained
under is drawn uniformly from a list, as format augmentation does (arXiv 2310.11324 shows the spread between formats).
``views`` and ``consistency``: V wordings of a row in one step, and in the loss the generalised Jensen-Shannon
divergence between the answers' distributions under them (as in AugMix, arXiv 1912.02781, on wordings), teacher-forced,
averaged over the answer's tokens and the step's rows. The gold answer's loss stays. V views take the place of V rows,
so that all arms cost the same tokens a step.

``adversarial`` is in ``trainer.train.adversary``.

What ``importance`` and ``group_dro`` remember is one number per prompt, kept in the checkpoint: a trial that was
paused, moved or killed goes on with the same draws and weights. Given those, every draw is a pure function of
(seed, position).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.data.typos import bare_words
from trainer.data.wording import Prompt
from trainer.trial import Arm

MEMORY_TENSOR = "prompts.memory"  # its name among a checkpoint's tensors
FIRST_SHARE = 0.1  # of the pool a curriculum starts with
WHOLE_AT = 0.5  # share of the steps after which it has all of it
UNIFORM_SHARE = 0.2  # of importance draws, so that no prompt is forgotten and its loss grows stale
DECAY = 0.9  # of a prompt's running loss, per step in which it occurs

PerPrompt = NDArray[np.float64]  # [P]


def easiest_first(prompts: Sequence[Prompt]) -> tuple[int, ...]:
    """Places of ``prompts`` from the fewest words to the most; the pool's order among equals."""
    return tuple(sorted(range(len(prompts)), key=lambda i: len(bare_words(prompts[i].text))))


def competence(progress: float) -> float:
    """Share of the pool that is open at ``progress`` (0 to 1) of the training."""
    t = min(1.0, max(0.0, progress) / WHOLE_AT)
    return math.sqrt(t * (1.0 - FIRST_SHARE**2) + FIRST_SHARE**2)


def open_prompts(n_prompts: int, progress: float) -> int:
    """How many of the easiest prompts are open, at least one."""
    return min(n_prompts, max(1, math.ceil(competence(progress) * n_prompts - 1e-9)))


def distinct(n: int, key: Sequence[int]) -> list[int]:
    """For each draw of ``key`` (any whole numbers) one of ``n`` places, none twice until all are used up."""
    found: list[int] = []
    for at, number in enumerate(key):
        taken = sorted(found[at - at % n :])
        place = number % (n - len(taken))
        for t in taken:  # the place among those not taken
            place += place >= t
        found.append(place)
    return found


class PromptMemory:
    """What ``importance`` and ``group_dro`` keep of each prompt: its running loss in nats (NaN: not met yet), or the
    logarithm of its weight q."""

    of_steps = True  # it learns from the losses of the steps

    def __init__(self, arm: Arm, n_prompts: int):
        self.arm = arm
        self.remembers = arm.choice in ("importance", "group_dro") and n_prompts > 1
        self.n_prompts = n_prompts
        self.reset()

    def reset(self) -> None:
        """As before the first step."""
        start = math.nan if self.arm.choice == "importance" else -math.log(max(1, self.n_prompts))
        self.values: PerPrompt = np.full(self.n_prompts, start)

    def probabilities(self) -> PerPrompt:
        """Of each prompt in the next draw; prompts not met yet count as the mean of the others."""
        known = np.isfinite(self.values)
        if self.arm.choice != "importance" or not known.any():
            return np.full(len(self.values), 1.0 / len(self.values))
        losses = np.where(known, self.values, self.values[known].mean()) / self.arm.temperature
        soft = np.exp(losses - losses.max())
        mixed: PerPrompt = (1.0 - UNIFORM_SHARE) * soft / soft.sum() + UNIFORM_SHARE / len(soft)
        return mixed

    def choose(self, u: float) -> int:
        """The prompt at ``u`` in [0, 1) of the cumulative probabilities."""
        at = int(np.searchsorted(np.cumsum(self.probabilities()), u, side="right"))
        return min(at, len(self.values) - 1)

    def weight(self, prompt: int) -> float:
        """Factor of the loss of an example under ``prompt``; 1 on average over the pool."""
        if self.arm.choice != "group_dro":
            return 1.0
        return float(np.exp(self.values[prompt]) * len(self.values))

    def learn(self, losses: Mapping[int, float]) -> None:
        """Take in the mean answer loss (nats per token) of each prompt of the step just made."""
        for prompt, loss in losses.items():
            if not math.isfinite(loss):
                continue
            if self.arm.choice == "importance":
                before = self.values[prompt]
                self.values[prompt] = loss if math.isnan(before) else DECAY * before + (1.0 - DECAY) * loss
            elif self.arm.choice == "group_dro":
                self.values[prompt] += self.arm.step_size * loss
        if self.arm.choice == "group_dro":
            self.values = _normalised(self.values)

    def restore(self, values: PerPrompt) -> None:
        """Raises ValueError where ``values`` are of another pool."""
        if values.shape != self.values.shape:
            raise ValueError(f"{MEMORY_TENSOR} holds {values.size} prompts, the pool {self.values.size}")
        self.values = values.astype(np.float64)


def _normalised(logs: PerPrompt) -> PerPrompt:
    """Logarithms of weights that sum to 1."""
    top = logs.max()
    normal: PerPrompt = logs - (top + math.log(float(np.exp(logs - top).sum())))
    return normal
