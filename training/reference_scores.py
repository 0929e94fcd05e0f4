"""The reference network of DPO judges each answer once, however often a run meets it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_FILE = "reference_scores.json"  # beside the run's states


class ReferenceScores:
    """Overrides of TRL's DPO trainer; stands before its class.

    The weights of the reference never change, so neither do its log-probabilities. They are saved
    with every state: a run that goes on uses the same values to the last bit.
    """

    args: Any
    ref_model: Any
    precompute_ref_logps: bool
    _scores: dict[str, float] | None = None

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        scores = self._known()
        answers = _answers(inputs)
        if any(answer not in scores for answer in answers):
            reference = model if self.ref_model is None else self.ref_model
            found = self.compute_ref_log_probs(reference, inputs)  # type: ignore[attr-defined]
            scores.update(zip(answers, torch.cat(found).tolist(), strict=True))
        values = torch.tensor([scores[answer] for answer in answers])
        chosen, rejected = values.to(inputs["input_ids"].device).chunk(2)
        given = {**inputs, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        self.precompute_ref_logps = True
        try:
            return super()._compute_loss(model, given, return_outputs)  # type: ignore[misc]
        finally:
            self.precompute_ref_logps = False

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        file = self._file()
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(self._known()), encoding="utf-8")
        partial.rename(file)
        super()._save_checkpoint(*args, **kwargs)  # type: ignore[misc]

    def _known(self) -> dict[str, float]:
        if self._scores is None:
            file = self._file()
            stored = file.read_text(encoding="utf-8") if file.is_file() else "{}"
            self._scores = json.loads(stored)
        return self._scores

    def _file(self) -> Path:
        rank = int(self.args.process_index)  # of several processes, each meets its own rows
        return Path(self.args.output_dir) / (f"{rank}-{_FILE}" if rank else _FILE)


def _answers(inputs: dict[str, Tensor]) -> list[str]:
    """What identifies each answer of a batch: its tokens, its prompt's, and where it begins."""
    names = ("input_ids", "attention_mask", "completion_mask")
    rows = zip(*(inputs[name].cpu() for name in names), strict=True)
    return [
        hashlib.sha256(
            ids[seen.bool()].numpy().tobytes() + int(answer.sum()).to_bytes(8, "little")
        ).hexdigest()
        for ids, seen, answer in rows
    ]
