"""A few samples of each class on one picture, as the training sees them: turned, windowed, in the colours it gets."""

from __future__ import annotations

import contextlib
import functools
import io
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from fedafd.datasets.labels import samples_of
from fedafd.datasets.samples import ClientData, ImageArray, ImageSplit, PairSplit
from fedafd.domain.errors import DataError
from fedafd.domain.whole_files import write_whole

__all__ = ["contact_sheet", "write_contact_sheet"]

_SIDE = 112
_GAP = 8
_COLUMNS = 6
_MOST_ROWS = 30
_TITLE = 22
_CAPTION_LINES = 4
_LINE = 13
_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "Arial Unicode.ttf",
    "arial.ttf",
)
"""Where Linux distributions and macOS have letters of many scripts."""
_NO_LETTER = "\U0010ffff"
_PAPER, _INK, _FAINT = (255, 255, 255), (30, 30, 30), (150, 150, 150)


def write_contact_sheet(data: ClientData, path: Path) -> bool:
    """Write a PNG of training samples, for its owner alone; False where there is no picture to show.

    Raises DataError where the file cannot be written.
    """
    sheet = contact_sheet(data)
    if sheet is None:
        return False
    file = io.BytesIO()
    sheet.save(file, format="PNG")
    try:
        write_whole(path, file.getvalue(), mode=0o600)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None
    return True


def contact_sheet(data: ClientData) -> Image.Image | None:
    """Training samples, row by row; None where there is no picture to show."""
    if isinstance(data.train, ImageSplit):
        return _of_classes(data.train, data.labels)
    return _of_pairs(data.train) if isinstance(data.train, PairSplit) else None


def _of_classes(split: ImageSplit, labels: Sequence[str]) -> Image.Image:
    shown = list(labels[:_MOST_ROWS])
    row = _TITLE + _SIDE + _GAP
    more = _TITLE if len(labels) > len(shown) else 0
    sheet, pen = _paper(_COLUMNS, _GAP + row * len(shown) + more)
    for position, name in enumerate(shown):
        mine = samples_of(split.labels, position)
        top = _GAP + position * row
        title = f"{position + 1}. {_fitting(name, 70)}  ({len(mine)} in training)"
        pen.text((_GAP, top), title, _INK, _font(14, title))
        _line_up(sheet, split.images, _spread(mine.tolist()), top + _TITLE)
    if more:
        note = f"and {len(labels) - len(shown)} more classes"
        pen.text((_GAP, _GAP + row * len(shown)), note, _FAINT, _font(14, note))
    return sheet


def _of_pairs(split: PairSplit) -> Image.Image:
    chosen = _spread(list(range(len(split))), 3 * _COLUMNS)
    row = _SIDE + _LINE * _CAPTION_LINES + 2 * _GAP
    sheet, pen = _paper(_COLUMNS, _GAP + row * -(-len(chosen) // _COLUMNS))
    for start in range(0, len(chosen), _COLUMNS):
        top = _GAP + row * (start // _COLUMNS)
        part = chosen[start : start + _COLUMNS]
        _line_up(sheet, split.images, part, top)
        for left, index in zip(_lefts(), part, strict=False):
            lines = textwrap.wrap(split.captions[index][0], 18, max_lines=_CAPTION_LINES, placeholder=" ...")
            caption = "\n".join(lines)
            pen.multiline_text((left, top + _SIDE + 2), caption, _INK, _font(11, caption), spacing=2)
    return sheet


def _paper(columns: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("RGB", (_GAP + columns * (_SIDE + _GAP), height), _PAPER)
    return sheet, ImageDraw.Draw(sheet)


def _lefts() -> Iterator[int]:
    return iter(range(_GAP, _GAP + _COLUMNS * (_SIDE + _GAP), _SIDE + _GAP))


def _line_up(sheet: Image.Image, images: Sequence[ImageArray], chosen: Sequence[int], top: int) -> None:
    for left, index in zip(_lefts(), chosen, strict=False):
        frame = (left, top, left + _SIDE - 1, top + _SIDE - 1)
        ImageDraw.Draw(sheet).rectangle(frame, outline=_FAINT)
        try:
            picture = Image.fromarray(images[index])
        except DataError:
            note = "cannot be read"
            ImageDraw.Draw(sheet).text((left + 6, top + 6), note, (200, 30, 30), _font(11, note))
            continue
        scale = _SIDE / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        # Small pictures are shown as they are, pixel by pixel.
        how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        sheet.paste(picture.resize(size, how), (left + (_SIDE - size[0]) // 2, top + (_SIDE - size[1]) // 2))


def _spread(indices: Sequence[int], count: int = _COLUMNS) -> list[int]:
    """At most `count` of them, evenly from first to last."""
    if len(indices) <= count:
        return list(indices)
    return [indices[round(step * (len(indices) - 1) / (count - 1))] for step in range(count)]


def _fitting(name: str, characters: int) -> str:
    return name if len(name) <= characters else f"{name[: characters - 3]}..."


def _font(size: int, text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The first font that has all letters of `text`; Pillow's own has little beyond ASCII."""
    own = ImageFont.load_default(size)
    return next((font for font in (own, *_system_fonts(size)) if _has_all(font, text)), own)


@functools.cache
def _system_fonts(size: int) -> tuple[ImageFont.FreeTypeFont, ...]:
    fonts = []
    for name in _SYSTEM_FONTS:
        with contextlib.suppress(OSError):
            fonts.append(ImageFont.truetype(name, size))
    return tuple(fonts)


def _has_all(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> bool:
    box = bytes(font.getmask(_NO_LETTER))
    return all(bytes(font.getmask(letter)) != box for letter in set(text) if not letter.isspace())
