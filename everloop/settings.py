"""Settings: the environment (where), the home folder (layout) and the TOML of a run (what to do).

Each component declares its own table as a `Config` beside its code; `RunFile.table` checks it. A
key that no component knows is an error that names the nearest known key; nothing is merged from two
files and nothing is ignored.
"""

import difflib
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from everloop.errors import ConfigError, DataError
from everloop.text_files import read_text_file

TABLES = (
    "data", "tokenizer", "model", "pretrain", "sft", "kto", "dpo", "export", "engine",
    "server", "store", "drift", "trigger", "feedback", "gate", "loop", "demo",
    "retention",
)  # fmt: skip


class Config(BaseModel):
    """Base of every configuration table: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _default_cache() -> Path:
    """The user's cache folder. Source: XDG Base Directory Specification 0.8."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(given) if Path(given).is_absolute() else Path("~/.cache").expanduser()
    return folder / "everloop"


class Settings(BaseSettings):
    """What the environment says.

    `EVERLOOP_HOME`, `EVERLOOP_DATABASE_URL`, `EVERLOOP_LOG_LEVEL`, and `EVERLOOP_CACHE_FOLDER`:
    where what was measured of this machine is remembered, for all homes. `EVERLOOP_CONTAINERIZED`
    is set in container images: all addresses are the container's own, so any may be listened on.
    """

    model_config = SettingsConfigDict(env_prefix="EVERLOOP_")

    home: Path = Path(".everloop")
    database_url: str | None = None
    log_level: str = "INFO"
    cache_folder: Path = Field(default_factory=_default_cache)
    containerized: bool = False


@dataclass(frozen=True, slots=True)
class Home:
    """The one folder that holds everything Everloop keeps on this machine.

    Attributes:
        database: SQLAlchemy URL of a store elsewhere; None for the embedded one.
    """

    root: Path
    database: str | None = None

    @property
    def data(self) -> Path:
        """Dataset versions, one folder each."""
        return self.root / "data"

    @property
    def tokenizers(self) -> Path:
        """Tokenizers, one Hugging Face folder each."""
        return self.root / "tokenizers"

    @property
    def imports(self) -> Path:
        """What imported models said before anything was tuned."""
        return self.root / "imports"

    @property
    def shards(self) -> Path:
        """Encoded text, one folder per dataset version."""
        return self.root / "shards"

    @property
    def runs(self) -> Path:
        """Training runs, one folder each, with their checkpoints."""
        return self.root / "runs"

    @property
    def bentoml(self) -> Path:
        """BentoML's home: the model store lives in it."""
        return self.root / "bentoml"

    @property
    def reports(self) -> Path:
        """Reports for people: HTML and JSON."""
        return self.root / "reports"

    @property
    def logs(self) -> Path:
        """Logs of the processes that run in the background."""
        return self.root / "logs"

    @property
    def status(self) -> Path:
        """What the processes say about themselves, for the metrics."""
        return self.root / "status"

    @property
    def server_lock(self) -> Path:
        """Held by the one server of this home."""
        return self.root / "server.lock"

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the store."""
        return self.database or f"sqlite:///{self.root.resolve() / 'store.sqlite'}"

    def create(self) -> "Home":
        """Make the folder if it is absent, for its owner's eyes only: it holds what people said.

        Raises:
            ConfigError: the path is a file, or cannot be written.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._close_to_others()
        except OSError as error:
            raise ConfigError(
                f"home folder {self.root} cannot be made ({error.strerror}). Choose another --home."
            ) from error
        return self

    def _close_to_others(self) -> None:
        """Take other users' rights from a home of an earlier release; no other folder's."""
        found = self.root.stat()
        is_home = self.bentoml.is_dir() or (self.root / "store.sqlite").is_file()
        if is_home and found.st_uid == os.geteuid() and found.st_mode & 0o077:
            self.root.chmod(found.st_mode & 0o700)


C = TypeVar("C", bound=Config)


@dataclass(frozen=True, slots=True)
class RunFile:
    """The TOML of one run, with the `--set key=value` of the command line laid over it."""

    name: str
    values: dict[str, dict[str, Any]]

    @classmethod
    def load(cls, path: Path | None, overrides: tuple[str, ...] = ()) -> "RunFile":
        """Read a run's TOML; without a path, start from the defaults.

        Args:
            path: the file, or None.
            overrides: `table.key=value`, or `table.inner.key=value`, the value in TOML's notation
                (a bare word is text).

        Raises:
            ConfigError: the file is absent or no TOML, or a table is unknown.
        """
        name = str(path) if path else "defaults"
        values = _parse(path) if path else {}
        for text in overrides:
            table, keys, value = _parse_override(text)
            place = values.setdefault(table, {})
            for key in keys[:-1]:
                place = place.setdefault(key, {})
                if not isinstance(place, dict):
                    raise ConfigError(f"--set {text}: {key} is a value and holds no keys.")
            place[keys[-1]] = value
        for table, content in values.items():
            if table not in TABLES:
                raise ConfigError(f"{name}: unknown table [{table}]{_nearest(table, TABLES)}")
            if not isinstance(content, dict):
                raise ConfigError(f"{name}: {table} must be a table, got {content!r}.")
        return cls(name, values)

    def table(self, name: str, schema: type[C]) -> C:
        """Check one table against its component's schema.

        Raises:
            ConfigError: an unknown key, a wrong type or a value out of range.
        """
        try:
            return schema.model_validate(self.values.get(name, {}))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in (name, *first["loc"]))
            if first["type"] == "extra_forbidden":
                hint = _nearest(str(first["loc"][-1]), _keys(schema, first["loc"][:-1]))
                raise ConfigError(f"{self.name}: unknown key {key}{hint}") from error
            raise ConfigError(
                f"{self.name}: {key}: {first['msg']}, got {first['input']!r}."
            ) from error


def _parse(path: Path) -> dict[str, dict[str, Any]]:
    try:
        return tomllib.loads(read_text_file(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}.") from error
    except DataError as error:
        if not path.exists():
            raise ConfigError(f"{path}: no such configuration file.") from error
        raise ConfigError(str(error)) from error


def _parse_override(text: str) -> tuple[str, list[str], Any]:
    path, equals, value = text.partition("=")
    table, *keys = path.strip().split(".")
    if not (equals and keys and all(keys)):
        raise ConfigError(f"--set {text}: expected table.key=value, such as pretrain.minutes=2.")
    try:
        return table, keys, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return table, keys, value.strip()


def _keys(schema: type[Config], location: tuple[int | str, ...]) -> tuple[str, ...]:
    """The keys of the table in a table that a location leads to."""
    for part in location:
        if isinstance(part, int):  # a place in an array of tables, whose schema was found before
            continue
        field = schema.model_fields[part].annotation
        inner = [one for one in (field, *get_args(field)) if isinstance(one, type)]
        schema = next(one for one in inner if issubclass(one, Config))
    return tuple(schema.model_fields)


def _nearest(word: str, known: tuple[str, ...]) -> str:
    match = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {match[0]}?" if match else f"; known: {', '.join(known)}."
