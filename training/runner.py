"""The frame of every training run, whatever its method: folder, trainer, result, resume.

A method says what it trains, on what, with which trainer (`Job`); the frame does the rest. A run
that was interrupted continues from its last saved state, a finished one is returned as it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress
from transformers import PreTrainedModel

from everloop.manifest import DatasetRef
from training.checkpoint import Checkpoint, write_sidecar
from training.config import REPORTING, OptimizerConfig
from training.consumption import ConsumptionCallback
from training.cpu import training_session
from training.distributed import device_of
from training.recipe import prepare, train
from training.run_folder import RunFolder, open_run
from training.schedule import Budget
from training.tokens import copy_tokenizer

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one run is to do.

    Attributes:
        title: of its bar.
        settings: everything that decides the weights, as text.
        make_trainer: builds the equipped trainer; called once the folder is taken.
        add_metrics: completes the metrics once training has ended.
        tokenizer: folder whose tokenizer goes into the checkpoint.
        datasets: the whole lineage of the result.
        parent_tag: of the model version that the run starts from.
    """

    title: str
    settings: Mapping[str, str]
    config: OptimizerConfig
    make_trainer: Callable[[RunFolder, Budget], Any]
    add_metrics: Callable[[Metrics], Metrics]
    tokenizer: Path
    datasets: tuple[DatasetRef, ...] = ()
    parent_tag: str | None = None


def carry_out(job: Job, run: Path, progress: Progress | None) -> Checkpoint:
    """Train as the job says and give the checkpoint.

    Raises:
        ConfigError: another process trains in the folder, it belongs to other settings, or the
            machine cannot do what is asked for.
        EverloopError: the loss diverged before a state was saved, or a state cannot be saved.
    """
    config = job.config
    device = device_of(config)
    budget = Budget(config.max_steps, None if config.minutes is None else config.minutes * 60)
    with open_run(run, job.settings) as opened, training_session(config.num_threads):
        if opened.finished is not None:
            return opened.finished
        consumption = ConsumptionCallback(device)
        trainer = job.make_trainer(opened, budget)
        prepare(trainer, opened, job.title, consumption, progress)
        metrics = job.add_metrics(train(trainer, opened))
        network = _plain(trainer.model)
        metrics["parameters"] = float(network.num_parameters())
        metrics |= consumption.total()

        def write(folder: Path) -> None:
            network.save_pretrained(folder)
            copy_tokenizer(job.tokenizer, folder)
            write_sidecar(
                folder,
                datasets=job.datasets,
                config={**job.settings, **trainer.numerics.as_settings},
                seed=config.seed,
                parent=job.parent_tag,
                metrics=metrics,
            )

        return opened.finish(write)


def deciding(table: str, config: OptimizerConfig) -> dict[str, str]:
    """The fields of a table that decide the weights, as text."""
    values = config.model_dump(exclude=set(REPORTING))
    return {f"{table}.{key}": str(value) for key, value in values.items()}


def limit_tokens(budget: Budget, config: OptimizerConfig, tokens_per_step: float) -> None:
    """Turn a budget of tokens into steps, now that the tokens of a step are known."""
    if config.max_train_tokens is not None:
        steps = -int(-config.max_train_tokens // tokens_per_step)
        budget.max_steps = min(steps, budget.max_steps or steps)


def _plain(network: Any) -> PreTrainedModel:
    """The network itself, with low-rank additions merged into its weights."""
    return network.merge_and_unload() if hasattr(network, "merge_and_unload") else network
