"""`shapes`: generated pictures of coloured shapes with captions that describe them. Unlimited and seeded.

Sample i of a split depends on (seed, split, i) only. All three kinds of clients have a task on the same world: an image
client names the shape, a text client names what a caption is about, a pair client retrieves captions and images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fedafd.datasets.samples import ClientData, ImageArray, ImageSplit, PairSplit, TextSplit
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind

__all__ = ["SHAPES", "ShapesOptions", "client_data", "public_data"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 45, 45),
    "green": (50, 160, 70),
    "blue": (50, 80, 200),
    "yellow": (225, 205, 55),
    "purple": (140, 60, 165),
    "orange": (235, 135, 40),
    "white": (235, 235, 235),
    "black": (30, 30, 30),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring", "star", "diamond", "bar")
SIZES = {"small": 0.16, "medium": 0.23, "large": 0.32}
POSITIONS = {
    "at the top left": (0.3, 0.3),
    "at the top right": (0.7, 0.3),
    "in the middle": (0.5, 0.5),
    "at the bottom left": (0.3, 0.7),
    "at the bottom right": (0.7, 0.7),
}
_TEMPLATES = (
    "a {size} {colour} {shape} {position}",
    "{position} there is a {colour} {shape} , {size} in size",
    "a picture of a {colour} {shape} {position}",
    "the {shape} is {colour} and lies {position}",
    "one {size} {shape} painted {colour}",
)
_SPLITS = {"train": 0, "val": 1, "test": 2}


@dataclass(frozen=True)
class ShapesOptions:
    """How much to generate. Counts are samples per split; `image_size` is in pixels, `noise` in grey levels."""

    num_train: int = 400
    num_val: int = 100
    num_test: int = 300
    image_size: int = 32
    noise: float = 18.0
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"num_train": 1, "num_val": 1, "num_test": 1, "image_size": 8, "noise": 0, "seed": 0}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ConfigurationError(
                    f"data.options.{name} is {getattr(self, name)}; shapes needs {minimum} or more"
                )


@dataclass(frozen=True)
class _Scene:
    shape: str
    colour: str
    size: str
    position: str
    rng: np.random.Generator


def public_data(options: ShapesOptions) -> dict[str, PairSplit]:
    """Splits `train` (the public set proper), `val` and `test` of image-caption pairs."""
    counts = {"train": options.num_train, "val": options.num_val, "test": options.num_test}
    return {split: _pairs(options, split, count) for split, count in counts.items()}


def client_data(kind: ClientKind, options: ShapesOptions) -> ClientData:
    """One site's data: shape names (image), shape names in captions (text), or pairs."""
    counts = {"train": options.num_train, "val": options.num_val, "test": options.num_test}
    splits = {split: _split(kind, options, split, count) for split, count in counts.items()}
    labels = () if kind is ClientKind.PAIR else SHAPES
    return ClientData(kind, splits["train"], splits["val"], splits["test"], labels)


def _split(kind: ClientKind, options: ShapesOptions, split: str, count: int) -> ImageSplit | TextSplit | PairSplit:
    if kind is ClientKind.PAIR:
        return _pairs(options, split, count)
    scenes = [_scene(options, split, index) for index in range(count)]
    labels = np.array([SHAPES.index(scene.shape) for scene in scenes], dtype=np.int64)
    if kind is ClientKind.IMAGE:
        return ImageSplit([_draw(scene, options) for scene in scenes], labels)
    return TextSplit([_report(scene) for scene in scenes], labels)


def _pairs(options: ShapesOptions, split: str, count: int) -> PairSplit:
    scenes = [_scene(options, split, index) for index in range(count)]
    captions = [tuple(_caption(scene, k) for k in scene.rng.permutation(len(_TEMPLATES))[:3]) for scene in scenes]
    return PairSplit([_draw(scene, options) for scene in scenes], captions, tuple(f"{split}-{i}" for i in range(count)))


def _scene(options: ShapesOptions, split: str, index: int) -> _Scene:
    rng = np.random.default_rng([options.seed, _SPLITS[split], index])

    def one_of(names: tuple[str, ...]) -> str:
        return names[int(rng.integers(len(names)))]

    return _Scene(one_of(SHAPES), one_of(tuple(COLOURS)), one_of(tuple(SIZES)), one_of(tuple(POSITIONS)), rng)


