"""Measures precisions against fp32 on as few windows as it takes to know whether they qualify."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from everloop.manifest import PrecisionReport
from training.export.architecture import Architecture
from training.export.comparison import ComparedGraph, ExactGraph
from training.export.config import ExportConfig
from training.export.divergence import Floats
from training.export.graph import DATA_FILE
from training.export.precision import FP32, CachePrecision, WeightFormat
from training.export.quality import Limit, cache_limits, refusal, weights_limits
from training.export.sequential import decide, interval, looks
from training.export.state import state_tensors

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Measured:
    """A graph and what it costs; graphs of the same weights share a folder and its tensors.

    Attributes:
        losses: of the windows that were read; fp32 may have read more since.
        exact_losses: of fp32 in the same windows.
    """

    graph: Path
    report: PrecisionReport
    losses: Floats
    exact_losses: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Qualification:
    """What precisions are measured against.

    Attributes:
        exact: the fp32 graph.
        least_windows: that are read whatever they say.
        progress: shows the windows of each precision.
    """

    config: ExportConfig
    architecture: Architecture
    exact: ExactGraph
    least_windows: int
    progress: Progress | None

    def fp32(self, graph: Path) -> Measured:
        """Measure the loss of fp32; nothing is decided about it."""
        count = self._looks()[0]
        self._read("fp32", count, self.exact)
        return self._measured(graph, FP32, "fp32", self.exact, self.exact, None)

    def weights(self, compared: ComparedGraph, weights: WeightFormat) -> Measured:
        """Decide about quantized weights with an fp32 cache."""
        refused = self._decide(
            str(weights),
            (self.exact, compared),
            lambda: weights_limits(self.config, weights, self._exact_losses(compared), compared),
        )
        return self._measured(compared.graph, weights, "fp32", compared, compared, refused)

    def distance(self, compared: ComparedGraph, label: str) -> float:
        """Mean KL to fp32 over the fewest windows, in nats per token; nothing is decided."""
        self._read(label, self._looks()[0], compared)
        return float(compared.divergences.mean())

    def cache(
        self, graph: Path, weights: WeightFormat, plain: ComparedGraph | ExactGraph
    ) -> Measured:
        """Decide about an int8 cache beside weights that were read with an fp32 cache."""
        compared = ComparedGraph(graph, self.exact)
        refused = self._decide(
            f"{weights}, int8 cache",
            (self.exact, plain, compared),
            lambda: cache_limits(
                self.config, weights, plain.losses[: len(compared.losses)], compared
            ),
        )
        return self._measured(graph, weights, "int8", plain, compared, refused)

    def _looks(self) -> list[int]:
        return looks(len(self.exact.windows), self.least_windows)

    def _exact_losses(self, graph: ComparedGraph | ExactGraph) -> Floats:
        return self.exact.losses[: len(graph.losses)]

    def _decide(
        self,
        label: str,
        graphs: Sequence[ComparedGraph | ExactGraph],
        limits: Callable[[], list[Limit]],
    ) -> str | None:
        """Read windows until it is clear whether limits are kept; give the refusal, if any."""
        counts = self._looks()
        for count in counts:
            for graph in graphs[:-1]:
                self._read("fp32" if graph is self.exact else "fp32 cache", count, graph)
            self._read(label, count, graphs[-1])
            found = limits()
            excesses = [limit.excess for limit in found]
            verdict = decide(excesses, looks=len(counts), is_last=count == counts[-1])
            if verdict is not None:
                return refusal(found) if verdict == "fails" else None
        raise AssertionError("the last look decides")

    def _read(self, label: str, count: int, graph: ComparedGraph | ExactGraph) -> None:
        known = len(graph.losses)
        if known >= count:
            return
        title = f"Quality of {label}" + (", more text" if known else "")
        task = self.progress.add_task(title, total=count - known) if self.progress else None

        def tick(windows: int) -> None:
            if self.progress is not None and task is not None:
                self.progress.advance(task, windows)

        graph.read(count, tick)

    def _measured(
        self,
        graph: Path,
        weights: WeightFormat,
        cache: CachePrecision,
        plain: ComparedGraph | ExactGraph,
        compared: ComparedGraph | ExactGraph,
        refused: str | None,
    ) -> Measured:
        losses = compared.losses
        exact, before = self._exact_losses(compared), plain.losses[: len(losses)]
        report = PrecisionReport(
            weights=weights.precision,
            block_size=weights.block_size,
            cache=cache,
            val_loss=float(losses.mean()),
            val_loss_interval=interval(losses),
            divergence=compared.report() if isinstance(compared, ComparedGraph) else None,
            weight_loss_increase=float(before.mean() / exact.mean() - 1),
            cache_loss_increase=float(losses.mean() / before.mean() - 1),
            weights_bytes=_size(graph),
            cache_bytes_per_token=sum(
                tensor.bytes_per_token for tensor in state_tensors(self.architecture, cache)
            ),
            refusal=refused,
        )
        _log(report)
        return Measured(graph, report, losses, exact)


def _log(report: PrecisionReport) -> None:
    divergence = report.divergence
    logger.info(
        "precision measured weights=%s block_size=%s cache=%s val_loss=%.4f weights_change=%+.2f%% "
        "cache_change=%+.2f%% mean_kl=%s top_1_agreement=%s tokens=%s qualifies=%s",
        report.weights,
        report.block_size,
        report.cache,
        report.val_loss,
        100 * report.weight_loss_increase,
        100 * report.cache_loss_increase,
        divergence and f"{divergence.mean_kl:.5f}",
        divergence and f"{divergence.top_1_agreement:.4f}",
        divergence and divergence.tokens,
        report.refusal is None,
    )


def _size(graph: Path) -> int:
    return graph.stat().st_size + (graph.parent / DATA_FILE).stat().st_size
