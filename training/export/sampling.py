"""Sampling defaults that came with a checkpoint: its generation_config.json."""

from pathlib import Path

from pydantic import ValidationError

from everloop.errors import ArtifactError
from everloop.manifest import Lineage
from everloop.sampling_defaults import IMPORTED, TRAINED, SamplingDefaults
from training.export.special_tokens import GENERATION_CONFIG, read_settings

_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def read_sampling(checkpoint: Path, lineage: Lineage) -> SamplingDefaults:
    """Read them; without any, those of weights from elsewhere or of weights trained here.

    A field that the file leaves out is off. Source of the fields: transformers, GenerationConfig;
    its top_k of 50 where none is given is not taken over.

    Raises:
        ArtifactError: a value is out of range, or the file is no JSON.
    """
    path = checkpoint / GENERATION_CONFIG
    found = read_settings(path)
    given = {name: found[name] for name in _FIELDS if found.get(name) is not None}
    if given.get("top_k") == 0:
        del given["top_k"]
    if found.get("do_sample") is False:  # the authors want the most probable token
        given = {"temperature": 0.0}
    if not given:
        is_own = any(dataset.use == "pretrain" for dataset in lineage.datasets)
        return TRAINED if is_own else IMPORTED
    try:
        return SamplingDefaults.model_validate({**given, "source": GENERATION_CONFIG})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ArtifactError(
            f"{path}: {name}: {first['msg']}, got {first['input']!r}. Correct it or remove it."
        ) from error
