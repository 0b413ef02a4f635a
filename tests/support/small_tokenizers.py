"""Tokenizers small enough to know their ids by heart, of the three families that differ in how text is cut."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIAL = ["<unk>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
CORPUS = [
    "Is this post a complaint? Answer: yes. Answer: no.",
    "the quick brown fox jumps over the lazy dog again and again",
    "Read the text and say whether it is sexist or not sexist, it's what they're asked.",
    "naïve café 12345 67 8 options one two three four",
] * 5


def wrapped(backend: Tokenizer, bos: bool = True) -> Any:
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", backend.token_to_id("<s>"))]
        )
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=CHAT, **names)


WORDS = [
    *SPECIAL,
    "\n",
    " ",
    ":",
    "?",
    "Answer",
    "yes",
    "no",
    "good",
    "bad",
    "Is",
    "it",
    "A",
    "B",
    "C",
    " yes",
    " no",
    " not",
]


def word_level() -> Any:
    """One token per word, space, line break or punctuation mark; ids are positions in ``WORDS``. A space and the
    word after it are one token where the vocabulary has it (" yes", " no", " not")."""
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r" (?:yes|not|no)\b|\w+|\s|[^\w\s]"), "isolated")
    backend.decoder = decoders.Fuse()
    return wrapped(backend)


def _trained(pre: Any, alphabet: list[str]) -> Tokenizer:
    backend = Tokenizer(models.BPE(unk_token=None))
    backend.pre_tokenizer = pre
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    return backend


@cache
def byte_level(pattern: str | None = None, bos: bool = False) -> Any:
    """GPT-2 style; with ``pattern``, split by it first (Llama 3 and Qwen style)."""
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    pre = own if pattern is None else pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), own])
    backend = _trained(pre, pre_tokenizers.ByteLevel.alphabet())
    backend.decoder = decoders.ByteLevel()
    return wrapped(backend, bos)


@cache
def llama_like() -> Any:
    """Llama 2 style: no splitting, a space in front of every text, bytes for unknown characters."""
    import json

    learned = json.loads(_trained(pre_tokenizers.Metaspace(), []).to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *learned["vocab"]]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learned["merges"]]
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return wrapped(backend)
