"""An adapter's files read back by peft, on the base model that it was trained on, before they are handed out."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from trainer.errors import UserError
from trainer.model.adapted_base import load_base_for_peft, load_base_of, slot_model_of
from trainer.model.read_back import UnreadLayersError, peft_outputs, read_by_peft
from trainer.model.soundness import probe_rows, slot_gap
from trainer.model.weights import one_line
from trainer.trial import Trial


def check_export(trial: Trial, folder: str, tensors: Mapping[str, Tensor]) -> None:
    """Raises ``UserError`` where peft does not read the adapter in the local ``folder`` as ``tensors``, or answers a
    few rows otherwise than the trial's slot does. Loads the base model once, that of a classifier twice."""
    where = f"trial {trial.id}: its adapter"
    try:
        base = load_base_for_peft(trial)
        rows = probe_rows(base)
        theirs = read_by_peft(base, folder, tensors)
        outputs = peft_outputs(theirs, rows)
    except UnreadLayersError as error:
        raise UserError(f"{where} was not exported: {error}. Train with other axes.lora.target_modules") from None
    except UserError:
        raise
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise UserError(
            f"{where} was not exported, as peft cannot read it ({type(error).__name__}: {one_line(error)}). Train with "
            "other axes.lora.target_modules"
        ) from error
    lm = trial.model.head == "lm"
    model = slot_model_of(theirs.unload() if lm else load_base_of(trial), [(trial, tensors)])
    gap = slot_gap(model, outputs)
    if gap > 1:
        raise UserError(
            f"{where} was not exported, as peft gives other outputs with it than steadytune ({gap:.3g} times what "
            "rounding may do). Train with other axes.lora.target_modules"
        )
