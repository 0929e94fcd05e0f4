import importlib.util
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
DASHBOARD = json.loads((GRAFANA / "everloop.json").read_text(encoding="utf-8"))
METRIC = re.compile(r"\b(?:llm_|process_)\w+|\bup\b")


def built() -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("grafana_build", GRAFANA / "build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    content: dict[str, Any] = module.build()
    return content


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def test_file_is_what_the_generator_writes() -> None:
    assert built() == DASHBOARD


@pytest.mark.parametrize("expression", expressions())
def test_expression_names_only_exposed_metrics(expression: str, exposed: set[str]) -> None:
    named = set(METRIC.findall(expression))
    assert named
    assert named <= exposed


def test_expressions_parse(promtool: str, tmp_path: Path) -> None:
    values = {"$__rate_interval": "1m", "$model": ".*"}
    rules = []
    for number, expression in enumerate(expressions()):
        for name, value in values.items():
            expression = expression.replace(name, value)
        rules.append({"record": f"dashboard:expression:{number}", "expr": expression})
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}), encoding="utf-8")
    checked = subprocess.run(
        [promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(expressions())} rules found" in checked.stdout


def test_every_latency_of_the_server_has_a_panel(exposed: set[str]) -> None:
    latencies = {
        name for name in exposed if name.startswith("llm_") and name.endswith("_seconds_bucket")
    }
    text = " ".join(expressions())
    assert {name for name in latencies if name not in text} == set()


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


def test_panels_have_distinct_ids_and_titles() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({panel["title"] for panel in panels()}) == len(panels())
