"""Where a run's numbers go besides its own folder: TensorBoard's event files, an MLflow server."""

import os
from importlib.util import find_spec
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations.integration_utils import MLflowCallback, TensorBoardCallback

from everloop.errors import ConfigError
from training.config import OptimizerConfig


def reporters(config: OptimizerConfig, run: Path) -> list[TrainerCallback]:
    """The callbacks of transformers that the settings ask for.

    Raises:
        ConfigError: the package of one that is asked for is not installed.
    """
    callbacks: list[TrainerCallback] = []
    if config.tensorboard:
        _require("tensorboard", "tensorboard = true")
        callback = TensorBoardCallback()
        callback.logging_dir = str(run / "tensorboard")
        callbacks.append(callback)
    if config.mlflow_tracking_uri is not None:
        _require("mlflow", "mlflow_tracking_uri")
        # The callback reads its address here alone.
        os.environ["MLFLOW_TRACKING_URI"] = config.mlflow_tracking_uri
        callbacks.append(MLflowCallback())
    return callbacks


def _require(package: str, setting: str) -> None:
    if find_spec(package) is None:
        raise ConfigError(
            f"{setting} needs the package {package}, which is not installed. Install it, or remove "
            "the setting."
        )
