import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
DOCS = Path(__file__).parents[2] / "docs" / "monitoring.md"
METRIC = re.compile(r"\b(?:llm_|process_)\w+|\bup\b")


def rules() -> list[dict[str, str]]:
    content = yaml.safe_load((DEPLOY / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in content["groups"] for rule in group["rules"]]


def run(promtool: str, *arguments: str) -> str:
    done = subprocess.run(
        [promtool, *arguments], cwd=DEPLOY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_config_and_rules_are_valid(promtool: str) -> None:
    assert f"{len(rules())} rules found" in run(promtool, "check", "config", "prometheus.yml")


@pytest.mark.slow
def test_alerts_fire_and_stay_silent_as_their_tests_say(promtool: str) -> None:
    assert "SUCCESS" in run(promtool, "test", "rules", "alerts_test.yml")


def test_every_alert_has_a_test_that_it_fires() -> None:
    content = yaml.safe_load((DEPLOY / "alerts_test.yml").read_text(encoding="utf-8"))
    fired = {
        case["alertname"]
        for test in content["tests"]
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_alert_names_only_exposed_metrics(rule: dict[str, str], exposed: set[str]) -> None:
    named = set(METRIC.findall(rule["expr"]))
    assert named
    assert named <= exposed


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_alert_is_documented(rule: dict[str, str]) -> None:
    assert f"`{rule['alert']}`" in DOCS.read_text(encoding="utf-8")


def test_every_metric_is_documented(exposed: set[str]) -> None:
    text = DOCS.read_text(encoding="utf-8")
    families = {
        re.sub(r"_(bucket|count|sum|created)$", "", name)
        for name in exposed
        if name.startswith("llm_") and not name.endswith("_created")
    }
    assert {name for name in families if f"`{name}`" not in text} == set()


@pytest.mark.parametrize("process", ["server_registry", "monitor_registry"])
def test_promtool_finds_nothing_to_say_about_the_metrics(
    promtool: str, process: str, request: pytest.FixtureRequest
) -> None:
    registry: CollectorRegistry = request.getfixturevalue(process)
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=generate_latest(registry),
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
