"""Build the graph of a checkpoint in the wanted precision, and prove it.

The fp32 graph is always built: it must agree with torch, and int8 is judged against its loss.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from rich.progress import Progress

from everloop.errors import RefusedError
from everloop.manifest import ExportReport
from training.export.architecture import Architecture
from training.export.config import ExportConfig
from training.export.graph import write_graph
from training.export.losses import session_losses
from training.export.nodes import Precision
from training.export.parity import max_abs_logit_diff
from training.export.session import open_session
from training.export.weights import Weights
from training.pretrained import load_model


@dataclass(frozen=True, slots=True)
class ProvenGraph:
    """What is known of a graph that passed."""

    parameters: int
    report: ExportReport


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphExport:
    """What is exported, and against what it is measured.

    Attributes:
        windows: token ids [N, context + 1], already checked.
        bytes_per_token: UTF-8 bytes of the validation text per token.
    """

    checkpoint: Path
    architecture: Architecture
    config: ExportConfig
    max_model_len: int
    windows: np.ndarray
    bytes_per_token: float
    progress: Progress | None = None

    def run(self, folder: Path, scratch: Path) -> ProvenGraph:
        """Write the proven graph into `folder`; `scratch` takes the fp32 graph of an int8 version.

        Raises:
            ArtifactError: the checkpoint cannot be expressed as a graph.
            RefusedError: the graph differs from torch, or int8 loses too much.
        """
        is_int8 = self.config.precision == "int8"
        parameters, session = self._write(scratch if is_int8 else folder, "fp32")
        difference = self._check_parity(session)
        val_loss = val_loss_fp32 = self._loss(session, "fp32")
        if is_int8:
            _, session = self._write(folder, "int8")
            val_loss = self._loss(session, "int8")
            self._check_int8(val_loss_fp32, val_loss)
        report = ExportReport(
            max_abs_logit_diff=difference,
            val_loss_fp32=val_loss_fp32,
            val_loss=val_loss,
            val_bpb=val_loss / math.log(2) / self.bytes_per_token,
            validation_tokens=self.windows.shape[0] * (self.windows.shape[1] - 1),
        )
        return ProvenGraph(parameters, report)

    def _write(self, folder: Path, precision: Precision) -> tuple[int, ort.InferenceSession]:
        weights = Weights.read(self.checkpoint)
        graph = write_graph(
            self.architecture,
            weights,
            folder,
            precision=precision,
            positions=self.max_model_len + self.config.max_query_len,
            embeddings=self.config.embeddings,
        )
        return weights.parameters, open_session(graph)

    def _loss(self, session: ort.InferenceSession, precision: Precision) -> float:
        losses = session_losses(
            session, self.windows, progress=self.progress, label=f"Validation loss, {precision}"
        )
        return float(losses.mean())

    def _check_parity(self, session: ort.InferenceSession) -> float:
        model = load_model(self.checkpoint, attn_implementation="eager")
        difference = max_abs_logit_diff(
            model,
            session,
            max_model_len=self.max_model_len,
            max_query_len=self.config.max_query_len,
        )
        if not difference <= self.config.max_fp32_diff:
            raise RefusedError(
                f"{self.checkpoint}: the fp32 graph differs from torch by {difference:.2e} in a "
                f"logit, the limit is {self.config.max_fp32_diff:.2e} (export.max_fp32_diff)."
            )
        return difference

    def _check_int8(self, val_loss_fp32: float, val_loss: float) -> None:
        limit = self.config.max_int8_loss_increase
        if not val_loss <= val_loss_fp32 * (1 + limit):
            raise RefusedError(
                f"{self.checkpoint}: int8 raises the validation loss from {val_loss_fp32:.4f} to "
                f"{val_loss:.4f} nats per token ({val_loss / val_loss_fp32 - 1:+.2%}), the limit "
                f"is {limit:+.2%} (export.max_int8_loss_increase). Export with precision fp32."
            )
