"""A check for a person to read, on a terminal of 80 columns: the data in tables, then a line for each finding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fedafd.agent.check import SiteCheck
from fedafd.agent.findings import Finding, Level
from fedafd.datasets.facts import DataReport
from fedafd.domain.config import AgentConfig

__all__ = ["print_check"]

_MOST_CLASSES = 20
_MOST_UNREADABLE = 10
_MOST_REPEATS = 5
_MARKS = {
    Level.FINE: ("ok", "green"),
    Level.NOTE: ("note", "cyan"),
    Level.WARNING: ("look", "yellow"),
    Level.ERROR: ("error", "bold red"),
}


def print_check(check: SiteCheck, console: Console, *, site: AgentConfig, config: Path) -> None:
    """All that was found, and what to do next; `config` is where `site` was read from."""
    if check.report is not None:
        where = "" if site.data.path is None else str(site.data.path)
        console.print(Text(f"{site.kind.value} data by {site.data.adapter} {where}".strip(), style="bold"))
        console.print()
        console.print(_data(check.report, where))
        console.print()
    console.print(_findings(check.findings))
    console.print()
    console.print(_verdict(check))
    if not check.exit_code():
        at = "" if str(config) == "agent.yaml" else f" --config {config}"
        console.print("Next:" if check.enrolled else "Next, with the token of your invitation:")
        token = "" if check.enrolled else " --token TOKEN"
        console.print(f"  fedafd agent run{at}{token}", soft_wrap=True, highlight=False, markup=False)


def _data(report: DataReport, where: str) -> RenderableType:
    parts: list[RenderableType] = [_counts(report)]
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(report):
        facts.add_row(name, Text(value))
    parts.append(Padding(facts, (1, 0, 0, 0), expand=False))
    for title, rows in (("Cannot be read", _unreadable(report, where)), ("Equal content", _repeats(report, where))):
        if rows:
            parts.append(Padding(Group(Text(title, style="bold"), *map(Text, rows)), (1, 0, 0, 0), expand=False))
    return Group(*parts)


def _counts(report: DataReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("class" if report.classes else "")
    for split in report.counts:
        table.add_column(split, justify="right")
    for name, counts in list(report.classes.items())[:_MOST_CLASSES]:
        style = "" if counts["train"] else "yellow"
        table.add_row(Text(name, overflow="ellipsis", no_wrap=True), *(str(n) for n in counts.values()), style=style)
    if len(report.classes) > _MOST_CLASSES:
        table.add_row(f"and {len(report.classes) - _MOST_CLASSES} more classes (--json lists all)")
    table.add_row("all" if report.classes else "pairs", *(str(n) for n in report.counts.values()), style="bold")
    return table


def _facts(report: DataReport) -> Iterator[tuple[str, str]]:
    listing = report.listing
    if listing.files_seen:
        yield "files", f"{listing.files_read} read, of {listing.files_seen}"
    for omission in listing.left_out:
        yield (
            "left out",
            f"{omission.count} {omission.reason.words} ({omission.what}), such as {', '.join(omission.examples[:2])}",
        )
    if report.images is not None:
        images = report.images
        small, large = (f"{width} x {height}" for width, height in (images.smallest, images.largest))
        size = f"all {small} pixels" if small == large else f"{small} to {large} pixels"
        yield "images", f"{size}, {images.grey} grey, {images.blank} of a single colour"
    if report.texts is not None:
        texts = report.texts
        (few, middle, many), (short, _, long) = texts.words, texts.characters
        yield "texts", f"{few} to {many} words, half of them up to {middle}; {short} to {long} characters"
    if report.repeats.dropped:
        yield "dropped", f"{report.repeats.dropped} training samples that another split holds, too"
    yield "fingerprint", report.fingerprint.value[:16]


def _unreadable(report: DataReport, where: str) -> list[str]:
    unreadable = report.unreadable
    rows = [f"{_short(file.name, where)}: {file.reason}" for file in unreadable.first[:_MOST_UNREADABLE]]
    return [*rows, *_more(unreadable.count - len(rows))]


def _repeats(report: DataReport, where: str) -> list[str]:
    groups = report.repeats.first
    rows = [" = ".join(_short(name, where) for name in group) for group in groups[:_MOST_REPEATS]]
    return [*rows, *(["..."] if len(groups) > len(rows) else [])]


def _more(count: int) -> list[str]:
    return [f"and {count} more"] if count > 0 else []


def _short(name: str, where: str) -> str:
    """A file's name below the data's folder."""
    return name.replace(f"{where.rstrip('/')}/", "") if where else name


def _findings(findings: tuple[Finding, ...]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.level]
        table.add_row(Text(mark, style=style), finding.about, Text(finding.text))
    return table


def _verdict(check: SiteCheck) -> Text:
    errors = sum(finding.level is Level.ERROR for finding in check.findings)
    looks = sum(finding.level is Level.WARNING for finding in check.findings)
    looked = "" if not looks else f" {looks} thing to look at." if looks == 1 else f" {looks} things to look at."
    if errors:
        sentence = f"{errors} error{'s' if errors > 1 else ''}: an agent would not run."
        return Text(f"{sentence}{looked}", style="bold red")
    return Text.assemble(("Ready to go on." if check.enrolled else "Ready to join.", "bold green"), looked)
