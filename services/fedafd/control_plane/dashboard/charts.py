"""Line charts as coordinates for an SVG that the server draws: no script, no colour of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Chart", "Dot", "chart"]

WIDTH, HEIGHT = 640, 220
_LEGEND = 26
"""Below the chart, so that a picture of it says what its lines are."""
_MOST_DOTS = 40
_Points = Sequence[tuple[int, float, float | None]]
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 24


@dataclass(frozen=True)
class Dot:
    """A measured value and, where it is known, the ends of its error bar."""

    x: float
    y: float
    label: str
    low: float | None = None
    high: float | None = None
    worse: bool = False


@dataclass(frozen=True)
class Chart:
    """What is drawn."""

    lines: Mapping[str, str]
    """`points` of a polyline by series."""
    dots: Mapping[str, Sequence[Dot]]
    y_ticks: Sequence[tuple[float, str]]
    x_ticks: Sequence[tuple[float, str]]
    x_name: str = "round"
    width: int = WIDTH
    height: int = HEIGHT + _LEGEND
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    bottom: int = HEIGHT - _BOTTOM


def chart(
    series: Mapping[str, _Points],
    worse: Mapping[str, Mapping[int, str]] | None = None,
    x_name: str = "round",
    *,
    from_zero: bool = False,
) -> Chart | None:
    """Series of (round, value, error or None); None where there is no value that can be drawn.

    `worse`: by series which rounds are marked as bad, and how that is said. `from_zero`: of amounts, which are seen
    by their whole height.
    """
    series = {name: [point for point in points if math.isfinite(point[1])] for name, points in series.items()}
    numbers = sorted({number for points in series.values() for number, _, _ in points})
    if not numbers:
        return None
    ends = [
        value + side * (error or 0.0) for points in series.values() for _, value, error in points for side in (-1, 1)
    ]
    if from_zero:
        ends.append(0.0)
    step = _step(max(ends) - min(ends) or abs(max(ends)) or 1.0)
    low, high = math.floor(min(ends) / step) * step, math.ceil(max(ends) / step) * step
    high = high if high > low else low + step

    def x(number: int) -> float:
        span = numbers[-1] - numbers[0]
        at = (number - numbers[0]) / span if span else 0.5
        return round(_LEFT + at * (WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        return round(_TOP + (high - value) / (high - low) * (HEIGHT - _TOP - _BOTTOM), 1)

    drawn = {name: points for name, points in series.items() if points}
    marks = worse or {}
    dots = {
        name: [
            _dot(x, y, point, f"{x_name} {point[0]}", marks.get(name, {}).get(point[0], ""))
            for point in _thinned(points, marks.get(name, {}))
        ]
        for name, points in drawn.items()
    }
    ticks = [low + n * step for n in range(round((high - low) / step) + 1)]
    return Chart(
        lines={name: " ".join(f"{x(n)},{y(value)}" for n, value, _ in points) for name, points in drawn.items()},
        dots=dots,
        y_ticks=[(y(tick), f"{tick:g}") for tick in ticks],
        x_ticks=[(x(number), str(number)) for number in _some(numbers)],
        x_name=x_name,
    )


def _dot(
    x: Callable[[int], float], y: Callable[[float], float], point: tuple[int, float, float | None], at: str, bad: str
) -> Dot:
    number, value, error = point
    words = f"{at}: {value:.1f}" + (f" ± {error:.1f}" if error is not None else "") + (f", {bad}" if bad else "")
    if error is None:
        return Dot(x(number), y(value), words, worse=bool(bad))
    return Dot(x(number), y(value), words, y(value - error), y(value + error), worse=bool(bad))


def _thinned(points: _Points, marked: Mapping[int, str]) -> _Points:
    """So many that dots and error bars stand apart; the last, and each that is marked, is always among them."""
    every = math.ceil(len(points) / _MOST_DOTS)
    return [point for index, point in enumerate(reversed(points)) if index % every == 0 or point[0] in marked][::-1]


def _step(span: float) -> float:
    """A round number of which a span has about four."""
    size = 10.0 ** math.floor(math.log10(span / 4))
    return next((factor * size for factor in (1.0, 2.0, 5.0) if span / (factor * size) <= 5), 10 * size)


def _some(numbers: Sequence[int]) -> list[int]:
    every = max(1, math.ceil(len(numbers) / 12))
    return [number for index, number in enumerate(numbers) if index % every == 0]
