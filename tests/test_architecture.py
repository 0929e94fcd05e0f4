"""The floors: imports go down only, packages keep to their allow-list, files stay small."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("everloop", "training", "serving", "monitoring", "feedback")

# Floor of a module; the longest prefix that matches decides. A module imports from lower floors, or
# from its own package on its own floor.
FLOORS = {
    "everloop": 0,
    "everloop.__main__": 3,
    "everloop.batch_invariance": 2,
    "everloop.cli": 3,
    "everloop.cli_data": 3,
    "everloop.cli_data_text": 3,
    "everloop.cli_doctor": 3,
    "everloop.cli_import": 3,
    "everloop.cli_options": 3,
    "everloop.cli_store": 3,
    "everloop.cli_train": 3,
    "everloop.comparison_text": 2,
    "everloop.demo": 2,
    "everloop.doctor": 2,
    "everloop.demo_config": 2,
    "everloop.demo_scene": 2,
    "everloop.exporting": 2,
    "everloop.importing": 2,
    "everloop.inheritance": 2,
    "everloop.compare_runs": 2,
    "everloop.evaluate_runs": 2,
    "everloop.lifecycle": 2,
    "everloop.packaging": 2,
    "everloop.retention": 2,
    "everloop.train_runs": 2,
    "everloop.up": 2,
    "training": 1,
    "serving": 1,
    "serving.server": 2,
    "serving.service": 2,
    "monitoring": 1,
    "monitoring.worker": 2,
    "feedback": 1,
    "feedback.loop": 2,
    "feedback.measure": 2,
    "feedback.worker": 2,
}

# Third-party packages that a package may import anywhere, at module level or inside a function.
ALLOWED = {
    "everloop": {
        "_typeshed", "bentoml", "filelock", "jinja2", "numpy", "openai", "psutil", "pydantic",
        "pydantic_settings", "rich", "tokenizers", "typer",
    },
    "training": {
        "accelerate", "datasets", "datatrove", "filelock", "fsspec", "ftfy", "gguf", "jinja2",
        "loguru", "numpy", "onnx", "onnxruntime", "peft", "plotly", "py3langid", "pyarrow",
        "pydantic", "psutil", "pynvml", "pypdf", "ray", "rich", "sacrebleu", "safetensors", "scipy",
        "tokenizers", "torch", "trafilatura", "transformers", "trl", "warcio", "xxhash",
        "zstandard",
    },
    "serving": {
        "bentoml", "filelock", "llguidance", "numpy", "onnxruntime", "prometheus_client", "psutil",
        "pydantic", "pydantic_core", "starlette", "tokenizers", "uvicorn",
    },
    "monitoring": {
        "evidently", "numpy", "pandas", "prometheus_client", "pydantic", "sklearn",
    },
    "feedback": {"alembic", "numpy", "pydantic", "rich", "scipy", "sqlalchemy"},
}  # fmt: skip

# Libraries that only the named places may import.
RESERVED = {
    "onnxruntime": (
        "serving.engine.model_runner",
        "serving.engine.product_speed",
        "training.export",
    ),
    "evidently": ("monitoring.drift",),
    "llguidance": ("serving.engine.structured_output",),
}


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions and under TYPE_CHECKING included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor(module: str) -> int:
    parts = module.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next(FLOORS[prefix] for prefix in prefixes if prefix in FLOORS)


def within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def test_imports_go_down_only() -> None:
    wrong = []
    for module, path in modules():
        for name in imported(path):
            if name.split(".")[0] not in PACKAGES:
                continue
            same_part = name.split(".")[0] == module.split(".")[0]
            if floor(name) > floor(module) or (floor(name) == floor(module) == 1 and not same_part):
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_no_import_cycle() -> None:
    files = dict(modules())
    graph = {
        module: {
            max((known for known in files if within(name, known)), key=len, default="")
            for name in imported(path)
        }
        - {module, ""}
        for module, path in files.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for dependency in graph[module]:
                visit(dependency, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("package", PACKAGES)
def test_package_imports_only_what_it_is_allowed(package: str) -> None:
    known = set(PACKAGES) | set(sys.stdlib_module_names) | ALLOWED[package]
    found = {
        f"{module}: {name}"
        for module, path in modules()
        if within(module, package)
        for name in imported(path)
        if name.split(".")[0] not in known
    }
    assert found == set()


@pytest.mark.parametrize("library", RESERVED)
def test_reserved_library_stays_in_its_place(library: str) -> None:
    found = {
        module
        for module, path in modules()
        if not any(within(module, place) for place in RESERVED[library])
        and any(within(name, library) for name in imported(path))
    }
    assert found == set()


def test_files_and_functions_stay_small() -> None:
    long = []
    for module, path in modules():
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 300:
            long.append(f"{module}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 60:
                    long.append(f"{module}.{node.name}: {length} lines")
    assert long == []


def test_no_global_statement_no_todo() -> None:
    found = []
    for module, path in modules():
        text = path.read_text(encoding="utf-8")
        if any(isinstance(node, ast.Global) for node in ast.walk(ast.parse(text))):
            found.append(f"{module}: global")
        found += [f"{module}: {word}" for word in ("TODO", "FIXME", "XXX") if word in text]
    assert found == []
