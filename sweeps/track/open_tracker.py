"""Opens a tracker by its name on the command line."""

from __future__ import annotations

import importlib.util

from sweeps.track.tracker import Tracker
from trainer.errors import UserError

# name on the command line, which is the module's as well -> what it is called, the package
TRACKERS = {
    "mlflow": ("MLflow", "mlflow-skinny"),
    "wandb": ("Weights & Biases", "wandb"),
    "trackio": ("Trackio", "trackio"),
}


def open_tracker(kind: str, project: str, url: str | None) -> Tracker:
    """``kind``: a key of ``TRACKERS``. Raises ``UserError`` if it is not installed, ``TrackerError`` if it cannot be
    reached."""
    name, package = TRACKERS[kind]
    if importlib.util.find_spec(kind) is None:
        raise UserError(f"--to {kind}: {name} is not installed. Install it with: pip install {package}")
    if kind == "mlflow":
        from sweeps.track.to_mlflow import MLflow

        return MLflow(project, url)
    if kind == "wandb":
        from sweeps.track.to_wandb import WeightsAndBiases

        return WeightsAndBiases(project, url)
    from sweeps.track.to_trackio import Trackio

    return Trackio(project, url)
