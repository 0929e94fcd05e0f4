"""Load what a Hugging Face folder holds: transformers' architectures and Everloop's own.

From the folder alone, from safetensors alone, and without progress bars of the library's own.
Everything that loads a checkpoint's model comes through here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from training import rnn


def load_config(checkpoint: Path) -> PreTrainedConfig:
    """Read the config of a checkpoint; what transformers raises is the caller's to explain."""
    rnn.register()
    return AutoConfig.from_pretrained(checkpoint, local_files_only=True)


def load_model(
    checkpoint: Path, *, dtype: torch.dtype = torch.float32, **settings: Any
) -> PreTrainedModel:
    """Load the causal language model of a checkpoint, in evaluation mode.

    Args:
        checkpoint: Hugging Face folder.
        dtype: of the weights in memory.
        settings: further arguments of `from_pretrained`, such as attn_implementation.
    """
    rnn.register()
    with quiet_transformers():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            checkpoint, dtype=dtype, local_files_only=True, use_safetensors=True, **settings
        )
    return model.eval()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide the bars that transformers draws on stderr for every load and save."""
    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()
