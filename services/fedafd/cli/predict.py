"""`fedafd predict`: labels of images or texts by a personalized model; of arguments, folders, lines or a CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from fedafd.cli.model_tools import (
    UsageError,
    exactly_one,
    in_chunks,
    need_learning,
    one_line,
    pictures_in,
    progress,
    results_to,
    texts_in,
)
from fedafd.domain.errors import DataError

if TYPE_CHECKING:
    from fedafd.learning.personalized_model import PersonalizedModel, Prediction

__all__ = ["SOME_SKIPPED", "predict"]

SOME_SKIPPED = 4
"""The exit code when --skip-bad left samples out."""
_CHUNK = 256
_OTHER_DELIMITERS = ";\t|,"
"""What separates the columns of a file whose header seems to be one column."""


class BranchName(StrEnum):
    """As `PersonalizedModel.predict` takes it."""

    PERSONALIZED = "personalized"
    OWN = "own"
    GLOBAL = "global"
    ALONE = "alone"


@dataclass
class _Item:
    """One sample on its way: what it is called, what the model reads, and its row of a CSV."""

    name: str
    sample: Any
    row: list[str]
    predictions: list[Prediction] | None = None
    error: DataError | None = None


def predict(
    model: Annotated[Path, typer.Argument(help="A personalized model's folder, such as state_dir/model.")],
    samples: Annotated[
        list[str] | None, typer.Argument(help="Image files or folders of them; or texts in quotes.", show_default=False)
    ] = None,
    texts: Annotated[Path | None, typer.Option(help="A UTF-8 file with one text a line.")] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="A CSV (or .tsv) with a header; its rows get columns added.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Column of the CSV: texts, or paths of images from the CSV's folder on.")
    ] = None,
    delimiter: Annotated[
        str | None, typer.Option(help="What separates the columns; a comma, and a tab in a .tsv.", show_default=False)
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write here instead of standard output.")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="The likeliest labels of each sample.")] = 1,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    branch: Annotated[
        BranchName,
        typer.Option(
            help="The whole model, the site's encoder alone, the frozen global one alone, or what the site trained"
            " without the federation."
        ),
    ] = BranchName.PERSONALIZED,
    skip_bad: Annotated[
        bool, typer.Option(help=f"Name samples that cannot be read, go on, and exit with {SOME_SKIPPED}.")
    ] = False,
    intensity_range: Annotated[
        tuple[float, float] | None,
        typer.Option(help="The values that become black and white in images of more than eight bits."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    force: Annotated[bool, typer.Option(help="Replace the output file.")] = False,
) -> None:
    """Predict labels with a personalized model; needs no service."""
    exactly_one((("SAMPLES", samples), ("--texts", texts), ("--csv", csv_file)))
    _check_csv_options(csv_file, column, delimiter)
    need_learning("predict")
    from fedafd import PersonalizedModel

    loaded = PersonalizedModel.from_pretrained(model, device=device, intensity_range=intensity_range)
    if loaded.kind == "pair":
        raise UsageError(f"{model}: is a model of image-text pairs, which has no labels; use fedafd search")
    header: list[str] = []
    listed: list[_Item] = []
    if csv_file is not None:
        header = _header(csv_file, delimiter)
        items = _rows(csv_file, delimiter, header, _position(str(column), header, csv_file), loaded.kind)
    else:
        listed = _listed(loaded, samples or [], texts)
        items = iter(listed)
    # A CSV may be written over: its rows are all in the result.
    inputs = [Path(item.sample) for item in listed if loaded.kind == "image"]
    inputs += [source for source in (texts, csv_file if json_lines else None) if source is not None]
    skipped = 0
    with (
        results_to(output, force=force, inputs=inputs) as file,
        progress("predicting", None if csv_file else len(listed), prints=output is None) as advance,
    ):
        if json_lines:
            write = _json_writer(file)
        elif csv_file is not None:
            ranks = min(top_k, len(loaded.labels))
            write = _csv_writer(
                file, header, ranks, delimiter=delimiter or _delimiter(output or csv_file), skips=skip_bad
            )
        else:
            write = _line_writer(file)
        for chunk in in_chunks(items, _CHUNK):
            _fill(loaded, chunk, top_k, branch, skip_bad=skip_bad)
            for item in chunk:
                write(item)
            skipped += sum(item.error is not None for item in chunk)
            advance(len(chunk))
    if skipped:
        typer.secho(f"{skipped} samples could not be read and were left out", fg="yellow", err=True)
        raise typer.Exit(SOME_SKIPPED)


def _check_csv_options(csv_file: Path | None, column: str | None, delimiter: str | None) -> None:
    """Raise UsageError for options that only go with a CSV, and for one that it lacks."""
    if (column is None) != (csv_file is None):
        raise UsageError("--csv and --column go together: name the column that holds the samples")
    if delimiter is not None and (csv_file is None or len(delimiter) != 1 or delimiter in '"\r\n'):
        raise UsageError(f"--delimiter {delimiter!r}: is one character, such as ';', and goes with --csv")


def _listed(model: PersonalizedModel, samples: list[str], texts: Path | None) -> list[_Item]:
    """The samples of the arguments, or of the file `texts`, one a line."""
    if texts is None:
        return list(_given(samples, model.kind))
    _need_kind(model, "text", "--texts")
    return [_Item(text, text, []) for _, text in texts_in(texts)]


def _need_kind(model: PersonalizedModel, kind: str, option: str) -> None:
    if model.kind != kind:
        raise UsageError(f"{option} is for models of kind {kind}; this one is of kind {model.kind}")


def _given(samples: list[str], kind: str) -> Iterator[_Item]:
    if kind == "text":
        for text in samples:
            if Path(text).suffix and len(text) < 4096 and Path(text).is_file():
                typer.echo(f"note: {one_line(text)} is read as a text, not as the file; --texts reads a file", err=True)
            yield _Item(text, text, [])
        return
    for name in samples:
        if not name:
            raise UsageError("a sample has an empty name; is a variable not set?")
        path = Path(name)
        if not path.is_dir():
            yield _Item(name, path, [])
            continue
        pictures = pictures_in(path)
        if not pictures:
            raise DataError(f"{path}: holds no pictures")
        yield from (_Item(str(picture), picture, []) for picture in pictures)


def _header(path: Path, delimiter: str | None) -> list[str]:
    header = next(_lines_of_csv(path, delimiter), (0, []))[1]
    if not header:
        raise DataError(f"{path}: is empty; it must start with a header")
    return header


def _position(column: str, header: list[str], path: Path) -> int:
    """Of the column in the header, from 0. Raises UsageError unless there is exactly one of the name."""
    if header.count(column) == 1:
        return header.index(column)
    known = ", ".join(map(repr, header))
    count = header.count(column)
    sentence = f"{path}: has {count or 'no'} column{'s' if count else ''} named {column!r}; its columns: {known}"
    other = next((delimiter for delimiter in _OTHER_DELIMITERS if len(header) == 1 and delimiter in header[0]), None)
    hint = f"; name what separates them with --delimiter '{other}'" if other else ""
    raise UsageError(sentence + hint)


def _rows(path: Path, delimiter: str | None, header: list[str], position: int, kind: str) -> Iterator[_Item]:
    lines = _lines_of_csv(path, delimiter)
    next(lines)
    for number, row in lines:
        if len(row) != len(header):
            raise DataError(f"{path}:{number}: has {len(row)} fields, and the header {len(header)}")
        sample = row[position]
        item = _Item(sample, sample if kind == "text" else path.parent / sample, row)
        if not sample.strip():
            item.error = DataError(f"{path}:{number}: column {header[position]!r} is empty")
        yield item


def _lines_of_csv(path: Path, delimiter: str | None) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each row. Raises DataError naming file and line."""
    from fedafd.datasets.files import read_bytes
    from fedafd.datasets.texts import decoded

    if not path.is_file():
        raise DataError(f"{path}: {'is no file' if path.exists() else 'no such file'}")
    csv.field_size_limit(2**31 - 1)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter or _delimiter(path), strict=True)
            try:
                yield from ((reader.line_num, row) for row in reader if row)
            except csv.Error as error:
                raise DataError(f"{path}:{reader.line_num}: not readable as CSV: {error}") from None
    except UnicodeDecodeError:
        decoded(read_bytes(path), path)  # names the line
        raise


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _fill(model: PersonalizedModel, chunk: list[_Item], top_k: int, branch: BranchName, *, skip_bad: bool) -> None:
    """Give each item its predictions, or the reason why it has none. Raises DataError unless bad ones are skipped."""
    for item in chunk:
        if item.error is not None and not skip_bad:
            raise item.error
    whole = [item for item in chunk if item.error is None]

    def skip(position: int, error: DataError) -> None:
        whole[position].error = error

    on_bad = skip if skip_bad else None
    samples = [item.sample for item in whole]
    for position, predictions in model.each_prediction(samples, top_k=top_k, branch=branch.value, on_bad=on_bad):
        whole[position].predictions = predictions
    for item in chunk:
        if item.error is not None:
            typer.secho(f"left out: {one_line(str(item.error))}", fg="yellow", err=True)


