"""Whether a base model can be loaded and trained here. Reads its config and its weights' headers alone; runs code that
comes with it only where the study allows that."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from trainer.errors import BaseModelError, UserError
from trainer.model.quantization import check_quantization, is_scale, nothing_to_quantise, stored_bits
from trainer.model.weights import (
    TensorHead,
    check_folder,
    model_folder,
    one_line,
    read_config,
    refuse_impossible_sizes,
    refuse_quantised,
)
from trainer.trial import Model

SHOWN = 3  # names of tensors in a message


def check_architecture(model: Model) -> None:
    """Raises ``UserError`` where the config is of no causal language model that transformers knows, asks for code of
    its own that the study has not allowed, or does not fit the weights' headers. Loads no weights, and runs none of
    that code without leave from the study."""
    folder = model_folder(model)
    heads = {} if folder is None else check_folder(model, folder)
    if not heads:
        refuse_impossible_sizes({} if folder is None else read_config(folder, model.path), {}, model.path)
    config = _checked_config(model)
    refuse_quantised(config.to_dict(), heads, model.path)  # also that of a hub model, and what code has added
    check_quantization(model, config.to_dict(), heads)
    if heads and not _brings_its_code(config):
        _compare(model, config, heads)


def check_layers(model: Model, target_modules: Iterable[str]) -> list[str]:
    """Warnings, of parts that stay frozen whatever is targeted. Raises ``UserError`` where no adapter can be put on the
    model as ``target_modules`` say, where its kind reads later tokens, or where peft would not read its adapters back
    (``trainer.model.rehearsal``). Call ``check_architecture`` first. A model that cannot be built without weights is
    checked when it is loaded."""
    import torch
    from transformers import AutoModelForCausalLM

    from trainer.model.rehearsal import rehearse
    from trainer.model.targets import frozen_experts, matching_layers

    targets = tuple(target_modules)
    config = load_config(model)
    try:
        with torch.device("meta"), quiet_transformers():
            base = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    except Exception:  # code that comes with a model may raise anything
        return []
    try:
        matching_layers(base, targets)
        if not _brings_its_code(config):
            with quiet_transformers():
                rehearse(config, targets)
    except UserError as error:
        raise BaseModelError(f'model.path = "{model.path}": {error}') from None
    if model.quantization != "none":
        head = base.get_output_embeddings()
        if not any(type(m) is torch.nn.Linear and m is not head for m in base.modules()):
            raise nothing_to_quantise(model, type(base).__name__)
    experts = frozen_experts(base)
    if not experts or not targets:
        return []
    total = sum(p.numel() for p in base.parameters())
    held = sum(p.numel() for n, p in base.named_parameters() if p.dim() >= 3 and "expert" in n)
    return [
        f"its routed experts ({', '.join(experts[:SHOWN])}; {100 * held / max(1, total):.0f} % of all weights) are no "
        "linear layers: they carry no adapter and stay as they are"
    ]


def positions(model: Model) -> int | None:
    """The longest sequence that the model was made for, in tokens; None where its config does not say."""
    found = getattr(load_config(model).get_text_config(), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def load_config(model: Model) -> Any:
    """transformers' config of the model. Raises what transformers raises."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(model.path, revision=model.revision, trust_remote_code=model.trust_remote_code)


def _checked_config(model: Model) -> Any:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING  # slow to import

    try:
        config = load_config(model)
        config.to_dict()
    except Exception as error:  # transformers raises many kinds
        if "trust_remote_code" in str(error):
            raise _needs_leave(model) from error
        raise BaseModelError(
            f'model.path = "{model.path}": its config.json cannot be used ({one_line(error)}). Give a causal language '
            "model that transformers knows"
        ) from error
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return config
    if _brings_its_code(config):
        if model.trust_remote_code:
            return config
        raise _needs_leave(model)
    raise BaseModelError(
        f'model.path = "{model.path}" is a {config.model_type} model, which is no causal language model. '
        "Give one that writes text, such as a Llama, Qwen or Mistral"
    )


def _brings_its_code(config: Any) -> bool:
    """Whether transformers would load the model with code that comes with it, not with its own."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config).__module__.startswith("transformers."):
        return False
    return "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})


def _compare(model: Model, config: Any, heads: Mapping[str, TensorHead]) -> None:
    """Load tensors that have shapes and no content, and read transformers' own report of what fits: it renames and
    fuses what older checkpoints hold, and knows which weights are tied."""
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if kind.config_class == config.sub_configs.get("text_config"):  # as transformers' AutoModelForCausalLM does
        config = config.get_text_config()
    try:
        if stored_bits(config.to_dict()):
            config, heads = _unpacked(kind, config, heads)
        empty = {name: torch.empty(head.shape, dtype=torch.float32, device="meta") for name, head in heads.items()}
        with quiet_transformers():
            _, report = kind.from_pretrained(
                None, config=config, state_dict=empty, device_map={"": "meta"}, dtype=torch.float32,
                output_loading_info=True, ignore_mismatched_sizes=True,
            )  # fmt: skip
    except Exception as error:  # transformers and torch raise many kinds for sizes that cannot be
        raise BaseModelError(
            f'model.path = "{model.path}": a {config.model_type} model with this config.json cannot be built '
            f"({type(error).__name__}: {one_line(error)}). Give config and weights of the same model"
        ) from error
    refuse_misfits(model, report)


def _unpacked(kind: Any, config: Any, heads: Mapping[str, TensorHead]) -> tuple[Any, dict[str, TensorHead]]:
    """Config and heads of the model whose weights bitsandbytes has stored, as they were before. A weight of 4 bits has
    lost its shape, and gets that of the config."""
    import torch

    config = copy.deepcopy(config)
    del config.quantization_config
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in kind(config).named_parameters()}
    packed = {name.rpartition(".quant_state.")[0] for name in heads if ".quant_state." in name}
    kept = {name: head for name, head in heads.items() if not is_scale(name)}
    return config, {n: TensorHead(shapes.get(n, h.shape), h.dtype) if n in packed else h for n, h in kept.items()}


def refuse_misfits(model: Model, report: Mapping[str, Any]) -> None:
    """``BaseModelError`` where transformers' report of loading has weights that are missing, of another shape, or that
    the model has no place for."""
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if report["mismatched_keys"]:
        name, held, wanted = sorted(report["mismatched_keys"], key=lambda x: x[0])[0]
        several = len(report["mismatched_keys"])
        what = f"{name} is {list(held)} in its weights and {list(wanted)} by its config.json"
        what += f", and {several - 1} more do not fit" if several > 1 else ""
    elif missing:
        what = f"its weights lack {_some(missing)}, which would be random"
        what += f". They hold {_some(unexpected)} instead" if unexpected else ""
    elif unexpected:
        what = f"its weights hold {_some(unexpected)}, for which a model of this config.json has no place"
    else:
        return
    raise BaseModelError(
        f'model.path = "{model.path}": {what.rstrip(".")}. Give config and weights of the same model, or download it '
        "again"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within it transformers prints neither warnings nor progress bars: what matters of them is an error of ours."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _needs_leave(model: Model) -> UserError:
    return UserError(
        f'model.path = "{model.path}" brings code of its own, and model.trust_remote_code = false. Read that code; if '
        "you trust it, set model.trust_remote_code=true, or give a model that transformers knows"
    )
