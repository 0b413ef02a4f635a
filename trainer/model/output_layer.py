"""The output layer, where it is wanted: float32 logits, and the cross-entropy of target tokens without all logits.

Whatever the model's dtype, products with the output layer are summed and given in float32: rounded to bfloat16, the
logits of two labels are often the same number (lm-evaluation-harness issue 1672), and which label wins is chance.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainer.model.deepspeed_internals import is_sharded
from trainer.model.routing import Routing

PIECE = 2**24  # numbers of a float32 piece: of logits, or of the output layer's weight
# Their causal LM gives what the output layer gives, neither scaled nor capped (transformers models/*/modeling_*.py).
PLAIN = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


class SelectiveHead(nn.Module):
    """The model's own output layer, run on the wanted positions only: [B, L, H] -> float32 [N, V]."""

    def __init__(self, head: nn.Module, routing: Routing):
        super().__init__()
        self.head: Any = head
        self.routing = routing

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.head.weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = self.head.bias
        return bias

    @property
    def frozen(self) -> bool:
        """Whether it is a plain linear layer that nothing trains, all of it at hand."""
        return type(self.head) is nn.Linear and not self.weight.requires_grad and not is_sharded(self.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        if self.routing.rows is not None:
            hidden = self.routing.wanted(hidden)
        if not self.frozen:
            logits: Tensor = self.head(hidden)
            return logits.float()
        found: Tensor = _Logits.apply(hidden, self.weight, self.bias)
        return found


def can_skip_logits(base: Any) -> bool:
    """Whether ``cross_entropy`` with the output layer of ``base`` gives its loss."""
    head = base.get_output_embeddings()
    return type(base).__name__ in PLAIN and isinstance(head, SelectiveHead) and head.frozen


def cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """-log softmax(W h + b)[target] in nats, float32 [N], for hidden [N, H], frozen W [V, H] and targets [N]; a piece
    of the logits at a time. What goes back to ``hidden`` is computed on the way, while a piece is at hand."""
    losses: Tensor = _CrossEntropy.apply(hidden, weight, bias, targets)
    return losses


def float_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W h + b, summed and given in float32 [N, V]."""
    if weight.dtype == torch.float32:
        return nn.functional.linear(hidden, weight, bias)
    if hidden.is_cuda:
        logits = torch.mm(hidden, weight.T, out_dtype=torch.float32)
    else:  # no product of the CPU's takes bfloat16 and gives float32
        wide = hidden.float()
        logits = wide.new_empty(len(hidden), len(weight))
        step = max(1, PIECE // weight.shape[1])
        for start in range(0, len(weight), step):
            torch.mm(wide, weight[start : start + step].float().T, out=logits[:, start : start + step])
    return logits if bias is None else logits.add_(bias)


class _Logits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return float_logits(hidden, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        return grad.to(weight.dtype) @ weight, None, None


class _CrossEntropy(torch.autograd.Function):
    """d loss / d hidden = (softmax - one-hot of the target) W."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        back = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        step = max(1, PIECE // len(weight))
        for start in range(0, len(hidden), step):
            here = slice(start, start + step)
            logits, goal = float_logits(hidden[here], weight, bias), targets[here, None]
            total = torch.logsumexp(logits, dim=-1, keepdim=True)
            losses[here] = (total - logits.gather(1, goal))[:, 0]
            if back is not None:
                p = logits.sub_(total).exp_()
                p.scatter_add_(1, goal, -torch.ones_like(total))
                torch.mm(p.to(weight.dtype), weight, out=back[here])
        if back is not None:
            ctx.save_for_backward(back)
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (back,) = ctx.saved_tensors
        return back * grad[:, None].to(back.dtype), None, None, None
