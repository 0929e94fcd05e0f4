from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from everloop.errors import ArtifactError
from training.gguf.rope import write_rope

# Llama 3.1 8B's and Llama 3.2 1B's.
PUBLISHED = [(8.0, 128), (32.0, 64)]


@pytest.mark.parametrize(("factor", "head_dim"), PUBLISHED)
def test_factors_are_what_llama_3_divides_its_frequencies_by(factor: float, head_dim: int) -> None:
    parameters = {
        "rope_type": "llama3", "rope_theta": 500_000.0, "factor": factor, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(
        head_dim=head_dim, rope_parameters=parameters, max_position_embeddings=131072
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500_000.0 ** (-np.arange(0, head_dim, 2) / head_dim)

    keys, factors = write_rope("here", parameters, head_dim)

    assert keys == {"rope.freq_base": 500_000.0}
    assert factors is not None
    np.testing.assert_allclose(factors, plain / scaled.numpy(), rtol=1e-5)


def test_scaling_without_a_place_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="rope_type yarn cannot be written as GGUF"):
        write_rope(str(tmp_path), {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}, 64)
