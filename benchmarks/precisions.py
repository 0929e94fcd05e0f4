"""The precisions that are compared, what stands against each, and what is to be reached.

A peer runs in its own nearest precision. Q8_0 and Q4_0 store a half-precision scale for every 32
weights; our int8 and int4 a single-precision one for every block.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers import genai, ik_llama, llama_cpp, openvino
from benchmarks.peers.genai import GenaiSide
from benchmarks.peers.ik_llama import IkLlamaSide
from benchmarks.peers.llama_cpp import LlamaCppSide
from benchmarks.peers.openvino import OpenVinoSide
from benchmarks.side import Side
from training.export import ExportConfig

PEERS = ("llama.cpp", "ik_llama.cpp", "openvino", "genai", "transformers")
PREFILL = 0  # in place of a number of rows

Targets = dict[tuple[str, int], float]


@dataclass(frozen=True, slots=True)
class Precision:
    """One way to store weights and cache.

    Attributes:
        export: our settings.
        llama_cpp: its types of weights and cache; ik_llama.cpp's, too.
        openvino: type of the weights in the GGUF file that OpenVINO reads.
        genai: its precision.
        transformers: its dtype.
        bandwidth_target: share of the limit that reading the weights once a token sets.
        targets: by peer and rows (PREFILL for prefill), for the ratio of ours to the peer's.
    """

    export: dict[str, object]
    llama_cpp: tuple[str, str] | None = None
    openvino: str | None = None
    genai: str | None = None
    transformers: str | None = None
    bandwidth_target: float | None = None
    targets: Targets = field(default_factory=dict)

    def export_config(self, max_model_len: int) -> ExportConfig:
        """The settings of the export; what they cost on random weights is not looked at."""
        return ExportConfig.model_validate(
            {**_LIFTED, "max_model_len": max_model_len, **self.export}
        )

    def peers(
        self, wanted: Iterable[str], checkpoint: Path, threads: int
    ) -> dict[str, AbstractContextManager[Side]]:
        """The peers that were asked for, are installed and have this precision, by name."""
        found: dict[str, AbstractContextManager[Side]] = {}
        for peer in wanted:
            if peer == "llama.cpp" and self.llama_cpp and llama_cpp.is_present():
                found[peer] = LlamaCppSide(checkpoint, *self.llama_cpp, threads)
            elif peer == "ik_llama.cpp" and self.llama_cpp and ik_llama.is_present():
                found[peer] = IkLlamaSide(checkpoint, *self.llama_cpp, threads)
            elif peer == "openvino" and self.openvino and openvino.is_present():
                found[peer] = OpenVinoSide(checkpoint, self.openvino, threads)
            elif peer == "genai" and self.genai and genai.is_present():
                found[peer] = GenaiSide(checkpoint, self.genai, threads)
            elif peer == "transformers" and self.transformers:
                # Here, for torch takes seconds to load.
                from benchmarks.peers.transformers import TransformersSide

                found[peer] = TransformersSide(checkpoint, self.transformers, threads)
        return found


_LIFTED = {
    "max_kl": 100.0,
    "min_top_1_agreement": 0.0,
    "max_int8_loss_increase": 10.0,
    "max_int4_loss_increase": 10.0,
    "max_int8_cache_loss_increase": 10.0,
}
_GENAI: Targets = {("genai", rows): 1.0 for rows in (1, 8, 16, 32)}
_Q4_0: Targets = {("llama.cpp", rows): 1.0 for rows in (1, 8, 32)}

PRECISIONS = {
    "fp32": Precision(
        {"precision": "fp32", "cache": "fp32"},
        llama_cpp=("F32", "f16"),
        genai="fp32",
        transformers="float32",
        bandwidth_target=0.7,
        targets={
            **{("llama.cpp", rows): 1.15 for rows in (8, 16, 32)},
            ("llama.cpp", PREFILL): 1.3,
            ("transformers", 8): 2.5,
            **_GENAI,
        },
    ),
    "int8": Precision(
        {"precision": "int8", "cache": "fp32"},
        llama_cpp=("Q8_0", "f16"),
        genai="int8",
        bandwidth_target=0.45,
        targets={("llama.cpp", PREFILL): 1.4, **_GENAI},
    ),
    "int8-kv8": Precision(
        {"precision": "int8", "cache": "int8"},
        llama_cpp=("Q8_0", "q8_0"),
        openvino="Q8_0",
        genai="int8",
        transformers="bfloat16",
        bandwidth_target=0.45,
        targets={
            ("llama.cpp", 1): 1.0,
            ("llama.cpp", 8): 2.0,
            ("llama.cpp", 32): 1.8,
            ("llama.cpp", PREFILL): 1.4,
            **_GENAI,
        },
    ),
    # Q4_0 was faster with its 16-bit cache than with q8_0 at every number of rows.
    "int4-kv8": Precision(
        {"precision": "int4", "block_size": 32, "cache": "int8"},
        llama_cpp=("Q4_0", "f16"),
        genai="int4",
        bandwidth_target=0.38,
        targets={**_Q4_0, **_GENAI},
    ),
    "int4-b64-kv8": Precision(
        {"precision": "int4", "block_size": 64, "cache": "int8"},
        llama_cpp=("Q4_0", "f16"),
        bandwidth_target=0.38,
        targets=_Q4_0,
    ),
}
COMPARED = ("fp32", "int8-kv8", "int4-kv8", "int4-b64-kv8")  # unless others are asked for
QUICK = ("fp32", "int8-kv8")
