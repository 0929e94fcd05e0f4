import json
import subprocess
from pathlib import Path

import pytest

from benchmarks.peers.environment import PYTHON, ROOT, run_module
from benchmarks.random_model import TINY, make_checkpoint

# Runs in the peers' environment: reads the file with the gguf package, undoes the order of the
# rotated rows by its definition (row i and row i + half of a head become neighbours), and compares.
CHECK = """
import json, sys
import gguf, numpy as np
from safetensors.numpy import load_file

checkpoint, path, heads, kv_heads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
reader = gguf.GGUFReader(path)
read = {t.name: t.data.reshape(t.shape[::-1]) for t in reader.tensors}
ours = load_file(checkpoint + "/model.safetensors")

def rotated(table, count):
    size = table.shape[0] // count
    order = [h * size + i + half * size // 2
             for h in range(count) for i in range(size // 2) for half in (0, 1)]
    return table[order]

layer = "model.layers.1."
print(json.dumps({
    "tensors": len(read) == len(ours),
    "embedding": bool((read["token_embd.weight"] == ours["model.embed_tokens.weight"]).all()),
    "norm": bool((read["output_norm.weight"] == ours["model.norm.weight"]).all()),
    "query": bool((read["blk.1.attn_q.weight"]
                   == rotated(ours[layer + "self_attn.q_proj.weight"], heads)).all()),
    "key": bool((read["blk.1.attn_k.weight"]
                 == rotated(ours[layer + "self_attn.k_proj.weight"], kv_heads)).all()),
    "value": bool((read["blk.1.attn_v.weight"] == ours[layer + "self_attn.v_proj.weight"]).all()),
    "down": bool((read["blk.1.ffn_down.weight"] == ours[layer + "mlp.down_proj.weight"]).all()),
    "tokens": len(reader.fields["tokenizer.ggml.tokens"].data),
    "heads": int(reader.fields["llama.attention.head_count"].parts[-1][0]),
    "eos": int(reader.fields["tokenizer.ggml.eos_token_id"].parts[-1][0]),
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.is_file(), reason="no peers' environment: run make bench-peers")
def test_gguf_package_reads_back_what_was_written(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", TINY)
    target = tmp_path / "f32.gguf"
    run_module("benchmarks.peers.gguf_writer", checkpoint, target, "F32")
    heads = (str(TINY.num_attention_heads), str(TINY.num_key_value_heads))
    done = subprocess.run(
        [PYTHON, "-c", CHECK, checkpoint, target, *heads],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == {
        "tensors": True,
        "embedding": True,
        "norm": True,
        "query": True,
        "key": True,
        "value": True,
        "down": True,
        "tokens": 1_024,
        "heads": 4,
        "eos": 2,
    }
