"""Writes notes/notes.csv: short texts with several labels each, some of them rare."""

from __future__ import annotations

import csv
import random
from pathlib import Path

SIGNS = {"fever": "hot and shivering", "cough": "coughs at night", "rash": "red spots", "fracture": "arm in plaster"}
SHARES = {"fever": 0.5, "cough": 0.4, "rash": 0.2, "fracture": 0.1}


def main(folder: Path = Path("notes"), rows: int = 80) -> None:
    """The labels of a note are drawn one by one; a note may have none."""
    drawn = random.Random(0)
    folder.mkdir(exist_ok=True)
    with (folder / "notes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["note", "labels"])
        for number in range(rows):
            labels = [name for name, share in SHARES.items() if drawn.random() < share]
            told = ", ".join(SIGNS[name] for name in labels) or "feels well"
            writer.writerow([f"visit {number}: patient {told}", "|".join(labels)])


if __name__ == "__main__":
    main()
