import pytest

from everloop.errors import ArtifactError, ConfigError
from everloop.manifest import PrecisionReport
from tests.tiny_model import make_tiny_checkpoint
from training.export.architecture import Architecture, read_architecture
from training.export.config import ExportConfig
from training.export.precision import FP32, WeightFormat, choose, wanted_caches, wanted_weights

INT8 = WeightFormat("int8", 32)


def measured(name: str, speeds: tuple[float, float] | None, loss: float, **changes: object) -> (
    PrecisionReport
):  # fmt: skip
    weights, cache = name.split("/")
    values: dict[str, object] = {
        "weights": weights,
        "block_size": None,
        "cache": cache,
        "val_loss": loss,
        "weight_loss_increase": loss / 4.0 - 1,
        "cache_loss_increase": 0.0,
        "weights_bytes": 100,
        "cache_bytes_per_token": {"fp32": 4096, "int8": 1024}[cache],
        "tokens_per_second": {} if speeds is None else {1: speeds[0], 8: speeds[1]},
    }
    return PrecisionReport.model_validate(values | changes)


@pytest.fixture(scope="module")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> Architecture:
    """Widths 64, 128 and 96: the last does not divide by 64."""
    return read_architecture(make_tiny_checkpoint(tmp_path_factory.mktemp("narrow")))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Architecture:
    folder = tmp_path_factory.mktemp("wide")
    return read_architecture(make_tiny_checkpoint(folder, intermediate_size=128))


def test_choose_takes_the_fastest_by_both_numbers_of_rows() -> None:
    reports = [
        measured("fp32/fp32", (100, 300), 4.0),
        measured("int8/int8", (200, 700), 4.01),  # geometric mean 374
        measured("int4/int8", (300, 900), 4.05),  # 520
        measured("int4/fp32", (500, 400), 4.04),  # 447
    ]

    assert choose(reports) is reports[2]


def test_choose_counts_the_prompt_with_the_answer() -> None:
    reports = [
        measured("int8/fp32", (100, 100), 4.0, prefill_tokens_per_second=400.0),  # 80 together
        measured("int8/int8", (120, 120), 4.0, prefill_tokens_per_second=150.0),  # 67
    ]

    assert choose(reports) is reports[0]


def test_choose_takes_the_least_loss_among_equal_speeds() -> None:
    reports = [
        measured("fp32/fp32", (100, 100), 4.0),
        measured("int8/int8", (190, 190), 4.01),  # 5 % slower than the fastest
        measured("int4/int8", (200, 200), 4.05),
    ]

    assert choose(reports) is reports[1]


def test_choose_takes_the_smallest_among_equal_speeds_and_losses() -> None:
    reports = [
        measured("int8/fp32", (200, 200), 4.0, weights_bytes=200),
        measured("int8/int8", (195, 195), 4.001, weights_bytes=200),
        measured("int4/int8", (195, 195), 4.02, weights_bytes=100),
    ]

    assert choose(reports) is reports[1]


def test_choose_passes_over_what_was_refused() -> None:
    reports = [
        measured("fp32/fp32", (100, 100), 4.0),
        measured("int4/int8", None, 4.9, refusal="int4 block 32 raises the validation loss"),
    ]

    assert choose(reports) is reports[0]


def test_choose_without_speeds_takes_the_smallest_cache() -> None:
    reports = [measured("int8/fp32", None, 4.0), measured("int8/int8", None, 4.001)]

    assert choose(reports) is reports[1]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"precision": "fp32"}, [FP32]),
        ({"precision": "int8"}, [INT8]),
        ({"precision": "int4", "block_size": 64}, [WeightFormat("int4", 64)]),
        ({"precision": "auto"}, [FP32, INT8, WeightFormat("int4", 32)]),
        (
            {"precision": "auto", "block_size": 64},
            [FP32, WeightFormat("int8", 64), WeightFormat("int4", 64)],
        ),
    ],
)
def test_wanted_weights(
    wide: Architecture, settings: dict[str, object], expected: list[WeightFormat]
) -> None:
    assert wanted_weights(ExportConfig(**settings), wide) == expected


def test_wanted_weights_of_auto_leaves_out_blocks_that_do_not_fit(
    architecture: Architecture,
) -> None:
    config = ExportConfig(precision="auto", block_size=64)

    assert wanted_weights(config, architecture) == [FP32]


def test_wanted_weights_refuses_blocks_that_do_not_fit(architecture: Architecture) -> None:
    with pytest.raises(
        ArtifactError,
        match=r"int4 in blocks of 64 needs intermediate_size divisible by 64, got 96\. Export with "
        r"precision fp32 or block_size 32",
    ):
        wanted_weights(ExportConfig(precision="int4", block_size=64), architecture)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["fp32", "int8"]),
        ({"precision": "auto"}, ["fp32", "int8"]),
        ({"precision": "fp32"}, ["fp32"]),
        ({"precision": "fp32", "cache": "int8"}, ["int8"]),
        ({"cache": "fp32"}, ["fp32"]),
    ],
)
def test_wanted_caches(
    architecture: Architecture, settings: dict[str, object], expected: list[str]
) -> None:
    assert wanted_caches(ExportConfig(**settings), architecture) == expected


def test_wanted_caches_of_recurrent_layers_are_fp32(tmp_path_factory: pytest.TempPathFactory) -> (
    None
):  # fmt: skip
    folder = tmp_path_factory.mktemp("lstm")
    architecture = read_architecture(make_tiny_checkpoint(folder, family="lstm"))

    assert wanted_caches(ExportConfig(), architecture) == ["fp32"]
    with pytest.raises(ConfigError, match="keeps a recurrent state and no cache of keys and"):
        wanted_caches(ExportConfig(cache="int8"), architecture)


@pytest.mark.parametrize(
    ("weights", "text"), [(FP32, "fp32"), (INT8, "int8 block 32")], ids=["fp32", "int8"]
)
def test_weight_format_has_a_name(weights: WeightFormat, text: str) -> None:
    assert str(weights) == text
