"""The figures of "Does it help?": each a chart with its heading, the file of its numbers and its picture's name.

Pure. A dot is red where the federation does not help: a personalized model that is worse than what it is compared with,
or a version of the global model that is worse than the one it was trained from, by more than one standard error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedafd.control_plane.dashboard.charts import Chart, chart
from fedafd.control_plane.dashboard.gains import OTHERS, VIEWS, SiteGain
from fedafd.persistence.cost_repository import RoundCost
from fedafd.persistence.models import ModelVersionRow

__all__ = ["Figure", "cost_figures", "recalls_figure", "server_figure", "site_figure", "weight_figure"]

_MEGABYTE = 1e6
_FIRST, _SECOND, _THIRD, _FOURTH = "federated", "local", "global", "alone"
"""Colours of style.css, which are called after the models whose lines they are on the page of a site."""
Series = dict[str, list[tuple[int, float, float | None]]]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart on the page."""

    name: str
    """Of the picture's file, and of the element."""
    title: str
    about: str
    drawn: Chart
    numbers: str
    """Address of the numbers as CSV, below the page's."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What each series is called."""
    red: str = ""
    """What a red dot means; empty where there is none."""


def site_figure(site: SiteGain) -> Figure | None:
    """A site's models by round. An error bar is that of the model's difference to the personalized one."""
    series: Series = {
        view: [
            (point.round_number, point.values[view], point.gains[view].error if view in point.gains else None)
            for point in site.points
            if view in point.values
        ]
        for view in VIEWS
    }
    worse = {}
    for point in site.points:
        over = next((view for view in OTHERS if view in point.gains), "")
        if over and point.gains[over].verdict == "worse":
            worse[point.round_number] = f"worse than {VIEWS[over]}"
    drawn = chart(series, {"federated": worse})
    if drawn is None:
        return None
    return Figure(
        name=f"site-{site.name}",
        title=f"{site.name} ({site.kind.value}, {site.metric})",
        about=f"{site.metric} of {site.name}'s models by round; the table above has the last values",
        drawn=drawn,
        numbers=f".csv?site={site.name}",
        names=VIEWS,
        red="personalized is worse" if worse else "",
    )


def weight_figure(site: SiteGain) -> Figure | None:
    """What a site counts for in the ensemble of each modality, by round; red where the ensemble went without it."""
    shown = {"image": _FIRST, "text": _SECOND}
    series: Series = {
        view: [(share.round_number, share.weights[name], None) for share in site.shares if name in share.weights]
        for name, view in shown.items()
    }
    out = {
        view: {share.round_number: "left out" for share in site.shares if name in share.left_out}
        for name, view in shown.items()
    }
    drawn = chart(series, out, from_zero=True)
    if drawn is None:
        return None
    return Figure(
        name=f"weight-{site.name}",
        title=f"{site.name}: weight in the ensemble, percent",
        about=f"what {site.name} counts for in the ensemble of each modality, by round, in percent",
        drawn=drawn,
        numbers=f".csv?site={site.name}",
        names={view: name for name, view in shown.items()},
        red="left out of the ensemble" if any(out.values()) else "",
    )


def server_figure(versions: Sequence[ModelVersionRow], metric: str) -> Figure | None:
    """A recall of the global model by version, ascending."""
    measured = {row.version: row for row in versions if metric in row.metrics}
    worse = {}
    for row in measured.values():
        parent = measured.get(row.parent_version or 0)
        error = row.metrics.get(f"{metric}_standard_error", 0.0)
        if parent is not None and parent.metrics[metric] - row.metrics[metric] > error:
            worse[row.version] = f"worse than version {parent.version}"
    points = [(row.version, row.metrics[metric], row.metrics.get(f"{metric}_standard_error")) for row in versions
              if metric in row.metrics]  # fmt: skip
    drawn = chart({_FIRST: points}, {_FIRST: worse}, "version")
    if drawn is None:
        return None
    return Figure(
        name=f"server-{metric}",
        title=f"Global model: {metric}",
        about=f"{metric} of the global model by version",
        drawn=drawn,
        numbers="/versions.csv",
        names={_FIRST: "global model"},
        red="worse than the version before it" if worse else "",
    )


def recalls_figure(versions: Sequence[ModelVersionRow]) -> Figure | None:
    """Recall at 1 and at 10 both ways, by version, ascending."""
    shown = {"i2t_r1": _FIRST, "i2t_r10": _SECOND, "t2i_r1": _THIRD, "t2i_r10": _FOURTH}
    series: Series = {
        view: [(row.version, row.metrics[metric], None) for row in versions if metric in row.metrics]
        for metric, view in shown.items()
    }
    drawn = chart(series, x_name="version")
    if drawn is None:
        return None
    return Figure(
        name="server-recalls",
        title="Global model: recalls",
        about="recall at 1 and at 10 of the global model by version, in percent",
        drawn=drawn,
        numbers="/versions.csv",
        names={view: metric for metric, view in shown.items()},
    )


def cost_figures(costs: Sequence[RoundCost]) -> list[Figure]:
    """Bytes and time by round, ascending."""
    megabytes: Series = {
        _FIRST: [(cost.number, cost.bytes_up / _MEGABYTE, None) for cost in costs],
        _SECOND: [(cost.number, cost.bytes_down / _MEGABYTE, None) for cost in costs],
    }
    minutes: Series = {_FIRST: [(cost.number, cost.seconds / 60, None) for cost in costs]}
    kinds = [
        ("cost-bytes", "Megabytes moved", "megabytes that all sites moved, by round", megabytes),
        ("cost-minutes", "Minutes taken", "minutes from a round's begin to its end, by round", minutes),
    ]
    labels = {"cost-bytes": ("sent by sites", "sent to sites"), "cost-minutes": ("minutes",)}
    figures = []
    for name, title, about, series in kinds:
        drawn = chart(series, from_zero=True)
        if drawn is not None:
            names = dict(zip(series, labels[name], strict=True))
            figures.append(Figure(name=name, title=title, about=about, drawn=drawn, numbers="/rounds.csv", names=names))
    return figures
