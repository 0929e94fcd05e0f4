"""Every error that a user can meet, with the exit code of the command that raised it.

- EverloopError (1): something failed
  - ConfigError (2): a setting, option or folder is wrong
  - DataError (2): a corpus, file or row cannot be used
    - TemplateLimitError: a chat template does more than it may
  - ArtifactError (2): a checkpoint or model version is missing, changed or of another kind
  - NotFoundError (2): the store or the model store has no such id
  - RefusedError (3): the work was done and the answer is no (gate, limits, nothing to train on)
    - NoChampionError: the loop has nothing to improve on yet
  - StoreError (1): the store cannot take or give a record
  - EngineError (1): the engine cannot serve a request
    - PromptTooLongError: the prompt does not fit into the model
    - QueueFullError: too many requests are waiting
    - EngineStoppedError: the engine is shutting down, or its step failed

A message says where, what was expected, what was found and what to do, in one or two sentences.
"""


class EverloopError(Exception):
    """Something failed; the message is meant for the user."""

    exit_code = 1


class ConfigError(EverloopError):
    """A setting, an option or a folder is wrong."""

    exit_code = 2


class DataError(EverloopError):
    """A corpus, a file or a row cannot be used."""

    exit_code = 2


class TemplateLimitError(DataError):
    """A chat template does more than it may."""


class ArtifactError(EverloopError):
    """A checkpoint or model version is missing, changed or of another kind."""

    exit_code = 2


class NotFoundError(EverloopError):
    """The store, or the model store, has no record of this id."""

    exit_code = 2


class RefusedError(EverloopError):
    """The work was done and the answer is no."""

    exit_code = 3


class NoChampionError(RefusedError):
    """No version answers yet, so a round of the loop has nothing to improve on."""


class StoreError(EverloopError):
    """The store cannot take or give a record."""


class EngineError(EverloopError):
    """The engine cannot serve a request."""


class PromptTooLongError(EngineError):
    """The prompt and its answer do not fit into the model's context."""


class QueueFullError(EngineError):
    """Too many requests are waiting; the client should come back later.

    Attributes:
        retry_after_seconds: an estimate of when a place is free.
    """

    def __init__(self, message: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class EngineStoppedError(EngineError):
    """The engine is shutting down, or the step that served this request failed."""
