"""A site's status for a person to read, on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedafd.agent.benefit import MODELS, RoundBenefit
from fedafd.agent.status import SiteStatus
from fedafd.learning.comparison import PairedDifference

__all__ = ["legend_of", "print_status", "status_facts"]

_MIB = 1 << 20


def print_status(status: SiteStatus, console: Console) -> None:
    """All of it: facts, a table of rounds, and what to think about."""
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in status_facts(status):
        facts.add_row(name, Text(value))
    console.print(facts)
    if status.rounds:
        console.print()
        console.print(_rounds(status.rounds))
        console.print(Text(legend_of(status.rounds[-1]), style="dim"))
        for warning in status.rounds[-1].warnings():
            console.print()
            console.print(Text(warning[0].upper() + warning[1:] + ".", style="yellow"))


def status_facts(status: SiteStatus) -> Iterator[tuple[str, str]]:
    """What is what, in words."""
    own = status.credential
    if own is None:
        yield "enrolled", "not yet"
    else:
        yield "enrolled", f"as {own.kind.value} client {own.client_name} in federation {own.federation_id}"
    yield "agent", "running" if status.running else "not running"
    yield "task", _task(status)
    if status.waits_for_approval is not None:
        yield "your yes", f"is waited for since round {status.waits_for_approval}: fedafd agent approve"
    delivered = f"round {status.rounds[-1].round_number}, {status.rounds[-1].delivered_at}" if status.rounds else "none"
    yield "last delivered", delivered
    if status.sent and status.rounds:
        words = ", ".join(f"{entry.what} ({entry.bytes:,} bytes)" for entry in status.sent_last)
        yield "sent in it", words or "nothing"
    if status.privacy is not None:
        spent = status.privacy
        yield "privacy", f"epsilon {spent.epsilon:.3g} is spent at delta {spent.delta:g}, by round {spent.round}"
    yield "your model", _model(status)
    yield "trained alone", _baseline(status)
    if status.data_changes:
        words = "; ".join(f"{a} added, {r} removed in {split}" for split, (a, r) in status.data_changes.items())
        yield "data", f"changed before the agent's last start: {words}"
    largest = sorted(status.disk_bytes.items(), key=lambda item: -item[1])[:4]
    words = ", ".join(f"{name} {size / _MIB:.1f}" for name, size in largest if size >= _MIB / 20)
    yield "disk", f"{sum(status.disk_bytes.values()) / _MIB:.1f} MiB" + (f" ({words})" if words else "")


def _model(status: SiteStatus) -> str:
    if status.model is None:
        return "none yet"
    last = status.rounds[-1].round_number if status.rounds else None
    earlier = "" if status.model_round in (None, last) else f", of round {status.model_round} of before"
    return f"{status.model}{earlier}"


def _task(status: SiteStatus) -> str:
    if status.waits_for_receipt is not None:
        return f"round {status.waits_for_receipt} is trained and waits for its receipt"
    note = status.task
    if note is None:
        return "none yet"
    if note.round_number is not None:
        until = "" if note.deadline is None else f", which waits until {note.deadline}"
        return f"to take part in round {note.round_number}{until} (told {note.at})"
    return f"to wait: {note.reason or 'no round is open'} (told {note.at})"


def _baseline(status: SiteStatus) -> str:
    at_work = ", at work now" if status.baseline_running else ""
    if status.baseline_rounds:
        rounds = f"{status.baseline_rounds} round{'' if status.baseline_rounds == 1 else 's'}"
        return f"{rounds}, of {status.baseline_target} that your model has trained{at_work}"
    if status.baseline_running:
        return "the first round, at work now"
    return "not yet: `fedafd agent baseline`, or baseline: background in agent.yaml"


def _rounds(rounds: tuple[RoundBenefit, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("round", justify="right")
    for name in ("personalized", "own branch", "frozen global", "alone"):
        table.add_column(name, justify="right")
    table.add_column("over alone", justify="right")
    table.add_column("over global", justify="right")
    for record in rounds:
        split = record.splits[record.on] if record.on is not None else None
        values = {} if split is None else split.values
        gains = {} if split is None else split.differences
        cells = [f"{values[view]:.1f}" if view in values else "-" for view in MODELS]
        table.add_row(str(record.round_number), *cells, _gain(gains.get("alone")), _gain(gains.get("global")))
    return table


def _gain(difference: PairedDifference | None) -> Text:
    if difference is None:
        return Text("-")
    error = "" if difference.standard_error is None else f" ± {difference.standard_error:.1f}"
    style = "green" if difference.is_above else "red" if difference.is_below else ""
    return Text(f"{difference.mean:+.1f}{error}", style=style)


def legend_of(last: RoundBenefit) -> str:
    """What the figures of the rounds are, by the last of them."""
    if last.on is None:
        return "The data have no test and no validation sample: nothing to measure."
    split = last.splits[last.on]
    unit = "rsum, of 600" if split.metric == "rsum" else f"{split.metric}, percent"
    return (
        f"{unit}, on your {split.num_samples} {last.on} samples. over: the personalized model less the other,"
        " ± the standard error of that difference."
    )
