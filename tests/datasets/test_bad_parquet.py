"""Parquet files that do not fit, or end too early, are refused with the file and the place in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.datasets import makers
from tests.datasets.test_bad_data import refused

from fedafd.domain.kinds import ClientKind

# -- Parquet ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "changes", "match"),
    [
        (
            ("image", "id"),
            {},
            r"train-00000-of-00001.parquet: no column 'captions'; found image, id; options.caption_column",
        ),
        (("captions",), {}, r"train-00000-of-00001.parquet: no column 'image'; found captions; options.image_column"),
        (
            ("image", "captions"),
            {"captions": ["text"] * 6},
            r"train-00000-of-00001.parquet, row 0: column 'captions' must be a list of texts",
        ),
        (
            ("image", "captions"),
            {"captions": [["a"]] * 5 + [[]]},
            r"train-00000-of-00001.parquet, row 5: column 'captions' has no caption",
        ),
        (
            ("image", "captions"),
            {"captions": [["a"]] * 5 + [None]},
            r"row 5: column 'captions' has an empty cell",
        ),
        (
            ("image", "captions"),
            {"image": ["x"] * 6},
            r"train-00000-of-00001.parquet, row 0: column 'image' must hold the file's bytes",
        ),
        (
            ("image", "captions"),
            {"image": [{"bytes": None, "path": "a.jpg"}] * 6},
            r"train-00000-of-00001.parquet, row 0: column 'image'",
        ),
        (
            ("image", "captions"),
            {"image": [{"bytes": b"broken", "path": ""}] * 6},
            r"train-00000-of-00001.parquet, row 0: column 'image': not a readable",
        ),
        (("image", "captions", "id"), {"id": ["a"] * 6}, r"train-00000-of-00001.parquet, column 'id': 'a' occur twice"),
    ],
)
def test_parquet_files_that_do_not_fit_are_refused(
    tmp_path: Path, columns: tuple[str, ...], changes: dict[str, Any], match: str
) -> None:
    refused("parquet", makers.parquet(tmp_path, *columns, **changes), match)


def test_parquet_texts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    refused("parquet", makers.parquet(tmp_path, "text"), "no column 'label'", ClientKind.TEXT)
    numbers = makers.parquet(tmp_path / "n", "text", "label", text=[1, 2, 3, 4, 5, 6])
    refused(
        "parquet",
        numbers,
        "train-00000-of-00001.parquet, row 0: column 'text' holds no text, but a number",
        ClientKind.TEXT,
    )


@pytest.mark.parametrize("keep", [0, 100, -10])
def test_a_truncated_parquet_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = makers.parquet(tmp_path, "image", "captions") / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    refused("parquet", tmp_path, "train-00000-of-00001.parquet: not readable as Parquet")


def test_parquet_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = makers.parquet(tmp_path, "text", "label")
    garbled = pa.array([b"caf\xe9"] * 6, type=pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": garbled, "label": [0, 1] * 3}), folder / "train-00000-of-00001.parquet")
    refused("parquet", folder, "column 'text' is not UTF-8", ClientKind.TEXT)
