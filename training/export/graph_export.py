"""Write the graph of a checkpoint in every precision that is wanted, and keep the one that is best.

The fp32 graph is always written: it must agree with torch, and every other precision of weights
and cache is judged by what it does to the loss over the same windows.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.progress import Progress

from everloop.errors import RefusedError
from everloop.manifest import ExportReport, PrecisionReport
from training.export.architecture import Architecture
from training.export.cache_precision import quantize_cache
from training.export.cache_scales import CacheScales, calibrate_cache
from training.export.config import ExportConfig
from training.export.equalization import Equalization, equalize
from training.export.graph import DATA_FILE, MODEL_FILE, write_graph
from training.export.input_moments import InputMoments
from training.export.losses import session_losses
from training.export.precision import (
    FP32,
    CachePrecision,
    WeightFormat,
    choose,
    wanted_caches,
    wanted_weights,
)
from training.export.quality import cache_refusal, check_parity, weights_refusal
from training.export.quantize import BLOCK_SIZE
from training.export.session import open_session
from training.export.speed import measure_speeds
from training.export.state import state_tensors
from training.export.weights import Weights

_MIN_SPLIT = 8  # windows
_INT8_CACHE_FILE = "model-int8-cache.onnx"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProvenGraph:
    """What is known of the graph that was kept."""

    parameters: int
    precision: PrecisionReport
    report: ExportReport


@dataclass(frozen=True, slots=True)
class _Measured:
    """A graph and what it costs; graphs of the same weights share a folder and its tensors."""

    graph: Path
    report: PrecisionReport


def split_windows(windows: np.ndarray, config: ExportConfig) -> tuple[np.ndarray, np.ndarray]:
    """Divide windows into those that losses are measured on and those that weights are fitted to.

    Only int4 weights are fitted so closely that the same windows would flatter them: they take
    every fourth. Of fewer than eight windows all serve for both.
    """
    if config.precision not in ("int4", "auto") or len(windows) < _MIN_SPLIT:
        return windows, windows
    is_fitted = np.arange(len(windows)) % 4 == 0
    return windows[~is_fitted], windows[is_fitted]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphExport:
    """What is exported, and against what it is measured.

    Attributes:
        windows: token ids [N, context + 1], already checked, to measure losses on.
        calibration: windows to fit scales and int4 weights to; see `split_windows`.
        bytes_per_token: UTF-8 bytes of the validation text per token.
    """

    checkpoint: Path
    architecture: Architecture
    config: ExportConfig
    max_model_len: int
    windows: np.ndarray
    calibration: np.ndarray
    bytes_per_token: float
    progress: Progress | None = None

    def run(self, folder: Path, scratch: Path) -> ProvenGraph:
        """Write the kept graph into `folder`; `scratch` takes all that are measured.

        Raises:
            ArtifactError: the checkpoint cannot be expressed as a graph.
            ConfigError: a precision is asked for that the family does not have.
            RefusedError: the graph differs from torch, or no wanted precision keeps its limit.
        """
        formats = wanted_weights(self.config, self.architecture)
        caches = wanted_caches(self.config, self.architecture)
        parameters, graph = self._write(scratch, FP32)
        fp32 = graph
        session = open_session(graph)
        parity = check_parity(self.checkpoint, session, self.max_model_len, self.config)
        scales = calibrate_cache(session, self.calibration) if "int8" in caches else {}
        del session  # each graph takes its memory alone
        moments = InputMoments(graph, self.calibration)
        loss_fp32 = self._loss(graph, str(FP32))
        measured: list[_Measured] = []
        for weights in formats:
            if weights != FP32:
                _, graph = self._write_quantized(scratch, weights, fp32, moments)
            measured += self._measure(graph, weights, caches, scales, loss_fp32)
        self._refuse_all(measured)
        if self.config.precision == "auto":
            measured = self._with_speeds(measured)
        kept = choose([one.report for one in measured])
        _move(next(one.graph for one in measured if one.report is kept), folder)
        report = ExportReport(
            parity=parity,
            val_loss_fp32=loss_fp32,
            val_loss=kept.val_loss,
            val_bpb=kept.val_loss / math.log(2) / self.bytes_per_token,
            validation_tokens=self.windows.shape[0] * (self.windows.shape[1] - 1),
            precisions=tuple(one.report for one in measured),
        )
        return ProvenGraph(parameters, kept, report)

    def _write_quantized(
        self, scratch: Path, weights: WeightFormat, fp32: Path, moments: InputMoments
    ) -> tuple[int, Path]:
        """Fit 4 bits to what enters each matrix; with 8 bits bring the channels to like sizes."""
        if weights.precision == "int4":
            return self._write(scratch, weights, moments)
        return self._write(scratch, weights, equalize(self.architecture, fp32, self.calibration))

    def _write(
        self,
        scratch: Path,
        weights: WeightFormat,
        fitted_to: InputMoments | Equalization | None = None,
    ) -> tuple[int, Path]:
        folder = scratch / str(weights).replace(" ", "-")
        folder.mkdir()
        tensors = Weights.read(self.checkpoint)
        graph = write_graph(
            self.architecture,
            tensors,
            folder,
            precision=weights.precision,
            positions=self.max_model_len + self.config.max_query_len,
            block_size=weights.block_size or BLOCK_SIZE,
            fitted_to=fitted_to,
            embeddings=self.config.embeddings,
        )
        return tensors.parameters, graph

    def _measure(
        self,
        graph: Path,
        weights: WeightFormat,
        caches: Sequence[CachePrecision],
        scales: CacheScales,
        loss_fp32: float,
    ) -> Iterator[_Measured]:
        """Measure weights with an fp32 cache, then, if they qualify, with an int8 cache."""
        loss = loss_fp32 if weights == FP32 else self._loss(graph, str(weights))
        refusal = weights_refusal(self.config, weights, loss_fp32, loss)
        plain = PrecisionReport(
            weights=weights.precision,
            block_size=weights.block_size,
            cache="fp32",
            val_loss=loss,
            weight_loss_increase=loss / loss_fp32 - 1,
            cache_loss_increase=0.0,
            weights_bytes=_size(graph),
            cache_bytes_per_token=self._bytes_per_token("fp32"),
            refusal=refusal,
        )
        if "fp32" in caches or refusal is not None:
            yield _log(_Measured(graph, plain))
        if "int8" in caches and refusal is None:
            graph = quantize_cache(graph, graph.with_name(_INT8_CACHE_FILE), scales)
            loss_int8 = self._loss(graph, f"{weights}, int8 cache")
            changes = {
                "cache": "int8",
                "val_loss": loss_int8,
                "cache_loss_increase": loss_int8 / loss - 1,
                "weights_bytes": _size(graph),
                "cache_bytes_per_token": self._bytes_per_token("int8"),
                "refusal": cache_refusal(self.config, weights, loss, loss_int8),
            }
            yield _log(_Measured(graph, plain.model_copy(update=changes)))

    def _bytes_per_token(self, cache: CachePrecision) -> int:
        return sum(tensor.bytes_per_token for tensor in state_tensors(self.architecture, cache))

    def _loss(self, graph: Path, label: str) -> float:
        losses = session_losses(
            open_session(graph),
            self.windows,
            progress=self.progress,
            label=f"Validation loss, {label}",
        )
        return float(losses.mean())

    def _refuse_all(self, measured: Sequence[_Measured]) -> None:
        refusals = [one.report.refusal for one in measured]
        if None not in refusals:
            raise RefusedError(
                f"{self.checkpoint}: {'; '.join(map(str, refusals))}. Export with a finer "
                "precision, or raise the limit."
            )

    def _with_speeds(self, measured: Sequence[_Measured]) -> list[_Measured]:
        """Measure how fast the graphs are that keep their limits."""
        qualified = [one for one in measured if one.report.refusal is None]
        speeds = measure_speeds(
            [one.graph for one in qualified],
            max_model_len=self.max_model_len,
            max_query_len=self.config.max_query_len,
            progress=self.progress,
        )
        known = dict(zip((one.graph for one in qualified), speeds, strict=True))
        return [
            replace(
                one,
                report=one.report.model_copy(
                    update={
                        "tokens_per_second": known[one.graph].decode,
                        "prefill_tokens_per_second": known[one.graph].prefill,
                    }
                ),
            )
            if one.graph in known
            else one
            for one in measured
        ]


def _log(measured: _Measured) -> _Measured:
    report = measured.report
    logger.info(
        "precision measured weights=%s block_size=%s cache=%s val_loss=%.4f weights_change=%+.2f%% "
        "cache_change=%+.2f%% qualifies=%s",
        report.weights,
        report.block_size,
        report.cache,
        report.val_loss,
        100 * report.weight_loss_increase,
        100 * report.cache_loss_increase,
        report.refusal is None,
    )
    return measured


def _size(graph: Path) -> int:
    return graph.stat().st_size + (graph.parent / DATA_FILE).stat().st_size


def _move(graph: Path, folder: Path) -> None:
    (graph.parent / DATA_FILE).rename(folder / DATA_FILE)
    graph.rename(folder / MODEL_FILE)
