"""Write the graph of a checkpoint in every precision that is wanted, and keep the one that is best.

The fp32 graph is always written: it must agree with torch, and every other precision of weights
and cache is judged by how far from it the next tokens lie in the same windows.
"""

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.progress import Progress

from everloop.errors import RefusedError
from everloop.manifest import ExportReport, ParityReport, PrecisionReport
from everloop.progress import stage
from training.export.architecture import Architecture
from training.export.cache_precision import quantize_cache
from training.export.cache_scales import CacheScales, calibrate_cache
from training.export.chat_answers import read_prompts
from training.export.comparison import ComparedGraph, ExactGraph, affordable_windows
from training.export.config import ExportConfig
from training.export.equalization import Equalization, equalize
from training.export.graph import DATA_FILE, MODEL_FILE, write_graph
from training.export.input_moments import InputMoments
from training.export.precision import (
    FP32,
    CachePrecision,
    WeightFormat,
    choose,
    wanted_caches,
    wanted_weights,
)
from training.export.qualification import Measured, Qualification
from training.export.quality import check_parity
from training.export.quantize import BLOCK_SIZE
from training.export.sequential import spread
from training.export.session import open_session
from training.export.speed import measure_speeds
from training.export.weights import Weights

_MIN_SPLIT = 8  # windows
# Times the limit: fitting takes a third off the KL of int4 (docs/decisions.md), not three quarters.
_HOPELESS = 4
_INT8_CACHE_FILE = "model-int8-cache.onnx"


