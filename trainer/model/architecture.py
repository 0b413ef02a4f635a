"""Whether a base model can be loaded and trained here. Reads its config alone; runs code that comes with it only where
the study allows that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trainer.errors import UserError
from trainer.trial import Model


def check_architecture(model: Model) -> None:
    """Raises ``UserError`` where the config is of no causal language model that transformers knows, or asks for code
    of its own that the study has not allowed. Loads no weights, and runs none of that code without leave from
    the study."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING  # slow to import

    try:
        config = _config(model)
    except Exception as error:  # transformers raises many kinds
        if "trust_remote_code" in str(error):
            raise _brings_code(model) from error
        detail = " ".join(str(error).split())[:200]
        raise UserError(
            f'model.path = "{model.path}": its config.json cannot be used ({detail}). Give a causal language model '
            "that transformers knows"
        ) from error
    own = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or (own and model.trust_remote_code):
        return
    if own:
        raise _brings_code(model)
    raise UserError(
        f'model.path = "{model.path}" is a {config.model_type} model, which is no causal language model. '
        "Give one that writes text, such as a Llama, Qwen or Mistral"
    )


def check_layers(model: Model, target_modules: Iterable[str]) -> None:
    """Raises ``UserError`` where no adapter can be put on the model as ``target_modules`` say. Call
    ``check_architecture`` first. A model that cannot be built without weights is checked when it is loaded."""
    import torch
    from transformers import AutoModelForCausalLM

    from trainer.model.targets import matching_layers

    try:
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(_config(model), trust_remote_code=model.trust_remote_code)
    except Exception:  # code that comes with a model may raise anything
        return
    try:
        matching_layers(base, target_modules)
    except UserError as error:
        raise UserError(f'model.path = "{model.path}": {error}') from None


def positions(model: Model) -> int | None:
    """The longest sequence that the model was made for, in tokens; None where its config does not say."""
    found = getattr(_config(model).get_text_config(), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def _config(model: Model) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(model.path, revision=model.revision, trust_remote_code=model.trust_remote_code)


def _brings_code(model: Model) -> UserError:
    return UserError(
        f'model.path = "{model.path}" brings code of its own, and model.trust_remote_code = false. Read that code; if '
        "you trust it, set model.trust_remote_code=true, or give a model that transformers knows"
    )
