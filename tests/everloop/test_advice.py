"""What messages advise exists: every option, every command and every setting that they name."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from everloop.cli import app
from everloop.demo_config import DemoConfig
from everloop.retention import RetentionConfig
from everloop.settings import TABLES, Config
from feedback.dataset import FeedbackConfig
from feedback.gate import GateConfig
from feedback.loop_config import LoopConfig
from feedback.store import StoreConfig
from feedback.trigger import TriggerConfig
from monitoring.drift_report import DriftConfig
from serving.engine.config import EngineConfig
from serving.openai_api.config import ServerConfig
from training.config import DpoConfig, KtoConfig, ModelConfig, PretrainConfig, SftConfig
from training.dataset import DataConfig
from training.export.config import ExportConfig
from training.tokenizer import TokenizerConfig

ROOT = Path(__file__).parents[2]
PACKAGES = ("everloop", "training", "serving", "monitoring", "feedback")
SCHEMAS: dict[str, type[Config]] = {
    "data": DataConfig, "tokenizer": TokenizerConfig, "model": ModelConfig,
    "pretrain": PretrainConfig, "sft": SftConfig, "kto": KtoConfig, "dpo": DpoConfig,
    "export": ExportConfig, "engine": EngineConfig, "server": ServerConfig, "store": StoreConfig,
    "drift": DriftConfig, "trigger": TriggerConfig, "feedback": FeedbackConfig, "gate": GateConfig,
    "loop": LoopConfig, "demo": DemoConfig, "retention": RetentionConfig,
}  # fmt: skip
# They start other programs, whose options these are.
STARTERS = {"serving/launch.py", "everloop/open_weights.py", "everloop/packaging.py"}
FOREIGN = {"--merge"}  # of llama.cpp's gguf-split
FILES = re.compile(
    r"\.(json|onnx|safetensors|sqlite|yaml|model|ggml|lock|log|py|toml|jinja|partial|gguf|html|data)\b"
)


def texts() -> Iterator[tuple[str, str]]:
    """Every string that the packages may show, f-strings with X in their gaps; no docstrings."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            inside = {
                id(part)
                for node in ast.walk(tree)
                if isinstance(node, ast.JoinedStr)
                for part in ast.walk(node)
                if part is not node
            }
            docs = {
                id(node.body[0].value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                and node.body
                and isinstance(node.body[0], ast.Expr)
            }
            where = str(path.relative_to(ROOT))
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    parts = [
                        str(part.value) if isinstance(part, ast.Constant) else "X"
                        for part in node.values
                    ]
                    yield f"{where}:{node.lineno}", "".join(parts)
                elif (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and id(node) not in inside | docs
                ):
                    yield f"{where}:{node.lineno}", node.value


def commands() -> dict[tuple[str, ...], set[str]]:
    """Words of a command -> its options."""
    found: dict[tuple[str, ...], set[str]] = {}

    def walk(command: click.Command, words: tuple[str, ...]) -> None:
        options = {option for one in command.params for option in one.opts}
        found[words] = {option for option in options if option.startswith("--")} | {"--help"}
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*words, name))

    walk(typer.main.get_command(app), ())
    return found


TEXTS = list(texts())
COMMANDS = commands()
OPTIONS = set().union(*COMMANDS.values())


def test_texts_are_found() -> None:
    assert any("Train one with: everloop train X --method" in text for _, text in TEXTS)
    assert {"--method", "--from"} <= COMMANDS["train",]


def test_every_option_that_a_message_names_exists() -> None:
    wrong = [
        f"{where}: {option}"
        for where, text in TEXTS
        if where.partition(":")[0] not in STARTERS
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)
        if option not in OPTIONS | FOREIGN
    ]
    assert wrong == []


def test_every_command_that_a_message_names_exists_with_its_options() -> None:
    wrong = []
    for where, text in TEXTS:
        for said in re.findall(r"\beverloop ([a-z]+(?: [^.,;`)\n]*)?)", text):
            words = said.split()
            if (words[0],) not in COMMANDS:
                if "`" in text or re.search(r"(with|it|:) ?everloop " + words[0], text):
                    wrong.append(f"{where}: everloop {words[0]}")
                continue
            verb = tuple(words[:2]) if tuple(words[:2]) in COMMANDS else (words[0],)
            is_group = any(len(known) > 1 and known[0] == verb[0] for known in COMMANDS)
            if is_group and len(verb) < 2:
                wrong.append(f"{where}: everloop {said}")
            named = [word.rstrip("'\"") for word in words if word.startswith("--")]
            wrong += [f"{where}: {verb} {word}" for word in named if word not in COMMANDS[verb]]
    assert wrong == []


def test_every_table_has_a_schema_here() -> None:
    assert set(SCHEMAS) == set(TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_every_setting_that_a_message_names_exists(table: str) -> None:
    wrong = [
        f"{where}: {table}.{key}"
        for where, text in TEXTS
        for key in re.findall(rf"(?<![\w./-]){table}\.([a-z_0-9]+)", FILES.sub("", text))
        if " " in text and not where.startswith("everloop/chat.py")  # names of tensors, a template
        if key not in SCHEMAS[table].model_fields
    ]
    assert wrong == []
