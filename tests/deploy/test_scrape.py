"""A real Prometheus scrapes real expositions with the shipped configuration and rules."""

import json
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, start_http_server

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
DEADLINE_SECONDS = 60.0

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def ports(
    server_registry: CollectorRegistry, monitor_registry: CollectorRegistry
) -> Iterator[dict[str, int]]:
    """Serve both expositions; job name -> port."""
    registries = {"everloop-server": server_registry, "everloop-monitor": monitor_registry}
    servers = {
        job: start_http_server(0, addr="127.0.0.1", registry=registry)
        for job, registry in registries.items()
    }
    yield {job: server.server_port for job, (server, _) in servers.items()}
    for server, thread in servers.values():
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def api(prometheus: str, ports: dict[str, int], tmp_path: Path) -> Iterator[str]:
    """Start Prometheus on the shipped configuration, only the ports changed; its address."""
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / "alerts.yml")]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    command = [
        prometheus,
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (
        (tmp_path / "prometheus.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        yield f"http://{address}/api/v1"
        process.terminate()
        process.wait(timeout=30)


def ask(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return json.load(response)["data"]
    except OSError:  # not listening yet
        return None


def poll(url: str, found: Callable[[Any], bool]) -> Any:
    """Ask until the answer is the one waited for."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    pause = threading.Event()
    data = None
    while time.monotonic() < deadline:
        data = ask(url)
        if data is not None and found(data):
            return data
        pause.wait(0.2)
    raise AssertionError(f"{url} did not say so in {DEADLINE_SECONDS} s; last answer: {data}")


def test_prometheus_scrapes_both_processes_and_evaluates_the_rules(api: str) -> None:
    targets = poll(
        f"{api}/targets",
        lambda data: [target["health"] for target in data["activeTargets"]] == ["up", "up"],
    )
    assert {target["labels"]["job"] for target in targets["activeTargets"]} == {
        "everloop-server",
        "everloop-monitor",
    }
    query = urllib.parse.quote('llm_generation_tokens_total{model!="other"}')
    [sample] = poll(f"{api}/query?query={query}", lambda data: data["result"])["result"]
    assert sample["value"][1] == "12"
    groups = poll(
        f"{api}/rules",
        lambda data: all(
            rule["health"] == "ok" for group in data["groups"] for rule in group["rules"]
        ),
    )["groups"]
    assert sum(len(group["rules"]) for group in groups) == 17
    pending = poll(
        f"{api}/alerts",
        lambda data: (
            "LLMQuestionDrift" in {alert["labels"]["alertname"] for alert in data["alerts"]}
        ),
    )["alerts"]
    assert {alert["labels"]["alertname"] for alert in pending} == {
        "LLMQuestionDrift",
        "LLMDataDrift",
        "LLMMonitorStale",
    }
