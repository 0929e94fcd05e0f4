"""Where a pipeline of cleaning steps runs: processes of this machine, a Ray cluster, or Slurm.

The pipeline is the same object everywhere. A task that was completed is not run again: datatrove
keeps a mark per task in the stage's log folder.
"""

import importlib.util
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
from datatrove.executor.base import PipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.stats import PipelineStats
from loguru import logger

from everloop.errors import ConfigError, EverloopError
from training.cleaning.config import ExecutorConfig


class _QuietTasks:
    """Keeps datatrove's log lines off the terminal; errors are raised all the same."""

    def _run_for_rank(self, *arguments: Any, **options: Any) -> PipelineStats:
        logger.disable("datatrove")
        return super()._run_for_rank(*arguments, **options)  # type: ignore[misc]


class LocalExecutor(_QuietTasks, LocalPipelineExecutor):
    """Processes of this machine; with one worker, this process."""

    def run(self) -> None:
        """Run the tasks that are not completed."""
        if self.workers > 1:
            super().run()
            return
        # datatrove starts a manager process for this too, which costs more than a small corpus.
        for rank in self.get_incomplete_ranks():
            deepcopy(self)._run_for_rank(rank)


class RayExecutor(_QuietTasks, RayPipelineExecutor):
    """Tasks of a Ray cluster."""


def make_executor(
    config: ExecutorConfig,
    pipeline: Sequence[PipelineStep],
    logs: Path,
    tasks: int,
    depends: PipelineExecutor | None = None,
) -> PipelineExecutor:
    """Prepare the run of one stage.

    Args:
        logs: receives the stage's marks, logs and statistics.
        tasks: into how many the input is divided.
        depends: the stage before, which Slurm waits for.

    Raises:
        ConfigError: ray is asked for and not installed.
    """
    logger.disable("datatrove")
    options: dict[str, Any] = {
        "pipeline": list(pipeline), "tasks": tasks, "workers": config.workers,
        "logging_dir": str(logs.resolve()),
    }  # fmt: skip
    match config.kind:
        case "local":
            return LocalExecutor(**options)
        case "ray":
            _require_ray()
            return RayExecutor(**options, mem_per_cpu_gb=config.memory_gigabytes, depends=None)
        case "slurm":
            return SlurmPipelineExecutor(
                **options,
                depends=depends,
                time=config.time,
                partition=config.partition,
                mem_per_cpu_gb=config.memory_gigabytes,
                env_command=config.environment or None,
                job_name=f"everloop-{logs.name}",
            )


def run_stage(executor: PipelineExecutor, config: ExecutorConfig) -> None:
    """Run the tasks of a stage that are not completed.

    Raises:
        EverloopError: tasks failed on a cluster; the message names the logs.
    """
    logger.disable("datatrove")
    if config.kind == "ray":
        _connect_ray(config)
    executor.run()
    missing = executor.get_incomplete_ranks(skip_completed=True)
    if missing and config.kind != "slurm":
        raise EverloopError(
            f"{len(missing)} of {executor.world_size} cleaning tasks failed, the first is "
            f"{missing[0]}; see {executor.logging_dir.path}/logs. Run the command again to "
            "repeat them."
        )


def _require_ray() -> None:
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            'data.executor.kind is "ray", which is not installed. Install it: pip install '
            "'everloop[ray]'."
        )


def _connect_ray(config: ExecutorConfig) -> None:
    import ray

    if ray.is_initialized():
        return
    if config.ray_address:
        ray.init(address=config.ray_address, log_to_driver=False)
        return
    ray.init(num_cpus=config.workers, include_dashboard=False, log_to_driver=False)
