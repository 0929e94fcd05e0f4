"""Three optimizer steps and the parity of a graph, as a process of its own on another processor.

qemu-x86_64 -cpu Haswell python -m tests.processors.training_process CHECKPOINT GRAPH
"""

import json
import sys
from pathlib import Path

import torch

from everloop.machine import instruction_sets
from training.config import ModelConfig, PretrainConfig
from training.cpu import autocast
from training.export.parity import measure_parity
from training.export.session import open_session
from training.models import build_model, learning_rates
from training.numerics import DTYPES, Numerics, choose_numerics
from training.optimizer import make_optimizer
from training.pretrained import load_model
from training.tokens import SpecialTokenIds

STEPS = 3
_VOCAB_SIZE = 300


def losses(numerics: Numerics) -> list[float]:
    """Train the smallest model on the same tokens; the loss before and after every step."""
    special = SpecialTokenIds(bos=0, pad=0, eos=(0,))
    model = build_model(ModelConfig(size="1m", context_length=32), _VOCAB_SIZE, special, seed=0)
    rates = learning_rates(model.config.hidden_size, PretrainConfig())
    optimizer = make_optimizer(model, rates, 0.1, muon_dtype=DTYPES[numerics.muon])
    tokens = torch.randint(_VOCAB_SIZE, (2, 32), generator=torch.Generator().manual_seed(1))
    found = []
    for step in range(STEPS + 1):
        with autocast(DTYPES[numerics.products]):
            loss = model(input_ids=tokens, labels=tokens).loss
        found.append(float(loss.detach()))
        if step < STEPS:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return found


def parity_ratios(checkpoint: Path, graph: Path) -> dict[str, float]:
    """How far the graph is from the checkpoint, and from one in which a matrix is 1 % larger."""
    model = load_model(checkpoint, attn_implementation="eager")
    session = open_session(graph, num_threads=1)
    sizes = {"max_model_len": 64, "max_query_len": 32}
    sound = measure_parity(model, session, **sizes).ratio
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.mul_(1.01)
    return {"sound": sound, "planted": measure_parity(model, session, **sizes).ratio}


if __name__ == "__main__":
    torch.set_num_threads(1)
    numerics = choose_numerics("cpu")
    result = {
        "instructions": instruction_sets(),
        "numerics": numerics.model_dump(),
        "losses": losses(numerics),
        "parity": parity_ratios(*map(Path, sys.argv[1:3])),
    }
    print(json.dumps(result))
