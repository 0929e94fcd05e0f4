"""Records of a small life: interactions, feedback, rows, a model version."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everloop.manifest import (
    DatasetRef,
    ExportReport,
    Lineage,
    Manifest,
    ParityReport,
    SpecialTokens,
)
from everloop.records import DatasetRow, Feedback, Interaction, Message, Source, content_hash
from everloop.registry import ModelVersion
from feedback.store import Store, open_store


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with all migrations done; copying it takes less time than migrating again."""
    path = tmp_path_factory.mktemp("store") / "empty.sqlite"
    open_store(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.sqlite'}"


@pytest.fixture
def store(tmp_path: Path, url: str, empty_store: Path) -> Iterator[Store]:
    shutil.copy(empty_store, tmp_path / "store.sqlite")
    store = open_store(url)
    yield store
    store.close()


@pytest.fixture
def asked() -> Callable[..., Interaction]:
    def make(number: int = 1, question: str | None = None, **changes: object) -> Interaction:
        base = Interaction(
            id=f"chatcmpl-{number}",
            created_at=1000.0 + number,
            route="chat",
            conversation_id=f"talk-{number}",
            model_version="everloop:v1",
            messages=(Message(role="user", content=question or f"What is number {number}?"),),
            answer=f"Number {number} is a number.",
            finish_reason="stop",
            prompt_tokens=7,
            completion_tokens=6,
            temperature=0.7,
            top_p=1.0,
            max_tokens=64,
            seed=None,
            queue_seconds=0.001,
            ttft_seconds=0.02,
            e2e_seconds=0.3,
        )
        return base.model_copy(update=changes)

    return make


@pytest.fixture
def said() -> Callable[..., Feedback]:
    def make(
        number: int = 1,
        metric_name: str = "thumbs",
        value: bool | float | str = True,
        **changes: object,
    ) -> Feedback:
        base = Feedback(
            id=f"fb-{number}-{metric_name}",
            created_at=2000.0 + number,
            inference_id=f"chatcmpl-{number}",
            episode_id=None,
            metric_name=metric_name,
            value=value,
        )
        return base.model_copy(update=changes)

    return make


@pytest.fixture
def row() -> Callable[..., DatasetRow]:
    def make(
        number: int = 1,
        split: str = "train",
        sources: tuple[Source, ...] | None = None,
        messages: tuple[Message, ...] | None = None,
        text: str | None = None,
    ) -> DatasetRow:
        if messages is None:
            text = text or f"Document {number} explains the thing."
        return DatasetRow(
            id=content_hash(text, messages),
            split=split,
            sources=sources or (Source(kind="document", id=f"doc-{number}"),),
            text=text,
            messages=messages,
            topic="things",
        )

    return make


@pytest.fixture
def version() -> Callable[..., ModelVersion]:
    def make(
        name: str = "v1", parent: str | None = None, datasets: tuple[DatasetRef, ...] = ()
    ) -> ModelVersion:
        manifest = Manifest(
            name="everloop",
            version=name,
            family="qwen3",
            architecture="Qwen3ForCausalLM",
            parameters=1000,
            vocab_size=256,
            hidden_size=32,
            max_model_len=128,
            max_query_len=32,
            special_tokens=SpecialTokens(bos_token_id=0, eos_token_ids=(0, 2), pad_token_id=0),
            state=(),
            weight_precision="int8",
            export=ExportReport(
                parity=ParityReport(ratio=1.5, graph_distance=3e-6, torch_distance=2e-6),
                val_loss_fp32=2.0,
                val_loss=2.01,
                val_bpb=1.1,
                validation_tokens=4096,
            ),
            evaluation={},
            lineage=Lineage(
                checkpoint_sha256="ab" * 32,
                datasets=datasets,
                parent=parent,
                config={},
                seed=0,
                packages={},
            ),
            files={},
        )
        return ModelVersion(manifest.tag, Path("/models") / name, manifest)

    return make
