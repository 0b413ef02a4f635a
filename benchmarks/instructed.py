"""What a sweep starts from in practice: a model that does the task under most wordings and worse under some.

The embedded model answers by chance. ``instruct`` teaches it the quickstart's question in the wordings it is given,
with rows that no split holds: all weights, 400 steps, half a minute.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sweeps.embedded.messages import Message

STEPS, BATCH, LR, WARMUP = 400, 16, 1e-3, 30
SHAPES = {"plain": (" no", " yes"), "chat": ("no", "yes")}  # and their answers to label 0 and 1


def instruct(source: Path, folder: Path, wordings: Sequence[str], messages: Sequence[Message]) -> None:
    """The model of ``source`` after that, with its tokenizer, in ``folder``; the same for the same arguments."""
    torch.manual_seed(0)
    rng = random.Random(0)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / WARMUP) * (1 - s / STEPS))
    for _ in range(STEPS):
        sequences = []
        for _ in range(BATCH):
            message, shape = rng.choice(messages), rng.choice(list(SHAPES))
            text = rng.choice(wordings).replace("{{ text }}", message.text)
            if shape == "chat":
                asked = tokenizer.apply_chat_template(
                    [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
                )
            else:
                asked = f"{tokenizer.bos_token}{text}\nAnswer:"
            answer = f"{SHAPES[shape][message.label]}{tokenizer.eos_token}"
            sequences.append([tokenizer(t, add_special_tokens=False)["input_ids"] for t in (asked, answer)])
        pads = [max(len(a) + len(b) for a, b in sequences) - len(a) - len(b) for a, b in sequences]
        ids = torch.tensor([a + b + [0] * n for (a, b), n in zip(sequences, pads, strict=True)])
        mask = torch.tensor([[1] * (len(a) + len(b)) + [0] * n for (a, b), n in zip(sequences, pads, strict=True)])
        labels = torch.tensor([[-100] * len(a) + b + [-100] * n for (a, b), n in zip(sequences, pads, strict=True)])
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
