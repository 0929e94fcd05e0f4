from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from training.safetensors_writer import write_safetensors


def test_library_reads_what_was_written(tmp_path: Path) -> None:
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    whole = {
        "a": values,
        "b.half": values.to(torch.float16)[:, :3],
        "c": values.to(torch.bfloat16)[0],
        "scalar": values[0, 0],
        "empty": values[:0],
    }
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

    def read(name: str) -> np.ndarray:
        tensor = whole[name]
        return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()

    path = tmp_path / "model.safetensors"
    write_safetensors(
        path,
        {name: (names[tensor.dtype], tuple(tensor.shape)) for name, tensor in whole.items()},
        read,
    )

    found = load_file(path)
    assert found.keys() == whole.keys()
    for name, tensor in whole.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
