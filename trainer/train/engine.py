"""The DeepSpeed engine: one frozen base, S slots, one optimizer step for every resident trial per tick.

With one slot any ZeRO stage and any number of workers works; DeepSpeed then owns the parameters and clips. With
several slots (ZeRO 0, one worker) ``SlotAdamW`` steps and clips each slot on its own. Micro-batches are formed by
a token budget from all residents' examples, so accumulation is not a setting of the engine: the caller owns the
boundary (``managed_gradient_accumulation: false``) and every tick ends in exactly one step.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.model import deepspeed_internals
from trainer.model.checkpointing import checkpoint_layers
from trainer.model.device import join_workers, keep_memory, out_of_memory
from trainer.model.slots import SlotModel
from trainer.model.targets import matching_names
from trainer.setup import Setup, micro_batch_tokens
from trainer.train.batches import Collated, Sample, collate, families, micro_batches
from trainer.train.loss import divergence, token_losses, weighted_loss
from trainer.train.optimizer import SlotAdamW, learning_rate
from trainer.train.step_log import PromptSums, StepLog
from trainer.trial import Lora, Optimization

log = logging.getLogger("steadytune")


class Engine:
    """``tick`` trains, ``slot_model`` scores, ``snapshot``/``restore`` move a trial's state in and out of a slot."""

    def __init__(self, base: torch.nn.Module, setup: Setup, pad_id: int = 0):
        if setup.slots > 1 and setup.zero > 0:
            raise ValueError(f"resources.zero = {setup.zero} needs resources.slots = 1, not {setup.slots}")
        self.setup, self.pad_id = setup, pad_id
        self.device = next(base.parameters()).device
        if setup.threads:
            torch.set_num_threads(setup.threads)
        if self.device.type == "cpu":
            keep_memory()
        join_workers(self.device)
        self.rank, self.world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.slot_model = SlotModel(base, setup.slots, setup.max_r, setup.target_modules, setup.n_labels)
        if setup.checkpointing:
            checkpoint_layers(base)
        # ZeRO 2 and 3 reduce gradients as they come, so all workers must go back through the same graph.
        self.slot_model.routing.may_pick = self.world == 1
        self.plans: list[Optimization | None] = [None] * setup.slots
        self.steps = [0] * setup.slots
        self.token_budget = setup.token_budget or self._usual_tokens()
        self._engine: Any = None
        if setup.zero == 0:
            self._start(clip=0.0)

    def _usual_tokens(self) -> int:
        model = self.slot_model
        return micro_batch_tokens(model.linear_widths * model.base.dtype.itemsize, self.device.type == "cuda")

    # one trial in, one trial out ---------------------------------------------------------------------------

    def place(self, slot: int, lora: Lora, plan: Optimization, seed: int) -> None:
        """Give ``slot`` to a fresh trial."""
        self._seat(slot, lora, plan, seed)
        if self.setup.zero:
            self._start(clip=plan.clip)

    def _seat(self, slot: int, lora: Lora, plan: Optimization, seed: int) -> None:
        if self._engine is not None and self.setup.zero:
            raise ValueError("an engine with ZeRO 1 to 3 serves one trial: its shards cannot be handed on")
        self.slot_model.place(slot, lora, seed)
        self.plans[slot], self.steps[slot] = plan, 0
        if not self.setup.zero:
            self.optimizer.reset(slot, plan)

    def release(self, slot: int) -> None:
        self.plans[slot] = None
        if not self.setup.zero:
            self.optimizer.release(slot)

    def snapshot(self, slot: int, lora: Lora) -> dict[str, Tensor]:
        """The trial's adapter and Adam moments, cut to its rank, as CPU tensors: ``<peft name>``, ``m.…``, ``v.…``."""
        found: dict[str, Tensor] = {}
        for prefix, key in _PARTS.items():
            for name, value in self._full(key, lora).items():
                found[prefix + name] = _cut(name, value[slot], lora.r).detach().cpu().contiguous().clone()
        return found

    def restore(self, slot: int, lora: Lora, plan: Optimization, step: int, tensors: dict[str, Tensor]) -> None:
        """Put a snapshot taken at optimizer step ``step`` back; training goes on exactly where it was."""
        self._seat(slot, lora, plan, seed=0)
        self.steps[slot] = step
        parts = {name: p.data for name, p in self._trained(lora).items()}
        _fill(parts, tensors, "", slot, lora.r)
        if not self.setup.zero:
            _fill(self._full("m", lora), tensors, "m.", slot, lora.r)
            _fill(self._full("v", lora), tensors, "v.", slot, lora.r)
            self.optimizer.steps[slot] = step
            return
        self._start(clip=plan.clip)  # shards the values that are in place by now
        deepspeed_internals.create_moments(self._ds_optimizer, self.optimizer, step)
        for prefix in ("m.", "v."):
            whole = {name: torch.zeros(value.shape) for name, value in parts.items()}
            _fill(whole, tensors, prefix, slot, lora.r)
            self._set_moments(_PARTS[prefix], whole)

    # training -----------------------------------------------------------------------------------------------

    def tick(self, samples: Sequence[Sample]) -> dict[int, StepLog]:
        """One optimizer step of every trial that has samples here. ``samples`` are the whole effective batches of all
        of them together; each worker takes its share. Where memory runs out while gradients are gathered, micro-batches
        are halved and the gradients gathered again. The step itself takes place where its tensors are, and needs
        none."""
        self.slot_model.train(False)  # the base stays in eval mode: adapters bring their own dropout
        while True:
            try:
                sums, tokens, by_prompt = self._gather(samples)
                break
            except RuntimeError as error:
                longest = max(len(s.ids) for s in samples)
                # one worker alone cannot change its batches
                if not out_of_memory(error) or self.token_budget <= longest or self.world > 1:
                    raise
            # Outside the handler, where the failed batch's tensors are no longer held by the traceback.
            self.token_budget = max(longest, self.token_budget // 2)
            log.warning(
                "out of memory: micro-batches of at most %d tokens from here on, same effective batch",
                self.token_budget,
            )
            if self.setup.zero:
                deepspeed_internals.drop_gradients(self._ds_optimizer, self.slot_model.parameters())
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        active = sorted({s.slot for s in samples})
        self._step(active)
        if self.world > 1:
            counted = torch.tensor(tokens, dtype=torch.float64, device=self.device)
            counts = torch.cat([sums, counted[:, None]], dim=1)
            torch.distributed.all_reduce(counts)
            sums, tokens = counts[:, :4], [int(x) for x in counts[:, 4].tolist()]
            if len(by_prompt.sums):
                torch.distributed.all_reduce(by_prompt.sums)
        sums = sums.cpu()
        norms = self._norms()
        logs: dict[int, StepLog] = {}
        for slot in active:
            plan = self.plans[slot]
            assert plan is not None
            c, nc, p, n_p = sums[slot].tolist()
            rate = learning_rate(plan, self.steps[slot])
            self.steps[slot] += 1
            logs[slot] = StepLog(
                self.steps[slot],
                c / nc if nc else math.nan,
                p / n_p if n_p else math.nan,
                rate,
                norms[slot],
                tokens[slot],
                by_prompt.mean_losses(slot),
            )
        return logs

    def _gather(self, samples: Sequence[Sample]) -> tuple[Tensor, list[int], PromptSums]:
        """Gradients of the whole batch. Completion nats and tokens, prompt nats and tokens of each slot, [S, 4]; its
        tokens through the model; completion nats by prompt."""
        if not self.setup.zero:
            self.optimizer.attach_grads()
        # On the device, so that no micro-batch waits for the one before it.
        sums = torch.zeros(self.setup.slots, 4, dtype=torch.float64, device=self.device)
        tokens = [0] * self.setup.slots
        by_prompt = PromptSums(samples, self.device)
        for group in self._share(samples):
            work = collate(group, self.pad_id)
            self._accumulate(work, sums, by_prompt)
            for s in group:
                tokens[s.slot] += len(s.ids)
        return sums, tokens, by_prompt

    def _share(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        """This worker's micro-batches. Every worker runs as many as the busiest: ZeRO 2 and 3 communicate in each,
        so one that ran fewer would leave the others waiting. The extra ones have weight 0. Views of a
        row stay together."""
        parts = families(samples)
        of = [[s for part in parts[r :: self.world] for s in part] for r in range(self.world)]
        shares = [list(micro_batches(share, self.token_budget)) for share in of]
        mine = shares[self.rank]
        weightless = np.zeros_like(samples[0].weights)
        idle = dataclasses.replace(samples[0], weights=weightless, label=-1, prompt=-1, family=-1)
        return mine + [[idle]] * (max(map(len, shares)) - len(mine))

    def _accumulate(self, work: Collated, sums: Tensor, by_prompt: PromptSums) -> None:
        batch = work.batch.to(self.device)
        targets = work.targets.to(self.device)
        if self.slot_model.skips_logits and not work.families:
            losses = self._engine(batch, targets=targets)
        else:
            logits = self._engine(batch)
            losses = token_losses(logits, targets)
        weights, normalizers = work.weights.to(self.device), work.normalizers.to(self.device)
        # DeepSpeed averages gradients over workers; W is that of the whole effective batch, so undo the mean.
        loss = weighted_loss(losses, weights, normalizers)
        for weight, places in work.families:
            loss = loss + weight * divergence(logits[places.to(self.device)])
        self._engine.backward(loss * self.world)
        place = batch.slots[batch.rows] * 4 + torch.where(work.completion, 0, 2).to(self.device)
        values = losses.detach().double()
        sums.view(-1).index_add_(0, place, values).index_add_(0, place + 1, torch.ones_like(values))
        by_prompt.add(work, batch.rows, values)

    # DeepSpeed ---------------------------------------------------------------------------------------------------

    def _start(self, clip: float) -> None:
        import deepspeed

        parameters = [p for _, p in self.slot_model.slot_parameters()]
        zero: dict[str, Any] = {"stage": self.setup.zero}
        if self.setup.zero:
            plan = self.plans[0]
            assert plan is not None
            self.optimizer: Any = torch.optim.AdamW(
                parameters, lr=plan.lr, betas=(plan.beta1, plan.beta2), eps=plan.eps, weight_decay=plan.weight_decay
            )
            if self.setup.offload:
                zero["offload_optimizer"] = {"device": "cpu"}
                if self.setup.zero == 3:
                    zero["offload_param"] = {"device": "cpu"}
        else:
            self.optimizer = SlotAdamW(parameters)
        config = {
            "train_micro_batch_size_per_gpu": 1,  # not used for anything: micro-batches are ours
            "gradient_accumulation_steps": 1,
            "managed_gradient_accumulation": False,
            "gradient_clipping": clip,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
        }
        self._engine, self._ds_optimizer, _, _ = deepspeed.initialize(
            model=self.slot_model, model_parameters=parameters, optimizer=self.optimizer, config=config
        )

    def close(self) -> None:
        """End DeepSpeed's engine; the base stays. Without this, ZeRO 1 to 3 would keep the whole model in memory."""
        if self._engine is None:
            return
        self._engine.destroy()
        deepspeed_internals.forget_models()
        self._engine = self._ds_optimizer = None
        gc.collect()

    def _step(self, active: Sequence[int]) -> None:
        if self.setup.zero:
            plan = self.plans[0]
            assert plan is not None
            for group in self._ds_optimizer.param_groups:
                group["lr"] = learning_rate(plan, self.steps[0])
        else:
            self.optimizer.active = active
        self._engine.step()

    def _norms(self) -> list[float]:
        if not self.setup.zero:
            return self.optimizer.norms.tolist()
        norm = self._engine.get_global_grad_norm()
        return [math.nan if norm is None else float(norm)]

    def _full(self, key: str, lora: Lora) -> dict[str, Tensor]:
        """Values, first or second moments of the stacked parameters that ``lora`` trains, by peft's name; gathered
        whole where ZeRO shards them."""
        named = self._trained(lora)
        if not self.setup.zero:
            views = self.optimizer.views(getattr(self.optimizer, key))
            return {n: v for (n, _), v in zip(self.slot_model.slot_parameters(), views, strict=True) if n in named}
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        found = {}
        for name, p in named.items():
            moment = deepspeed_internals.MOMENTS.get(key)
            value = safe_get_full_optimizer_state(p, moment) if moment else safe_get_full_fp32_param(p)
            shape = deepspeed_internals.whole_shape(p)
            found[name] = torch.zeros(shape) if value is None else value.detach().float().view(shape).clone()
        return found

    def _set_moments(self, key: str, values: dict[str, Tensor]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        named = dict(self.slot_model.slot_parameters())
        for name, value in values.items():
            safe_set_full_optimizer_state(named[name], value.to(self.device), deepspeed_internals.MOMENTS[key])

    def _trained(self, lora: Lora) -> dict[str, torch.nn.Parameter]:
        wanted = set(matching_names(self.slot_model.layers, lora.target_modules)) | {"score"}
        return {
            n: p
            for n, p in self.slot_model.slot_parameters()
            if n.removesuffix(".lora_A").removesuffix(".lora_B") in wanted
        }


_PARTS = {"": "values", "m.": "m", "v.": "v"}  # prefix in a snapshot -> what it holds


def _fill(parts: dict[str, Tensor], tensors: dict[str, Tensor], prefix: str, slot: int, r: int) -> None:
    """Copy one slot's share of a snapshot into stacked tensors."""
    for name, value in parts.items():
        _cut(name, value[slot], r).copy_(tensors[prefix + name])


def _cut(name: str, value: Tensor, r: int) -> Tensor:
    """One slot's share of a stacked parameter without the padding beyond its rank."""
    if name.endswith("lora_A"):
        return value[:r]
    return value[:, :r] if name.endswith("lora_B") else value
