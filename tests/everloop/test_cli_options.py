import json
import math
from pathlib import Path

import pytest

from everloop.cli_options import report, report_version
from everloop.manifest import (
    Divergence,
    ExportReport,
    Lineage,
    Manifest,
    PrecisionReport,
    SpecialTokens,
)
from everloop.registry import ModelVersion


def measured(**values: object) -> PrecisionReport:
    common: dict[str, object] = {
        "weights": "fp32",
        "block_size": None,
        "cache": "fp32",
        "val_loss": 4.0,
        "weight_loss_increase": 0.0,
        "cache_loss_increase": 0.0,
        "weights_bytes": 3 << 20,
        "cache_bytes_per_token": 46_080,
    }
    return PrecisionReport.model_validate(common | values)


@pytest.fixture
def version() -> ModelVersion:
    precisions = (
        measured(tokens_per_second={1: 81.4, 8: 320.0}, prefill_tokens_per_second=1400.0),
        measured(
            weights="int4",
            block_size=64,
            val_loss=4.2,
            val_loss_interval=(4.1, 4.3),
            weight_loss_increase=0.05,
            divergence=Divergence(
                tokens=2048,
                mean_kl=0.27,
                mean_kl_interval=(0.25, 0.29),
                p99_kl=2.5,
                top_1_agreement=0.708,
                top_1_interval=(0.698, 0.718),
                equal_answers=0.125,
            ),
            refusal="much",
        ),
    )
    manifest = Manifest(
        name="tiny",
        version="v1",
        family="llama",
        architecture="LlamaForCausalLM",
        parameters=1000,
        vocab_size=259,
        hidden_size=64,
        max_model_len=128,
        max_query_len=32,
        special_tokens=SpecialTokens(bos_token_id=None, eos_token_ids=(0,), pad_token_id=0),
        state=(),
        weight_precision="fp32",
        export=ExportReport(
            max_abs_logit_diff=1e-6,
            val_loss_fp32=4.0,
            val_loss=4.0,
            val_bpb=2.0,
            validation_tokens=100,
            precisions=precisions,
        ),
        evaluation={},
        lineage=Lineage(
            checkpoint_sha256="ab", datasets=(), parent=None, config={}, seed=0, packages={}
        ),
        files={},
    )
    return ModelVersion(manifest.tag, Path("tiny"), manifest)


def test_report_version_prints_a_table_of_precisions(
    version: ModelVersion, capsys: pytest.CaptureFixture[str]
) -> None:
    report_version(version, as_json=False)

    record, table = capsys.readouterr().out.split("\n\n")
    assert "model_version       tiny:v1" in record
    assert "precisions" not in record
    lines = [" ".join(line.split()) for line in table.strip().splitlines()]
    assert lines == [
        "weights cache loss by weights by cache mean KL p99 KL top-1 same answers tokens "
        "MiB bytes/token refused tokens/s at 1 tokens/s at 8 prefill",
        "fp32 fp32 4.0000 +0.00% +0.00% 3.0 46,080 81 320 1,400",
        "int4 b64 fp32 4.2000 ±0.1000 +5.00% +0.00% 0.2700 ±0.0200 2.5000 70.8% ±1.0% 12% 2,048 "
        "3.0 46,080 yes",
        "refused: much",
    ]


def test_report_version_as_json_keeps_every_number(
    version: ModelVersion, capsys: pytest.CaptureFixture[str]
) -> None:
    report_version(version, as_json=True)

    result = json.loads(capsys.readouterr().out)
    assert (result["model_version"], result["weights"], result["cache"]) == (
        "tiny:v1", "fp32", "fp32",
    )  # fmt: skip
    assert result["precisions"][0]["tokens_per_second"] == {"1": 81.4, "8": 320.0}
    assert result["precisions"][1]["refusal"] == "much"
    assert result["precisions"][1]["divergence"]["mean_kl"] == 0.27


def test_a_manifest_of_before_is_read_and_one_with_a_broken_loss_is_read_back(
    version: ModelVersion,
) -> None:
    manifest = version.manifest
    written = json.loads(manifest.model_dump_json())
    for row in written["export"]["precisions"]:
        del row["divergence"], row["val_loss_interval"]
    assert Manifest.model_validate_json(json.dumps(written)).export.precisions[1].refusal == "much"
    broken = manifest.model_copy(
        update={
            "export": manifest.export.model_copy(
                update={"precisions": (measured(val_loss=math.nan, refusal="broken"),)}
            )
        }
    )
    read = Manifest.model_validate_json(broken.model_dump_json())
    assert math.isnan(read.export.precisions[0].val_loss)


def test_report_leaves_cells_empty_that_a_row_does_not_have(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report([{"a": 1}, {"a": 2, "b": 3}], as_json=False)

    assert capsys.readouterr().out.splitlines() == ["a  b", "1", "2  3"]


def test_people_see_rounded_numbers_and_no_python(capsys: pytest.CaptureFixture[str]) -> None:
    result = {
        "steps": 240.0,
        "val_loss": 4.280312345,
        "rate": 0.000123456,
        "tokens": 1234567.0,
        "seconds": 128.98765,
        "share": float("nan"),
        "is_tied": True,
        "state": [{"name": "key", "shape": (2, 64), "extra": {}}, {"name": "value", "shape": ()}],
        "quality": {"docs": 1.23456789, "chat": {"rows": 3, "loss": 2.0}},
        "languages": ("en", "de"),
        "nothing": None,
        "empty": {},
    }

    report(result, as_json=False)

    shown = capsys.readouterr().out
    lines = [line.split("  ", 1) for line in shown.split("\n") if line]
    assert [(name, value.strip()) for name, value in lines] == [
        ("steps", "240"),
        ("val_loss", "4.280"),
        ("rate", "0.0001235"),
        ("tokens", "1,234,567"),
        ("seconds", "129.0"),
        ("share", "nan"),
        ("is_tied", "yes"),
        ("state", "name key, shape 2 64"),
        ("", "name value"),
        ("quality", "docs: 1.235"),
        ("", "chat: rows 3, loss 2"),
        ("languages", "en"),
        ("", "de"),
        ("nothing", ""),
        ("empty", ""),
    ]
    assert not set("{}[]()'") & set(shown)


def test_a_table_has_no_python_in_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    report([{"values": {"a": 0.123456789}, "list": ["x", 1.0], "ok": False}], as_json=False)
    assert capsys.readouterr().out.split("\n")[1] == "a 0.1235  x 1   no"
