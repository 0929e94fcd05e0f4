from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("server", "worker", "monitor")


def test_services_are_the_four_processes() -> None:
    assert set(SERVICES) == {*OURS, "prometheus"}


def test_ports_are_published_on_loopback_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", OURS)
def test_our_processes_run_unprivileged_and_untracked(name: str) -> None:
    service = SERVICES[name]
    assert service["user"].startswith("${EVERLOOP_UID:-1000}")
    assert service["cap_drop"] == ["ALL"]
    assert service["environment"]["BENTOML_DO_NOT_TRACK"] == "True"
    assert service["environment"]["DO_NOT_TRACK"] == "1"


@pytest.mark.parametrize("name", OURS)
def test_command_and_its_options_exist(name: str) -> None:
    from everloop.cli import app

    program, verb, *options = SERVICES[name]["command"]
    assert program == "everloop"
    text = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"}).output
    assert [option for option in options if option.startswith("--") and option not in text] == []
    assert "No such command" not in text


def test_scraped_ports_are_those_of_the_processes() -> None:
    config = yaml.safe_load(
        (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    )
    scraped = {
        job["job_name"].removeprefix("everloop-"): job["static_configs"][0]["targets"]
        for job in config["scrape_configs"]
    }
    assert scraped == {
        name: [f"127.0.0.1:{SERVICES[name]['command'][-1]}"] for name in ("server", "monitor")
    }
    for name in ("monitor", "prometheus"):
        assert SERVICES[name]["network_mode"] == "service:server"


@pytest.mark.parametrize("name", OURS)
def test_image_holds_every_package_and_only_files_that_exist(name: str) -> None:
    lines = SERVICES[name]["build"]["dockerfile_inline"].splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY")]
    sources = {source for group in copied for source in group}
    assert {"everloop", "training", "serving", "monitoring", "feedback"} <= sources
    assert [source for source in sorted(sources) if not (ROOT / source).exists()] == []


def test_server_has_time_to_drain() -> None:
    assert SERVICES["server"]["stop_grace_period"] == "40s"
