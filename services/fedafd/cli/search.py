"""`fedafd search`: a caption finds pictures in a folder, a picture finds texts in a file, by a model of pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedafd.cli.model_tools import exactly_one, need_learning, one_line, pictures_in, progress, results_to, texts_in
from fedafd.domain.errors import DataError, InvalidRequestError
from fedafd.domain.hashing import sha256_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedafd.learning.loaded_model import LoadedModel
    from fedafd.learning.search_index import Hit

__all__ = ["search"]


def search(
    model: Annotated[Path, typer.Argument(help="The folder of a global model, or of a pair client's.")],
    queries: Annotated[list[str], typer.Argument(help="With --images captions in quotes; with --texts image files.")],
    images: Annotated[Path | None, typer.Option(help="Find pictures below this folder.")] = None,
    texts: Annotated[Path | None, typer.Option(help="Find texts among the lines of this UTF-8 file.")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many matches to print for each query.")] = 5,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object for each query, a line each.")] = False,
    index: Annotated[
        Path | None, typer.Option(help="Keep the index of the pictures in this folder, not in the user's cache.")
    ] = None,
    intensity_range: Annotated[
        tuple[float, float] | None,
        typer.Option(help="The values that become black and white in images of more than eight bits."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Find pictures by a caption, or texts by a picture; needs no service.

    Pictures are read once: their index is kept, and brought up to date when files came, went or changed.
    """
    exactly_one((("--images", images), ("--texts", texts)))
    need_learning("search")
    from fedafd.domain.kinds import Modality
    from fedafd.learning.loading import load_model
    from fedafd.learning.search_index import nearest

    folder = model.resolve()
    loaded = load_model(folder, device=device, intensity_range=intensity_range)
    if loaded.modalities != tuple(Modality):
        raise InvalidRequestError(f"{model}: is a model of kind {loaded.kind}; only global and pair models search")
    if images is not None:
        asked = _embedded(loaded, Modality.TEXT, queries)
        names, rows = _indexed(loaded, folder, images, index)
    else:
        asked = _embedded(loaded, Modality.IMAGE, [Path(query) for query in queries])
        names = [text for _, text in texts_in(Path(str(texts)))]
        if not names:
            raise DataError(f"{texts}: holds no text")
        rows = _embedded(loaded, Modality.TEXT, names)
    with results_to(None, force=False) as file:
        for query, row in zip(queries, asked, strict=True):
            hits = nearest(row, names, rows, top_k)
            file.write(json.dumps(_as_json(query, hits)) + "\n" if json_lines else _as_lines(query, hits, len(queries)))


def _embedded(model: LoadedModel, modality: Any, samples: Sequence[Any]) -> NDArray[np.float32]:
    import numpy as np

    with progress("reading", len(samples), prints=False) as advance:
        rows = []
        for _, row in model.each_embedded(modality, samples):
            rows.append(row)
            advance(1)
    return np.stack(rows)


def _indexed(
    model: LoadedModel, folder: Path, images: Path, index: Path | None
) -> tuple[list[str], NDArray[np.float32]]:
    """Paths and rows of all readable pictures of a folder, by an index that is up to date now."""
    from fedafd.domain.kinds import Modality
    from fedafd.learning.search_index import SearchIndex, model_key

    if not images.is_dir():
        raise DataError(f"{images}: {'is no folder' if images.exists() else 'no such folder'}")
    pictures = pictures_in(images)
    if not pictures:
        raise DataError(f"{images}: holds no pictures")
    kept = SearchIndex(_index_file(images, index), model_key(folder, model.intensity_range), model.dim)
    bad: list[Path] = []

    def refuse(path: Path, error: DataError) -> None:
        bad.append(path)
        typer.secho(f"left out: {one_line(str(error))}", fg="yellow", err=True)

    def embed(paths: Sequence[Path], on_bad: Callable[[int, DataError], None]) -> Iterator[Any]:
        with progress("indexing", len(paths), prints=False) as advance:
            for embedded in model.each_embedded(Modality.IMAGE, paths, on_bad):
                advance(1)
                yield embedded

    paths, rows = kept.update(pictures, embed, refuse)
    try:
        kept.save()
    except OSError as error:
        hint = f"{error.filename or index or 'the cache folder'}: {error.strerror or error}"
        typer.secho(f"note: the index is not kept ({hint}); --index names another folder", fg="yellow", err=True)
    if not paths:
        raise DataError(f"{images}: none of its {len(pictures)} pictures can be read")
    return [str(path) for path in paths], rows


def _index_file(images: Path, index: Path | None) -> Path:
    from platformdirs import user_cache_path

    name = sha256_of(str(images.resolve()).encode(errors="surrogateescape"))[:24]
    return (index or user_cache_path("fedafd") / "search") / f"{name}.safetensors"


def _as_lines(query: str, hits: Sequence[Hit], queries: int) -> str:
    heading = f"# {one_line(query)}\n" if queries > 1 else ""
    return heading + "".join(f"{hit.likeness:.3f}\t{one_line(hit.name)}\n" for hit in hits)


def _as_json(query: str, hits: Sequence[Hit]) -> dict[str, Any]:
    return {"query": query, "hits": [{"name": hit.name, "likeness": round(hit.likeness, 6)} for hit in hits]}
