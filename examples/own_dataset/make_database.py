"""Writes reports.db: a table of short reports, each with its class and split."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

WORDS = {"urgent": "severe pain since this morning", "routine": "yearly visit, feels well", "later": "call again"}


def main(path: Path = Path("reports.db"), rows: int = 72) -> None:
    """Two thirds are to train with."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE reports (text TEXT NOT NULL, class TEXT NOT NULL, split TEXT NOT NULL)")
        for number in range(rows):
            name = tuple(WORDS)[number % 3]
            split = ("train", "train", "train", "train", "val", "test")[number // 3 % 6]
            database.execute("INSERT INTO reports VALUES (?, ?, ?)", (f"report {number}: {WORDS[name]}", name, split))


if __name__ == "__main__":
    main()
