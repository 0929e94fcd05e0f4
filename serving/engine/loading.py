"""What a model version brings besides its graph, and the proof that it generates what it did."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError
from tokenizers import Tokenizer

from everloop.chat import ChatTemplate
from everloop.errors import ArtifactError
from everloop.manifest import Golden, Manifest
from serving.engine.sampling_params import SamplingParams
from serving.engine.sequence import GenerationResult

logger = logging.getLogger(__name__)


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


def check_golden(
    generate: Callable[[list[list[int]], list[SamplingParams]], list[GenerationResult]],
    folder: Path,
) -> None:
    """Generate every golden continuation greedily and compare it token by token.

    A continuation may leave the golden one at a token whose lead is not clear: processors round
    the activations of quantized products differently. What follows is then another text.

    Raises:
        ArtifactError: golden.json is unreadable, or a continuation differs at a clear token.
    """
    path = folder / "golden.json"
    try:
        golden = Golden.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise ArtifactError(f"{path} is unreadable: {error}. Export the version again.") from error
    results = generate(
        [list(case.prompt_token_ids) for case in golden.cases],
        [
            SamplingParams(
                max_tokens=len(case.completion_token_ids), temperature=0.0, ignore_eos=True
            )
            for case in golden.cases
        ],
    )
    for number, (case, result) in enumerate(zip(golden.cases, results, strict=True), start=1):
        place = _first_difference(case.completion_token_ids, result.token_ids)
        if place is None:
            continue
        lead = case.leads[place] if case.leads else math.inf
        if lead >= golden.clear_lead:
            raise ArtifactError(
                f"{path}: case {number} of {len(golden.cases)} continues with "
                f"{list(case.completion_token_ids)}, this machine generates "
                f"{list(result.token_ids)}. Export the version on this machine."
            )
        logger.info(
            "golden text left at an unclear token case=%d token=%d lead=%.4f clear_lead=%.4f",
            number,
            place + 1,
            lead,
            golden.clear_lead,
        )


def _first_difference(expected: tuple[int, ...], found: tuple[int, ...]) -> int | None:
    if found == expected:
        return None
    pairs = enumerate(zip(expected, found, strict=False))
    return next((place for place, (left, right) in pairs if left != right), len(found))