def _json_writer(file: IO[str]) -> Callable[[_Item], object]:
    return lambda item: file.write(json.dumps(_as_json(item)) + "\n")


def _line_writer(file: IO[str]) -> Callable[[_Item], object]:
    return lambda item: file.writelines(
        f"{one_line(label)}\t{probability:.3f}\t{one_line(item.name)}\n"
        for label, probability in item.predictions or []
    )


def _csv_writer(
    file: IO[str], header: list[str], ranks: int, *, delimiter: str, skips: bool
) -> Callable[[_Item], object]:
    stems = ["predicted", *(f"predicted_{rank}" for rank in range(2, ranks + 1))]
    added = [name for stem in stems for name in (stem, f"{stem}_probability")] + ["error"] * skips
    taken = [name for name in added if name in header]
    if taken:
        raise UsageError(f"the CSV has a column {taken[0]!r} already; rename it")
    table = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    table.writerow(header + added)

    def write(item: _Item) -> None:
        cells = [cell for label, probability in item.predictions or [] for cell in (label, f"{probability:.6f}")]
        cells += [""] * (2 * ranks - len(cells))
        table.writerow(item.row + cells + ([str(item.error or "")] if skips else []))

    return write


def _as_json(item: _Item) -> dict[str, Any]:
    if item.predictions is None:
        return {"sample": item.name, "error": str(item.error)}
    predictions = [{"label": label, "probability": round(probability, 6)} for label, probability in item.predictions]
    return {"sample": item.name, "predictions": predictions}
