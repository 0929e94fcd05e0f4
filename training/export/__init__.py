"""Export: a Hugging Face checkpoint becomes a verified ONNX model version.

The public names are loaded when they are first used, so that a command can read the table [export]
(`training.export.config`) without waiting for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.export.config import ExportConfig
    from training.export.losses import window_losses
    from training.export.version import export_checkpoint

__all__ = ["ExportConfig", "export_checkpoint", "window_losses"]

_HOMES = {
    "ExportConfig": "training.export.config",
    "export_checkpoint": "training.export.version",
    "window_losses": "training.export.losses",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(_HOMES[name]), name)
