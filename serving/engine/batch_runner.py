"""One batch from its rows to the outputs of its requests, and how a request leaves the engine.

What fails ends what it concerns: a row's fault its request, a failed run the requests of its batch.
"""

import logging
import time
from dataclasses import replace

from everloop.errors import EngineError
from serving.engine.model_runner import ModelRunner
from serving.engine.output_processor import OutputProcessor
from serving.engine.pooling import pool_rows
from serving.engine.request_table import RequestTable
from serving.engine.row_errors import row_error
from serving.engine.row_sampler import SampledRow, sample_rows
from serving.engine.scheduler import ScheduledRow, Scheduler
from serving.engine.sequence import FinishReason, RequestOutput, Sequence
from serving.engine.sequence_factory import SequenceFactory

logger = logging.getLogger(__name__)


class BatchRunner:
    """Runs the batches of one model version.

    Args:
        tag: of the version.
        runner: computes them.
        factory: makes the sequence that tries a session which failed.
        scheduler: has the sequences' slots.
        requests: has the sequences' names.

    Attributes:
        outputs: makes outputs of tokens.
    """

    def __init__(
        self,
        tag: str,
        runner: ModelRunner,
        factory: SequenceFactory,
        scheduler: Scheduler,
        requests: RequestTable,
        outputs: OutputProcessor,
    ) -> None:
        self.outputs = outputs
        self._tag = tag
        self._runner = runner
        self._factory = factory
        self._scheduler = scheduler
        self._requests = requests

    def run(self, rows: list[ScheduledRow], outputs: list[RequestOutput]) -> int:
        """Run a batch and move its sequences on.

        Args:
            rows: of the batch.
            outputs: what comes out is appended one by one, so that none is lost to a later fault.

        Returns:
            How many drafts stand.
        """
        try:
            sampled = self._sample(rows)
        except Exception:
            logger.exception("step failed version=%s requests=%d", self._tag, len(rows))
            self._fail(rows, outputs)
            return 0
        now = time.monotonic()
        for row, new in zip(rows, sampled, strict=True):
            output = self._advance(row, new, now)
            if output is not None:
                outputs.append(output)
        return sum(new.num_accepted for new in sampled)

    def end(self, sequence: Sequence, reason: FinishReason, now: float) -> RequestOutput:
        """Take a sequence out and give its last output."""
        output = self.outputs.end(sequence, reason, now)
        # After a failed run nobody knows what its slots hold.
        self._release(sequence, keep_prefix=reason != "error")
        return output

    def _sample(self, rows: list[ScheduledRow]) -> list[SampledRow]:
        if rows[0].sequence.is_embedding:
            return pool_rows(rows, self._runner.run_hidden(rows))
        return sample_rows(rows, self._runner.run(rows))

    def _advance(self, row: ScheduledRow, new: SampledRow, now: float) -> RequestOutput | None:
        sequence, error = row.sequence, new.error
        if error is None:
            rejected = max(row.num_sampled - 1, 0) - new.num_accepted
            sequence.num_computed_tokens += len(row.token_ids) - rejected
            try:
                output = self.outputs.append(sequence, new, now)
            except BaseException as raised:  # noqa: BLE001 - its request alone is told
                error = row_error(sequence.seq_id, raised)
            else:
                if output is not None and output.finish_reason:
                    self._release(sequence)
                return output
        logger.error("request failed version=%s: %s", self._tag, error)
        return replace(self.end(sequence, "error", now), error=error)

    def _release(self, sequence: Sequence, *, keep_prefix: bool = True) -> None:
        self._scheduler.finish(sequence, keep_prefix=keep_prefix)
        self._requests.remove(sequence)

    def _fail(self, rows: list[ScheduledRow], outputs: list[RequestOutput]) -> None:
        probe = self._factory.make_probe(rows[0].sequence.slot or 0, 1)
        now = time.monotonic()
        for row in rows:
            outputs.append(self.end(row.sequence, "error", now))
        try:
            self._runner.run([ScheduledRow(probe, probe.token_ids, 1)])
        except EngineError:
            logger.warning("session refuses further runs, opening it again version=%s", self._tag)
            self._runner.reopen()
