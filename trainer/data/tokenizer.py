"""The tokenizer of a base model."""

from __future__ import annotations

from typing import Any

from trainer.data.texts import RenderError
from trainer.trial import Model


def load_tokenizer(model: Model) -> Any:
    """The model's fast tokenizer, with a padding token (EOS where it has none of its own that the model knows).
    ``embedding_rows``: the ids that the model knows are below it; None where its config does not say."""
    from transformers import AutoTokenizer  # slow to import

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except Exception as error:  # transformers raises many kinds
        detail = " ".join(str(error).split())[:300]
        raise RenderError(
            f'model.path = "{model.path}": no tokenizer can be loaded ({type(error).__name__}: {detail}). Give '
            "a folder with tokenizer.json, or a hub name"
        ) from error
    if not tokenizer.is_fast:
        raise RenderError(
            f'model.path = "{model.path}": the tokenizer has no fast version. Convert it to tokenizer.json'
        )
    rows = tokenizer.embedding_rows = _embedding_rows(model)
    if tokenizer.pad_token_id is None or (rows is not None and tokenizer.pad_token_id >= rows):
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _embedding_rows(model: Model) -> int | None:
    from transformers import AutoConfig  # slow to import

    try:
        config = AutoConfig.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
        return int(config.get_text_config().vocab_size)
    except Exception:  # a folder with a tokenizer alone; what is wrong with a model's config is told where it is loaded
        return None
