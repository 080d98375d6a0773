"""What the demo measured: results.json and the table at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fedafd.client.answers import Participation

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ClientResult", "DemoResult", "RoundResult", "headline_metric", "print_report"]

_RECALLS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "rsum")
_CAPTION = "gain: ± one standard error over the test samples; within it nothing is shown"
_HEADLINES = {"image": "acc1", "text": "acc1", "pair": "rsum"}


def headline_metric(kind: str) -> str:
    """The one metric that a kind of client is compared by: acc1 in percent, or rsum, the sum of six recalls."""
    return _HEADLINES[kind]


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """A completed round: the server's recalls in percent, bytes of all clients up and down, wall-clock seconds."""

    number: int
    server: dict[str, float]
    bytes_up: int
    bytes_down: int
    seconds: float

    @classmethod
    def of(
        cls, number: int, metrics: Mapping[str, float], participations: Sequence[Participation], seconds: float
    ) -> RoundResult:
        """From the metrics and participations that REST tells."""
        return cls(
            number=number,
            server={name: round(float(metrics[name]), 3) for name in _RECALLS},
            bytes_up=sum(part["bytes_up"] for part in participations),
            bytes_down=sum(part["bytes_down"] for part in participations),
            seconds=round(seconds, 1),
        )


@dataclass(frozen=True, kw_only=True)
class ClientResult:
    """One client on its test split: the same training alone and federated, and what it sent and received."""

    name: str
    kind: str
    metric: str
    alone: float | None
    federated: float
    standard_error: float | None
    """Of federated less alone, over the test samples that both were asked; None where it cannot be told."""
    bytes_up: int
    bytes_down: int
    details: dict[str, float]
    """Every metric that the client told in the last round."""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The whole run. `seconds` is from the start of the first round to the end of the last."""

    seed: int
    rounds: list[RoundResult]
    clients: list[ClientResult]
    seconds: float
    seconds_total: float
    data: str

    def to_json(self) -> dict[str, Any]:
        """As results.json has it."""
        return asdict(self)


def print_report(console: Console, result: DemoResult) -> None:
    """Two tables: clients, and the server per round."""
    from rich.table import Table
    from rich.text import Text

    clients = Table(
        title="Clients, on the test split of each", title_justify="left", caption=_CAPTION, caption_justify="left"
    )
    for heading in ("client", "kind", "metric"):
        clients.add_column(heading)
    for heading in ("alone", "federated", "gain", "MiB\nup", "MiB\ndown"):
        clients.add_column(heading, justify="right", no_wrap=heading == "gain")
    for client in result.clients:
        clients.add_row(
            client.name,
            client.kind,
            client.metric,
            _percent(client.alone),
            Text(f"{client.federated:.1f}", style="bold"),
            Text(*_difference(client)),
            _mebibytes(client.bytes_up),
            _mebibytes(client.bytes_down),
        )
    server = Table(title="Server, recall in percent on the public test split", title_justify="left")
    server.add_column("round", justify="right")
    for name in _RECALLS:
        server.add_column(name.replace("_r", "\nR@"), justify="right")
    server.add_column("seconds", justify="right")
    for item in result.rounds:
        server.add_row(str(item.number), *(f"{item.server[name]:.1f}" for name in _RECALLS), f"{item.seconds:.0f}")
    console.print(clients)
    console.print(server)


def _difference(client: ClientResult) -> tuple[str, str]:
    """The gain with its standard error, and a style: marked as gain or loss only where it is beyond that error."""
    if client.alone is None:
        return "-", ""
    gain, error = client.federated - client.alone, client.standard_error
    if error is None:
        return f"{gain:+.1f}", ""
    words = f"{gain:+.1f} ± {error:.1f}"
    if abs(gain) <= error:
        return words, ""
    return (words, "green") if gain > 0 else (f"{words} lost", "red")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.2f}"
