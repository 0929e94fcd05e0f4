import argparse
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from benchmarks.engine import (
    OURS,
    PREFILL_TOKENS,
    PROMPT_TOKENS,
    Plan,
    against_machine,
    against_peers,
    measure,
    names,
)
from benchmarks.machine_limits import MachineLimits
from benchmarks.precisions import PRECISIONS, PREFILL, Precision
from benchmarks.random_model import SMOLLM2_135M, TINY, ModelShape, make_checkpoint
from benchmarks.report import Result
from benchmarks.side import Prompts, Side
from serving.engine.config import EngineConfig

PLAN = Plan(rounds=3, tokens=4, rows=(1, 8, PREFILL), peers=(), shape=TINY, config=EngineConfig())


def limits() -> MachineLimits:
    """Measured like any, with little work: these tests read no limit."""
    return MachineLimits(read_bytes=1 << 20, matrix=64)


class ScriptedSide:
    """Decodes at `speed` a row, reads prompts ten times as fast, and notes what it was asked."""

    def __init__(self, label: str, speed: float, turns: list[str]) -> None:
        self.label = label
        self.speed = speed
        self.turns = turns
        self.prompts: list[Prompts] = []

    def decode(self, prompts: Prompts, tokens: int) -> float:
        self.turns.append(self.label)
        self.prompts.append(prompts)
        return self.speed * len(prompts)

    def prefill(self, prompt: list[int]) -> float:
        self.turns.append(self.label)
        self.prompts.append([prompt])
        return self.speed * 10

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


def results(precision: Precision) -> tuple[list[str], list[ScriptedSide], list[Result]]:
    turns: list[str] = []
    ours, peer = ScriptedSide("ours", 30.0, turns), ScriptedSide("peer 1.0", 20.0, turns)
    sides: dict[str, Side] = {OURS: ours, "llama.cpp": peer}
    measured = measure(sides, PLAN, limits(), lambda: None)
    return turns, [ours, peer], against_peers("fp32", precision, sides, measured)


def test_sides_take_turns_on_the_same_new_prompts() -> None:
    turns, (ours, peer), _ = results(Precision({}))
    assert turns == ["ours", "peer 1.0"] * 9
    assert ours.prompts == peer.prompts
    assert [(len(rows), len(rows[0])) for rows in ours.prompts[:3]] == [
        (1, PROMPT_TOKENS),
        (8, PROMPT_TOKENS),
        (1, PREFILL_TOKENS),
    ]
    assert ours.prompts[0] != ours.prompts[3]


def test_every_peer_and_number_of_rows_has_a_line_with_its_target() -> None:
    _, _, lines = results(Precision({}, targets={("llama.cpp", 8): 1.6, ("genai", 1): 1.0}))
    assert [(line.name, line.value, line.peer, line.ratio, line.target) for line in lines] == [
        ("fp32 decode, 1 row / peer 1.0", 30.0, 20.0, 1.5, None),
        ("fp32 decode, 1 row / fastest peer (peer 1.0)", 30.0, 20.0, 1.5, 1.0),
        ("fp32 decode, 8 rows / peer 1.0", 240.0, 160.0, 1.5, 1.6),
        ("fp32 decode, 8 rows / fastest peer (peer 1.0)", 240.0, 160.0, 1.5, 1.0),
        ("fp32 prefill / peer 1.0", 300.0, 200.0, 1.5, None),
        ("fp32 prefill / fastest peer (peer 1.0)", 300.0, 200.0, 1.5, 1.0),
    ]
    assert lines[2].ok is False


def test_the_fastest_peer_is_found_for_each_number_of_rows() -> None:
    sides: dict[str, Side] = {
        name: ScriptedSide(name, speed, [])
        for name, speed in ((OURS, 30.0), ("slow", 10.0), ("fast", 40.0))
    }
    measured = measure(sides, PLAN, limits(), lambda: None)
    measured[8].of["slow"] = [480.0, 480.0, 480.0]
    lines = against_peers("fp32", Precision({}), sides, measured)
    assert [(line.name, line.ratio, line.ok) for line in lines if "fastest" in line.name] == [
        ("fp32 decode, 1 row / fastest peer (fast)", 0.75, False),
        ("fp32 decode, 8 rows / fastest peer (slow)", 0.5, False),
        ("fp32 prefill / fastest peer (fast)", 0.75, False),
    ]


def test_sizes_of_a_folder_are_those_of_its_model(tmp_path: Path) -> None:
    assert ModelShape.read(make_checkpoint(tmp_path / "checkpoint", TINY)) == TINY


def test_without_peers_our_own_figures_remain() -> None:
    side = ScriptedSide("ours", 30.0, [])
    measured = measure({OURS: side}, PLAN, limits(), lambda: None)
    lines = against_peers("fp32", PRECISIONS["fp32"], {OURS: side}, measured)
    assert [(line.name, line.peer) for line in lines] == [
        ("fp32 decode, 1 row", None),
        ("fp32 decode, 8 rows", None),
        ("fp32 prefill", None),
    ]


def test_shares_of_the_machine_use_the_bytes_and_operations_of_a_token() -> None:
    side = ScriptedSide("ours", 30.0, [])
    measured = measure({OURS: side}, PLAN, limits(), lambda: None)
    shares = against_machine(
        "fp32",
        Precision({}, bandwidth_target=0.5),
        measured,
        weight_bytes=100,  # a limit of 60 tokens/s
        linear_parameters=20,  # a limit of 600 tokens/s
        limits=MachineLimits(bytes_per_second=6_000.0, flops=24_000.0),
    )
    assert [(share.value, share.target, share.ok) for share in shares] == [
        (0.5, 0.5, True),
        (0.5, None, None),
    ]


def test_linear_parameters_are_those_of_smollm2() -> None:
    assert SMOLLM2_135M.linear_parameters == 106_168_320
    embedding = SMOLLM2_135M.vocab_size * SMOLLM2_135M.hidden_size
    norms = (2 * SMOLLM2_135M.num_hidden_layers + 1) * SMOLLM2_135M.hidden_size
    assert SMOLLM2_135M.linear_parameters + embedding + norms == 134_515_008


def test_names_are_checked() -> None:
    assert names(("a", "b"))("b,a") == ("b", "a")
    with pytest.raises(argparse.ArgumentTypeError, match="unknown: c; choose among a, b"):
        names(("a", "b"))("a,c")