@dataclass(frozen=True, slots=True)
class ProvenGraph:
    """What is known of the graph that was kept."""

    parameters: int
    precision: PrecisionReport
    report: ExportReport


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
        least_windows: that losses are measured on, whatever the comparison needs.
    """

    checkpoint: Path
    architecture: Architecture
    config: ExportConfig
    max_model_len: int
    windows: np.ndarray
    calibration: np.ndarray
    bytes_per_token: float
    least_windows: int = 0
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
        parameters, fp32 = self._write(scratch, FP32)
        parity, scales = self._prove(fp32, caches)
        qualification = self._qualification(fp32, scratch, formats != [FP32] or "int8" in caches)
        measured = [qualification.fp32(fp32)]
        moments = InputMoments(fp32, self.calibration)
        for weights in reversed(formats):  # the cheapest first
            if weights != FP32:
                compared = self._write_quantized(scratch, weights, fp32, moments, qualification)
                measured += self._measure(qualification, compared, weights, caches, scales)
        # Beside quantized weights that qualify, fp32 ones are never the faster for an int8 cache.
        is_needed = all(one.report.refusal is not None for one in measured[1:])
        if FP32 in formats and "int8" in caches and is_needed:
            measured.append(_cached(qualification, fp32, FP32, qualification.exact, scales))
        if FP32 not in formats or "fp32" not in caches:
            del measured[0]
        self._refuse_all(measured)
        if self.config.precision == "auto":
            measured = self._with_speeds(measured)
        kept_report = choose([one.report for one in measured])
        kept = next(one for one in measured if one.report is kept_report)
        _move(kept.graph, folder)
        return ProvenGraph(parameters, kept_report, self._report(parity, kept, measured))

    def _prove(
        self, fp32: Path, caches: Sequence[CachePrecision]
    ) -> tuple[ParityReport, CacheScales]:
        """Compare the fp32 graph with torch; take the scales of an int8 cache, if one is wanted."""
        session = open_session(fp32)
        parity = check_parity(
            self.checkpoint, session, self.max_model_len, self.config, self.progress
        )
        if "int8" not in caches:
            return parity, {}
        with stage(self.progress, "Scales of the int8 cache"):
            return parity, calibrate_cache(session, self.calibration)

    def _qualification(self, fp32: Path, scratch: Path, is_compared: bool) -> Qualification:
        """Measures against fp32, in an order of windows whose first few come from everywhere."""
        context = self.windows.shape[1] - 1
        count = affordable_windows(len(self.windows), context, self.architecture.vocab_size)
        chosen = np.sort(spread(len(self.windows))[:count])
        exact = ExactGraph(
            fp32,
            self.windows[chosen[spread(count)]],
            scratch if is_compared else None,
            read_prompts(self.checkpoint, self.max_model_len) if is_compared else None,
        )
        return Qualification(
            config=self.config,
            architecture=self.architecture,
            exact=exact,
            least_windows=self.least_windows,
            progress=self.progress,
        )

    def _report(
        self, parity: ParityReport, kept: Measured, measured: Sequence[Measured]
    ) -> ExportReport:
        val_loss = kept.report.val_loss
        return ExportReport(
            parity=parity,
            val_loss_fp32=float(kept.exact_losses.mean()),
            val_loss=val_loss,
            val_bpb=val_loss / math.log(2) / self.bytes_per_token,
            validation_tokens=len(kept.losses) * (self.windows.shape[1] - 1),
            precisions=tuple(one.report for one in measured),
        )

    def _write_quantized(
        self,
        scratch: Path,
        weights: WeightFormat,
        fp32: Path,
        moments: InputMoments,
        qualification: Qualification,
    ) -> ComparedGraph:
        """Fit 4 bits to what enters each matrix; with 8 bits bring the channels to like sizes.

        Where nobody asked for int4, it is rounded first: fitting is the dearest step of all, and
        cannot make up for a distance of many times the limit.
        """
        if weights.precision == "int8":
            with stage(self.progress, "Sizes of channels"):
                factors = equalize(self.architecture, fp32, self.calibration)
            return ComparedGraph(self._write(scratch, weights, factors)[1], qualification.exact)
        if self.config.precision == "auto":
            rounded = ComparedGraph(self._write(scratch, weights)[1], qualification.exact)
            label = f"{weights}, rounded"
            if qualification.distance(rounded, label) > _HOPELESS * self.config.max_kl:
                return rounded
            shutil.rmtree(rounded.graph.parent)
        return ComparedGraph(self._write(scratch, weights, moments)[1], qualification.exact)

    def _write(
        self,
        scratch: Path,
        weights: WeightFormat,
        fitted_to: InputMoments | Equalization | None = None,
    ) -> tuple[int, Path]:
        folder = scratch / str(weights).replace(" ", "-")
        folder.mkdir()
        tensors = Weights.read(self.checkpoint)
        with stage(self.progress, f"Write {weights}"):
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
        qualification: Qualification,
        compared: ComparedGraph,
        weights: WeightFormat,
        caches: Sequence[CachePrecision],
        scales: CacheScales,
    ) -> Iterator[Measured]:
        """Measure weights with an fp32 cache, then, if they qualify, with an int8 cache."""
        plain = qualification.weights(compared, weights)
        qualifies = plain.report.refusal is None
        if "fp32" in caches or not qualifies:
            yield plain
        if "int8" in caches and qualifies:
            yield _cached(qualification, compared.graph, weights, compared, scales)

    def _refuse_all(self, measured: Sequence[Measured]) -> None:
        refusals = [one.report.refusal for one in measured]
        if None not in refusals:
            raise RefusedError(
                f"{self.checkpoint}: {'; '.join(map(str, refusals))}. Export with a finer "
                "precision, or raise the limit."
            )

    def _with_speeds(self, measured: Sequence[Measured]) -> list[Measured]:
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


def _cached(
    qualification: Qualification,
    graph: Path,
    weights: WeightFormat,
    plain: ComparedGraph | ExactGraph,
    scales: CacheScales,
) -> Measured:
    """Write the graph with an int8 cache beside the one without, and measure it."""
    target = quantize_cache(graph, graph.with_name(_INT8_CACHE_FILE), scales)
    return qualification.cache(target, weights, plain)


def _move(graph: Path, folder: Path) -> None:
    (graph.parent / DATA_FILE).rename(folder / DATA_FILE)
    graph.rename(folder / MODEL_FILE)
