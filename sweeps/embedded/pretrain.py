"""Train the embedded base model from scratch on the CPU: a BPE tokenizer and a Llama of half a million parameters.

    python -m sweeps.embedded.pretrain [--out sweeps/embedded/model] [--seconds 300]

Prints seconds and loss, and writes a folder that AutoModelForCausalLM and AutoTokenizer load without a network.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sweeps.embedded.corpus import documents

SPECIAL = ["<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
DOCUMENTS, VOCABULARY, CONTEXT = 60_000, 1536, 256
BLOCK, BATCH, LR = 128, 16, 4e-3  # tokens per packed block, blocks per step, peak learning rate
SHAPE: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE (no unknown token), one <s> in front of plain text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", SPECIAL.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=CONTEXT,
        padding_side="right",
        chat_template=CHAT_TEMPLATE,
    )


def pack_documents(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """All documents one after the other, each ended by </s>, cut into blocks: [blocks, BLOCK + 1]."""
    ids = [t for found in tokenizer(texts)["input_ids"] for t in (*found, tokenizer.eos_token_id)]
    blocks = (len(ids) - 1) // BLOCK
    return torch.tensor(ids[: blocks * BLOCK + 1]).unfold(0, BLOCK + 1, BLOCK)


def pretrain(
    tokenizer: PreTrainedTokenizerFast, blocks: torch.Tensor, epochs: float, seconds: float
) -> tuple[LlamaForCausalLM, float]:
    """One run of AdamW with a cosine schedule. Where ``seconds`` do not suffice, the run and its schedule are
    shortened. Returns the model and the mean loss of the last 100 steps in nats per token."""
    torch.manual_seed(0)
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=CONTEXT, tie_word_embeddings=True, **SHAPE, **ids
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.05)
    steps, order, losses, start = int(epochs * len(blocks) / BATCH), random.Random(0), [], time.perf_counter()
    queue: list[int] = []
    for step in range(steps):
        # the finished share of the run, by steps or by time, whichever is larger
        done = max(step / steps, (time.perf_counter() - start) / seconds)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        if len(queue) < BATCH:
            queue = order.sample(range(len(blocks)), len(blocks))
        batch = blocks[[queue.pop() for _ in range(BATCH)]]
        logits = model(batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 200 == 0:
            recent, passed = losses[-100:], time.perf_counter() - start
            print(f"step {step}/{steps}  loss {sum(recent) / len(recent):.3f}  {passed:.0f} s", flush=True)
    return model, sum(losses[-100:]) / len(losses[-100:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="time limit; the result then depends on the machine's speed"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    texts = list(documents(DOCUMENTS))
    tokenizer = make_tokenizer(texts)
    blocks = pack_documents(tokenizer, texts)
    print(f"{len(texts)} documents, {blocks.shape[0] * BLOCK / 1e6:.2f} M tokens, {time.perf_counter() - start:.0f} s")
    model, loss = pretrain(tokenizer, blocks, args.epochs, args.seconds)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out, save_jinja_files=False)
    size = (args.out / "model.safetensors").stat().st_size / 1e6
    print(f"loss {loss:.3f} nats/token, {model.num_parameters() / 1e6:.2f} M parameters, {size:.2f} MB")
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
