"""An instruct model of some 200 thousand parameters that writes wordings: trained in seconds to answer two requests."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from small_tokenizers import wrapped

from sweeps.prompts.brief import FEW_SHOT, STRATEGIES, Brief, messages

WORDINGS = {
    FEW_SHOT: ["Does the sender sound upset?\n{{ text }}", "{{ text }}\nIs this an unhappy person, yes or no?"],
    "zero-shot": ["{{ text }} Would that make them upset with us?", "Somebody unhappy wrote this, right? {{ text }}"],
}
AT_ONCE = 2


def make_writer(folder: Path, brief: Brief) -> str:
    """Save model and tokenizer; the first request of each strategy gets an array of its ``WORDINGS``."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    chats = [messages(brief, s, 0, AT_ONCE, 0) for s in STRATEGIES]
    answers = [json.dumps(WORDINGS[s]) for s in STRATEGIES]
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    corpus = [*answers, *(m["content"] for chat in chats for m in chat)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet))
    tokenizer = wrapped(backend)
    tokenizer.save_pretrained(folder)

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=1024, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    pairs = [_pair(tokenizer, chat, answer) for chat, answer in zip(chats, answers, strict=True)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(400):
        losses = [model(ids, labels=labels).loss for ids, labels in pairs]
        torch.stack(losses).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if max(loss.item() for loss in losses) < 0.003:
            break
    model.eval().save_pretrained(folder)
    return str(folder)


def _pair(tokenizer: Any, chat: list[dict[str, str]], answer: str) -> tuple[Any, Any]:
    import torch

    encode = functools.partial(tokenizer, add_special_tokens=False)
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    context = encode(text)["input_ids"]
    completion = [*encode(answer)["input_ids"], tokenizer.eos_token_id]
    labels = [-100] * len(context) + completion
    return torch.tensor([context + completion]), torch.tensor([labels])