def _caption(scene: _Scene, template: int) -> str:
    return _TEMPLATES[template].format(shape=scene.shape, colour=scene.colour, size=scene.size, position=scene.position)


_HINTS = {
    "circle": ("it is round all over", "no corners anywhere , quite round"),
    "square": ("four equal sides", "it has four corners and equal sides"),
    "triangle": ("three sides meet in three corners", "it has three corners"),
    "cross": ("two bars cross each other", "like a plus sign"),
    "ring": ("round with a hole", "hollow and round"),
    "star": ("five points stick out", "it has many points"),
    "diamond": ("four corners , standing on one", "a square standing on a corner"),
    "bar": ("long and flat", "much wider than high"),
}


def _report(scene: _Scene) -> str:
    """A site's own way of writing: sometimes the shape is named, mostly it is only described."""
    start = f"we saw something {scene.colour} {scene.position}"
    if scene.rng.random() < 0.3:
        return f"{start} , a {scene.shape}"
    hints = _HINTS[scene.shape]
    return f"{start} , {hints[int(scene.rng.integers(len(hints)))]}"


def _draw(scene: _Scene, options: ShapesOptions) -> ImageArray:
    rng, side = scene.rng, options.image_size
    scale = 4
    background = tuple(int(v) for v in rng.integers(70, 190, size=3))
    image = Image.new("RGB", (side * scale, side * scale), background)
    centre = np.array(POSITIONS[scene.position]) + rng.uniform(-0.08, 0.08, size=2)
    radius = SIZES[scene.size] * rng.uniform(0.85, 1.15)
    colour = tuple(int(v) for v in np.clip(np.array(COLOURS[scene.colour]) + rng.integers(-25, 26, size=3), 0, 255))
    _paint(ImageDraw.Draw(image), scene.shape, centre * side * scale, radius * side * scale, colour, rng)
    small = np.asarray(image.resize((side, side), Image.Resampling.BOX), dtype=np.float32)
    noisy = small + rng.normal(scale=options.noise, size=small.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _paint(
    draw: ImageDraw.ImageDraw,
    shape: str,
    centre: NDArray[np.float64],
    radius: float,
    colour: tuple[int, ...],
    rng: np.random.Generator,
) -> None:
    x, y = (float(v) for v in centre)
    box = (x - radius, y - radius, x + radius, y + radius)
    turn = float(rng.uniform(-0.25, 0.25))
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "ring":
        draw.ellipse(box, outline=colour, width=max(1, int(radius * 0.4)))
    elif shape == "cross":
        for angle in (turn, turn + np.pi / 2):
            draw.polygon(_bar(x, y, radius, radius * 0.28, angle), fill=colour)
    elif shape == "bar":
        draw.polygon(_bar(x, y, radius, radius * 0.3, turn), fill=colour)
    elif shape == "star":
        draw.polygon(_points(x, y, [radius, radius * 0.42] * 5, turn - np.pi / 2), fill=colour)
    else:
        corners, first = {"triangle": (3, -np.pi / 2), "square": (4, np.pi / 4), "diamond": (4, 0.0)}[shape]
        draw.polygon(_points(x, y, [radius] * corners, first + turn * 0.6), fill=colour)


def _points(x: float, y: float, radii: list[float], first: float) -> list[tuple[float, float]]:
    angles = first + 2 * np.pi * np.arange(len(radii)) / len(radii)
    return [(float(x + r * np.cos(a)), float(y + r * np.sin(a))) for r, a in zip(radii, angles, strict=True)]


def _bar(x: float, y: float, half: float, thickness: float, angle: float) -> list[tuple[float, float]]:
    along, across = (
        np.array([np.cos(angle), np.sin(angle)]) * half,
        np.array([-np.sin(angle), np.cos(angle)]) * thickness,
    )
    corners = (along + across, along - across, -along - across, -along + across)
    return [(float(x + c[0]), float(y + c[1])) for c in corners]
