"""Rows of CSV files, each with the line that it starts at."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from fedafd.datasets.files import read_text
from fedafd.domain.errors import DataError

__all__ = ["LONGEST_LINE_BYTES", "LONGEST_TEXT", "SEPARATORS", "csv_rows"]

LONGEST_TEXT = 16 * 1024 * 1024
"""Characters of one field. A quote that is never closed makes a field of all that follows."""
LONGEST_LINE_BYTES = 4 * LONGEST_TEXT
"""What one field may take in UTF-8."""
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars (|)"}
"""What other programs part fields by, in words."""


def csv_rows(path: Path, adapter: str, delimiter: str = ",") -> Iterator[tuple[str, list[str]]]:
    """Each row, after the place where it starts. Only LF and CRLF end lines; a quoted field may hold any of them.

    Raises DataError.
    """
    csv.field_size_limit(LONGEST_TEXT)
    text = read_text(path, adapter, longest_line=LONGEST_LINE_BYTES)
    reader = csv.reader(io.StringIO(text, newline="\n"), strict=True, delimiter=delimiter)
    start = 1
    try:
        for row in reader:
            yield f"{path}:{start}", row
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{start}: {_fault(str(error))}") from None


def _fault(fault: str) -> str:
    if "field limit" in fault:
        return f"a field has more than {LONGEST_TEXT} characters; shorten it, or close the quote that it starts with"
    if "new-line character" in fault:
        return "has a carriage return alone; lines must end at LF or CRLF"
    return f"not readable as CSV: {fault}"
