"""The drift worker's gauges: the last run's result, and whether the worker still runs."""

from prometheus_client import CollectorRegistry, Counter, Gauge, PlatformCollector, ProcessCollector

from monitoring.drift_report import DriftReport


class DriftMetrics:
    """Everything that the drift worker shows, on one registry.

    Every score rises with drift, whatever the method. Scores of a column disappear when it is no
    longer compared, so that an old alarm does not stay on.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        self._share = gauge("llm_drift_share", "Share of the columns that drifted, 0 to 1.")
        self._score = gauge(
            "llm_drift_score", "Distance of current from reference.", ("column", "method")
        )
        self._detected = gauge(
            "llm_drift_detected", "1 where the score is over its threshold, else 0.", ("column",)
        )
        self._rows = gauge("llm_monitor_rows", "Interactions in the last run's current window.")
        self._last_run = gauge(
            "llm_monitor_last_run_timestamp_seconds", "Unix time of the last run without a failure."
        )
        self._failures = Counter("llm_monitor_failures", "Runs that failed.", registry=registry)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

    def compared(self, report: DriftReport) -> None:
        """Show the result of a comparison."""
        self._share.set(report.share)
        self._score.clear()
        self._detected.clear()
        for column in report.compared:
            self._score.labels(column.column, column.method).set(column.score)
            self._detected.labels(column.column).set(column.detected)

    def ran(self, rows: int, now: float) -> None:
        """Show that a run ended, whether or not there was enough to compare.

        Args:
            rows: in the current window.
            now: Unix time.
        """
        self._rows.set(rows)
        self._last_run.set(now)

    def failed(self) -> None:
        """Count a run that failed; the time of the last run stays, so that it grows stale."""
        self._failures.inc()
