"""What a model version must show before it takes a request: that it fits, and that it is itself."""

from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError
from tokenizers import Tokenizer

from everloop.chat import ChatTemplate
from everloop.errors import ArtifactError, ConfigError
from everloop.manifest import Golden, Manifest
from serving.engine.config import EngineConfig
from serving.engine.sampling_params import SamplingParams
from serving.engine.sequence import GenerationResult
from serving.engine.slot_state import slot_bytes

_GIB = 1 << 30


def load_tokenizer(folder: Path, manifest: Manifest) -> Tokenizer:
    """Read tokenizer.json.

    Raises:
        ArtifactError: it is unreadable, or has more tokens than the model.
    """
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ArtifactError(
            f"{path} is no tokenizer: {error}. Export the version again."
        ) from error
    if tokenizer.get_vocab_size() > manifest.vocab_size:
        raise ArtifactError(
            f"{path} has {tokenizer.get_vocab_size()} tokens, the model of {manifest.tag} knows "
            f"{manifest.vocab_size}. Export the version with its own tokenizer."
        )
    return tokenizer


def load_chat_template(
    folder: Path, manifest: Manifest, tokenizer: Tokenizer
) -> ChatTemplate | None:
    """Read the version's chat template, if it has one."""
    special = manifest.special_tokens
    bos = "" if special.bos_token_id is None else tokenizer.id_to_token(special.bos_token_id)
    eos = [tokenizer.id_to_token(token_id) for token_id in special.eos_token_ids]
    return ChatTemplate.load(folder, bos_token=bos or "", eos_token=(eos[-1] if eos else "") or "")


def check_memory(folder: Path, manifest: Manifest, config: EngineConfig) -> None:
    """Refuse a version whose weights and cache do not fit.

    Raises:
        ConfigError: with both sizes and the limit.
    """
    weights = sum((folder / name).stat().st_size for name in manifest.files if "onnx" in name)
    cache = slot_bytes(manifest) * config.max_num_seqs
    if weights + cache > config.memory_limit_bytes:
        raise ConfigError(
            f"model version {manifest.tag} needs {weights / _GIB:.2f} GiB for weights and "
            f"{cache / _GIB:.2f} GiB for the cache of {config.max_num_seqs} sequences, the limit "
            f"is {config.memory_limit_bytes / _GIB:.2f} GiB. Lower engine.max_num_seqs."
        )


def check_golden(
    generate: Callable[[list[list[int]], list[SamplingParams]], list[GenerationResult]],
    folder: Path,
) -> None:
    """Generate every golden continuation greedily and compare it token by token.

    Raises:
        ArtifactError: golden.json is unreadable, or a continuation differs.
    """
    path = folder / "golden.json"
    try:
        cases = Golden.model_validate_json(path.read_text(encoding="utf-8")).cases
    except (OSError, ValidationError) as error:
        raise ArtifactError(f"{path} is unreadable: {error}. Export the version again.") from error
    wanted = [case.completion_token_ids for case in cases]
    results = generate(
        [list(case.prompt_token_ids) for case in cases],
        [
            SamplingParams(max_tokens=len(tokens), temperature=0.0, ignore_eos=True)
            for tokens in wanted
        ],
    )
    for number, (expected, result) in enumerate(zip(wanted, results, strict=True), start=1):
        if result.token_ids != expected:
            raise ArtifactError(
                f"{path}: case {number} of {len(cases)} continues with {list(expected)}, this "
                f"machine generates {list(result.token_ids)}. Export the version on this machine."
            )
