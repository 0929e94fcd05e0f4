"""What the demo found, as one document for programs and as a table for people."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table


class GateReport(BaseModel):
    """The gate's verdict with its reasons; `none` when the round ended before the gate."""

    verdict: str
    reasons: list[str]


class Sample(BaseModel):
    """One held-out question with the answers of the model before and after the round."""

    question: str
    wanted: str
    before: str
    after: str


class HeldOut(BaseModel):
    """Held-out questions, asked of the base model and of the champion after the round.

    Attributes:
        before: answers of the base model that the user would approve.
        after: answers of the champion that the user would approve.
        is_mute: the champion answered nothing but white space.
    """

    questions: int
    before: int
    after: int
    is_mute: bool


class DemoReport(BaseModel):
    """Everything the demo measured. Losses are nats per token, quality is chrF from 0 to 1."""

    val_loss_before: float
    val_loss_after: float | None
    quality_before: float | None
    quality_after: float | None
    quality_gain_ci95: tuple[float, float] | None
    gate: GateReport
    failed_requests: int
    answered_requests: int
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    tokens_per_s: float
    seconds: float = 0.0
    peak_rss_bytes: int = 0
    champion: str
    served_versions: dict[str, int]
    thumbs_up: int
    thumbs_down: int
    corrections: int
    drift: str
    reports: list[str]
    held_out: HeldOut
    samples: list[Sample]
    note: str

    @property
    def failure(self) -> str | None:
        """Why the demo has nothing to show, in one sentence; None if the round was a success."""
        if self.gate.verdict != "promote":
            reasons = "; ".join(self.gate.reasons)
            return f"nothing was learnt that the gate lets through ({self.gate.verdict}): {reasons}"
        if self.held_out.is_mute:
            return "the model answers with white space only: nothing was learnt"
        return None


def print_report(report: DemoReport, home: Path, console: Console) -> None:
    """Show the report and what to do next."""
    table = Table(title="The loop, closed once", title_justify="left", show_header=True)
    for title in ("", "before", "after"):
        table.add_column(title)
    table.add_row(
        "validation loss (nats/token)", *_pair(report.val_loss_before, report.val_loss_after)
    )
    table.add_row(
        "held-out answer quality (chrF)", *_pair(report.quality_before, report.quality_after)
    )
    if report.quality_gain_ci95 is not None:
        low, high = report.quality_gain_ci95
        table.add_row("  gain, 95% interval", "", f"[{low:+.4f}, {high:+.4f}]", style="dim")
    held_out = report.held_out
    if held_out.questions:
        counts = (f"{count} of {held_out.questions}" for count in (held_out.before, held_out.after))
        table.add_row("held-out answers that the user approves", *counts)
    console.print(table)
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in _facts(report).items():
        facts.add_row(name, value)
    console.print(facts)
    for sample in report.samples:
        console.print(f"\n[bold]Q[/bold] {sample.question}", highlight=False)
        for name in ("wanted", "before", "after"):
            console.print(f"  {name:<7}", getattr(sample, name), highlight=False, markup=False)
    console.print(f"\n{report.note}\n", style="dim", highlight=False)
    console.print(_next_steps(home), highlight=False, markup=False, soft_wrap=True)


def _pair(before: float | None, after: float | None) -> tuple[str, str]:
    shown = ["-" if value is None else f"{value:.4f}" for value in (before, after)]
    return shown[0], shown[1]


def _facts(report: DemoReport) -> dict[str, Any]:
    versions = ", ".join(f"{tag} ({count})" for tag, count in report.served_versions.items())
    return {
        "gate": report.gate.verdict,
        "reasons": "\n".join(report.gate.reasons),
        "champion": report.champion,
        "answered by": versions,
        "requests": f"{report.answered_requests} answered, {report.failed_requests} failed",
        "feedback": f"{report.thumbs_up} up, {report.thumbs_down} down, "
        f"{report.corrections} corrections",
        "TTFT p50 / p95": " / ".join(map(_milliseconds, (report.ttft_p50_s, report.ttft_p95_s))),
        "throughput": f"{report.tokens_per_s:,.0f} tokens/s",
        "drift": report.drift,
        "time and memory": f"{report.seconds:.0f} s, peak {report.peak_rss_bytes / 2**30:.2f} GiB",
        "reports": "\n".join(report.reports),
    }


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"


def _next_steps(home: Path) -> str:
    everloop, url = ".venv/bin/everloop", "http://127.0.0.1:3000"
    body = '{"model": "everloop", "messages": [{"role": "user", "content": "What is a list?"}]}'
    return f"""Talk to the model now:
  {everloop} up --home {home}    server, worker and monitor; chat page on {url}
  {everloop} chat    in the terminal, with /up, /down and /fix
  curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'
  openai.OpenAI(base_url="{url}/v1", api_key="none")    from Python, as any OpenAI model
Why did the champion change?    {everloop} models history --home {home}
Where does an answer come from?    {everloop} models trace COMPLETION_ID --home {home}"""
