"""A training run as a process of its own, for tests that kill it or start two.

python -m tests.training.train_process SHARDS TOKENIZER RUN
"""

import sys
from pathlib import Path

from training.config import ModelConfig, PretrainConfig
from training.pretrain import pretrain

CONFIG = PretrainConfig(
    max_steps=24,
    device_batch_size=2,
    grad_accum_steps=2,
    eval_every=3,
    log_every=1,
    eval_windows=4,
    warmup_steps=2,
    dropout=0.1,
    num_threads=1,
    device="cpu",
)

if __name__ == "__main__":
    shards, tokenizer, run = map(Path, sys.argv[1:4])
    pretrain(shards, tokenizer, run, ModelConfig(size="1m", context_length=32), CONFIG)
