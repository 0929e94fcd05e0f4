"""The chat page: self-contained, labelled, and working in a real browser where there is one."""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from serving import launch
from tests.serving.fakes import wait_until

PAGE = (Path(__file__).parents[2] / "serving" / "chat_page" / "index.html").read_text("utf-8")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # Source: W3C WebDriver, the key of an element.


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(PAGE)

    def handle_starttag(self, tag, attrs) -> None:
        self.found.append((tag, dict(attrs)))


def test_page_is_served_with_a_closed_policy(http):
    reply = http.get("/")
    assert reply.text == PAGE
    assert reply.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert "connect-src 'self'" in reply.headers["content-security-policy"]


def test_page_needs_nothing_from_elsewhere():
    names = {name for _, attributes in Elements().found for name in attributes}
    assert not names & {"src", "href", "action"}
    assert "//" not in re.sub(r"<!.*?>", "", PAGE)
    assert "innerHTML" not in PAGE


def test_page_labels_its_fields_and_announces_answers():
    found = Elements().found
    fields = {a["id"] for tag, a in found if tag == "textarea"}
    assert fields == {a["for"] for tag, a in found if tag == "label"}
    assert dict(found)["html"] == {"lang": "en"}
    assert dict(found)["main"]["aria-live"] == "polite"


class Browser:
    """As much of WebDriver as these tests need."""

    def __init__(self, driver: str) -> None:
        self._http = httpx.Client(base_url=driver, timeout=30, trust_env=False)
        options = {"args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage"]}
        body = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        session = self._http.post("/session", json=body).json()["value"]
        self._session = f"/session/{session['sessionId']}"

    def _call(self, path: str, **body):
        reply = self._http.post(self._session + path, json=body)
        reply.raise_for_status()
        return reply.json()["value"]

    def open(self, url: str) -> None:
        self._call("/url", url=url)

    def find(self, css: str) -> str:
        return self._call("/element", using="css selector", value=css)[ELEMENT]

    def click(self, css: str) -> None:
        self._call(f"/element/{self.find(css)}/click")

    def clear(self, css: str) -> None:
        self._call(f"/element/{self.find(css)}/clear")

    def type(self, css: str, text: str) -> None:
        self._call(f"/element/{self.find(css)}/value", text=text)

    def text(self) -> str:
        return self._call("/execute/sync", script="return document.body.innerText", args=[])

    def close(self) -> None:
        self._http.delete(self._session)
        self._http.close()


@pytest.fixture
def browser() -> Iterator[Browser]:
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("no chromedriver on this machine")
    port = launch.free_port()
    process = subprocess.Popen(
        [driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    browser = None
    try:
        url = f"http://127.0.0.1:{port}"
        assert wait_until(lambda: _answers(f"{url}/status"), 20)
        browser = Browser(url)
        yield browser
    finally:
        if browser is not None:
            browser.close()
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, trust_env=False).is_success
    return False


@pytest.mark.slow
def test_page_streams_rates_and_corrects(browser, url, engine, recorder):
    engine.pieces = ["It is <b>", " bold</b>", "."]
    browser.open(url)
    browser.type("#question", "What is it?\ue007")  # the Enter key
    assert wait_until(lambda: "It is <b> bold</b>." in browser.text(), 10)
    assert wait_until(lambda: "Correct it" in browser.text(), 10)
    browser.click("button[aria-pressed]")
    assert wait_until(lambda: recorder.feedback, 10)
    browser.click("button[aria-expanded]")
    browser.clear(".correction textarea")
    browser.type(".correction textarea", "It is plain.")
    browser.click(".correction button")
    assert wait_until(lambda: len(recorder.feedback) == 2, 10)
    (kept,) = recorder.interactions
    thumb, correction = recorder.feedback
    assert (thumb.inference_id, thumb.metric_name, thumb.value) == (kept.id, "thumbs", True)
    assert (correction.metric_name, correction.value) == ("demonstration", "It is plain.")
    assert kept.conversation_id.startswith("page-")


@pytest.mark.slow
def test_page_shows_failures_and_keeps_the_conversation(browser, url, engine, recorder):
    browser.open(url)
    browser.type("#question", "One?\ue007")
    assert wait_until(lambda: "Correct it" in browser.text(), 10)
    engine.pieces = ["Hel", RuntimeError("boom")]
    browser.type("#question", "Two?\ue007")
    assert wait_until(lambda: "Failed: The server had an error" in browser.text(), 10)
    engine.pieces = ["Hello", "!"]
    browser.type("#question", "Three?\ue007")
    assert wait_until(lambda: len(recorder.interactions) == 3, 10)
    asked = [message.content for message in recorder.interactions[-1].messages]
    assert asked == ["One?", "Hello!", "Three?"]


@pytest.mark.slow
def test_page_can_stop_an_answer(browser, url, engine, recorder):
    engine.pieces = ["Hel", None]
    browser.open(url)
    browser.type("#question", "One?\ue007")
    assert wait_until(lambda: "Hel" in browser.text(), 10)
    browser.click("#send")
    assert wait_until(lambda: "Stopped." in browser.text(), 10)
    assert wait_until(lambda: engine.aborted, 10)
