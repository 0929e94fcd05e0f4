"""One round of the loop: trigger, dataset, tuning, export, gate, promotion. Wiring only.

Every decision is recorded before it is acted on. A round that ends early leaves the champion as it
is; what it had made stays and is taken up by the next round of the same data.
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.progress import Progress

from everloop.errors import NoChampionError, RefusedError
from everloop.evaluate_runs import report_training
from everloop.lifecycle import checkpoint_of, export_version, validation_windows
from everloop.manifest import DatasetRef
from everloop.records import DatasetRow
from everloop.registry import ModelVersion, Registry
from everloop.retention import prune_after_round
from everloop.settings import Home, RunFile
from feedback.dataset import (
    FeedbackConfig,
    FeedbackDataset,
    build_feedback_dataset,
    choose_validation,
)
from feedback.gate import GateConfig, GateEvidence, GateVerdict, judge
from feedback.loop_config import LoopConfig, check_loop
from feedback.measure import imported_divergence, measure_version, replayed_answers
from feedback.rollout import promote
from feedback.store.datasets import DatasetVersion
from feedback.store.decisions import Decision
from feedback.store.deployments import Deployment
from feedback.store.store import Store, open_store
from feedback.trigger import TriggerConfig, TriggerState, TriggerVerdict, decide
from monitoring.drift_report import newest_summary
from serving.launch import is_serving
from training.answer_score import answer_score
from training.config import SftConfig
from training.dataset import read_rows
from training.export.config import ExportConfig
from training.tune import fine_tune

logger = logging.getLogger(__name__)

Outcome = Literal["promoted", "kept", "waiting", "dry-run"]


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What one round came to."""

    outcome: Outcome
    reasons: tuple[str, ...]
    champion: str
    candidate: str | None = None
    dataset_id: str | None = None
    gate: GateVerdict | None = None
    deployment: Deployment | None = None
    seconds: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether the round did what it was asked for."""
        return self.outcome in ("promoted", "dry-run")

    def summary(self) -> dict[str, Any]:
        """The result as plain data, for a report."""
        return dataclasses.asdict(self)


def run_round(
    home: Home, run: RunFile, *, dry_run: bool = False, progress: Progress | None = None
) -> RoundResult:
    """Run one round if the trigger says so.

    Args:
        dry_run: decide and build the dataset, but train nothing.
        progress: where to show bars.

    Raises:
        NoChampionError: there is no champion yet.
        ArtifactError: the champion's checkpoint is gone, or was changed.
    """
    started = time.monotonic()
    store = open_store(home.database_url)
    try:
        result = _Round(home, run, store, progress).run(dry_run)
        if result.candidate is not None:
            prune_after_round(home, run, store)
    finally:
        store.close()
    return dataclasses.replace(result, seconds=time.monotonic() - started)


class _Round:
    """The steps of one round, and what they share."""

    def __init__(self, home: Home, run: RunFile, store: Store, progress: Progress | None) -> None:
        self._home, self._run, self._store, self._progress = home, run, store, progress
        check_loop(run)
        self._config = run.table("loop", LoopConfig)
        deployment = store.champion()
        if deployment is None:
            raise NoChampionError(
                f"{home.root} has no champion to improve on. Train and export a version, then "
                "serve it: everloop serve"
            )
        self._deployment = deployment
        self._champion = Registry(home).get(deployment.model_version)

    def run(self, dry_run: bool) -> RoundResult:
        verdict = self._trigger()
        if verdict.verdict == "wait":
            return self._wait(verdict.reasons, verdict.numbers)
        try:
            dataset = self._dataset()
        except RefusedError as error:
            return self._wait((str(error),), verdict.numbers)
        self._decide("trigger", verdict.verdict, verdict.reasons, verdict.numbers)
        reference, rows = self._save(dataset)
        if dry_run:
            counts = f"{len(dataset.train)} to learn, {len(dataset.replay)} replayed"
            reason = f"dataset {reference.id}: {counts}, {len(dataset.holdout)} held out"
            return RoundResult("dry-run", (reason,), self._champion.tag, dataset_id=reference.id)
        candidate = self._candidate(reference, rows)
        return self._judge(candidate, reference, dataset.holdout)

    def _wait(self, reasons: tuple[str, ...], numbers: dict[str, float]) -> RoundResult:
        previous = self._store.decisions(1, kind="trigger")
        # The worker looks every few seconds: waiting for the same reasons is one decision.
        if [item.reasons for item in previous] != [reasons]:
            self._decide("trigger", "wait", reasons, numbers)
        return RoundResult("waiting", reasons, self._champion.tag)

    def _trigger(self) -> TriggerVerdict:
        gates = self._store.decisions(1, kind="gate")
        last = gates[0].created_at if gates else None
        counts = self._store.feedback_counts(since=last)
        state = TriggerState(
            now=time.time(),
            approvals=counts.positive,
            corrections=counts.demonstration,
            drift_share=self._drift_share(last),
            last_round_at=last,
            champion_since=self._deployment.created_at,
        )
        return decide(state, self._run.table("trigger", TriggerConfig))

    def _drift_share(self, since: float | None) -> float | None:
        """Of the newest drift report, unless an earlier round has already answered it."""
        summary = newest_summary(self._home.reports / "drift")
        if summary is None or (since is not None and summary.created_at < since):
            return None
        return summary.share

    def _dataset(self) -> FeedbackDataset:
        interactions, feedback = self._store.rated()
        corpora = [
            reference.id
            for reference in self._champion.manifest.lineage.datasets
            if reference.use in ("pretrain", "sft", "kto", "dpo")
        ]
        original = [
            row for corpus in dict.fromkeys(corpora) for row in read_rows(self._home.data / corpus)
        ]
        original += replayed_answers(self._home, self._champion, self._config.num_threads)
        seed = self._run.table("sft", SftConfig).seed
        config = self._run.table("feedback", FeedbackConfig)
        # With fewer to judge by, the gate decides nothing, however long the training took.
        judged = max(config.min_holdout_rows, self._run.table("gate", GateConfig).min_rows)
        config = config.model_copy(update={"min_holdout_rows": judged})
        return build_feedback_dataset(interactions, feedback, original, config, seed)

    def _save(self, dataset: FeedbackDataset) -> tuple[DatasetRef, list[DatasetRow]]:
        """Record the dataset with all of its rows, a part of the learnt ones for validation."""
        rows = choose_validation(dataset.train, self._config.validation_share)
        rows += [*dataset.replay, *dataset.holdout]
        version = DatasetVersion.of(rows, "feedback", dropped=dataset.dropped)
        self._store.save_dataset(version, rows)
        reference = DatasetRef(
            id=version.id, merkle_root=version.merkle_root, rows=len(rows), use="feedback"
        )
        return reference, rows

    def _candidate(self, reference: DatasetRef, rows: Sequence[DatasetRow]) -> ModelVersion:
        settings = self._run.table("sft", SftConfig).model_dump()
        settings |= {
            "max_steps": None,
            "minutes": self._config.minutes,
            "epochs": self._config.epochs,
        }
        parent = checkpoint_of(self._home, self._champion).path
        checkpoint = fine_tune(
            parent,
            [row for row in rows if row.split == "train"],
            [row for row in rows if row.split == "validation"],
            self._home.runs / f"loop-{reference.id}-{self._champion.manifest.version}",
            SftConfig(**settings | self._config.tuning),
            datasets=[reference],
            parent_tag=self._champion.tag,
            progress=self._progress,
        )
        report_training(self._home, checkpoint, parent)
        return export_version(self._home, self._run, checkpoint, self._progress)

    def _judge(
        self, candidate: ModelVersion, reference: DatasetRef, holdout: Sequence[DatasetRow]
    ) -> RoundResult:
        windows, _ = validation_windows(
            self._home,
            checkpoint_of(self._home, self._champion),
            self._config.validation_windows,
            max_context=min(
                version.manifest.max_model_len for version in (self._champion, candidate)
            ),
        )
        champion, measured = (
            measure_version(
                version,
                holdout,
                windows,
                answer_score,
                max_tokens=self._config.max_answer_tokens,
                num_threads=self._config.num_threads,
            )
            for version in (self._champion, candidate)
        )
        report = candidate.manifest.export
        limit = ExportConfig.model_validate(candidate.manifest.settings).max_parity_ratio
        evidence = GateEvidence(
            champion=champion,
            candidate=measured,
            parity_ok=report.parity is not None and report.parity.ratio <= limit,
            val_loss=report.val_loss,
            divergence=imported_divergence(
                self._home, self._champion, candidate, self._config.num_threads
            ),
        )
        verdict = judge(evidence, self._run.table("gate", GateConfig))
        decision = self._decide(
            "gate", verdict.verdict, verdict.reasons, verdict.numbers, candidate.tag, reference.id
        )
        kept = RoundResult(
            "kept", verdict.reasons, self._champion.tag, candidate.tag, reference.id, verdict
        )
        if verdict.verdict != "promote":
            return kept
        deployment = promote(self._store, candidate.tag, verdict.reasons[0], gate=decision)
        deployment = self._wait_for_server(deployment)
        outcome: Outcome = "kept" if deployment.status == "failed" else "promoted"
        return dataclasses.replace(
            kept,
            outcome=outcome,
            champion=kept.champion if outcome == "kept" else candidate.tag,
            deployment=deployment,
        )

    def _wait_for_server(self, deployment: Deployment) -> Deployment:
        """See the running server swap; without a server the next start will."""
        deadline = time.monotonic() + self._config.swap_seconds
        pause = threading.Event()
        while time.monotonic() < deadline and is_serving(self._home):
            found = next(item for item in self._store.deployments() if item.id == deployment.id)
            if found.status != "pending":
                return found
            pause.wait(0.2)
        return deployment

    def _decide(
        self,
        kind: Literal["trigger", "gate"],
        verdict: str,
        reasons: tuple[str, ...],
        numbers: dict[str, float],
        candidate: str | None = None,
        dataset_id: str | None = None,
    ) -> Decision:
        decision = Decision(
            kind=kind,
            verdict=verdict,
            reasons=reasons,
            numbers=numbers,
            champion=self._champion.tag,
            candidate=candidate,
            dataset_id=dataset_id,
        )
        self._store.record_decision(decision)
        logger.info("decision kind=%s verdict=%s: %s", kind, verdict, "; ".join(reasons))
        return decision
