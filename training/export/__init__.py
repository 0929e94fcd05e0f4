"""Export: a Hugging Face checkpoint becomes a verified ONNX model version."""

from training.export.config import ExportConfig
from training.export.losses import window_losses
from training.export.version import export_checkpoint

__all__ = ["ExportConfig", "export_checkpoint", "window_losses"]
