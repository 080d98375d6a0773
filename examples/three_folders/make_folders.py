"""Writes four folders as sites and operators have them: scans, reports, cases, and a public set of the same kind.

Put folders of your own in their place; the YAML files beside this one say how each is read.
"""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 32
FINDINGS = {"intact": "the bone is intact", "broken": "the bone is broken", "plate": "a plate holds the bone"}


def scan(finding: str, drawn: random.Random) -> Image.Image:
    """A bone across the picture."""
    picture = Image.new("RGB", (SIDE, SIDE), (drawn.randrange(30), drawn.randrange(30), 30))
    pencil, height, shift = ImageDraw.Draw(picture), drawn.randrange(10, 22), drawn.randrange(4, 9)
    pencil.line((0, height, SIDE // 2, height), fill=(200, 200, 190), width=4)
    other = height + shift if finding == "broken" else height
    pencil.line((SIDE // 2, other, SIDE, other), fill=(200, 200, 190), width=4)
    if finding == "plate":
        pencil.rectangle((8, height - 5, 24, height - 3), fill=(90, 90, 255))
    return picture


def class_folders(folder: Path, each: int, drawn: random.Random) -> None:
    """A folder of pictures for each class: the adapter image-folder cuts its splits."""
    for finding in FINDINGS:
        (folder / finding).mkdir(parents=True)
        for number in range(each):
            scan(finding, drawn).save(folder / finding / f"{number}.png")


def table(folder: Path, rows: int, drawn: random.Random) -> None:
    """A CSV of texts, each with its class: the adapter table cuts its splits, too."""
    folder.mkdir(parents=True)
    with (folder / "reports.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["report", "finding"])
        for number in range(rows):
            finding = tuple(FINDINGS)[number % 3]
            writer.writerow([f"{drawn.choice(('Left', 'Right'))} arm: {FINDINGS[finding]}, no. {number}", finding])


def pairs(folder: Path, counts: dict[str, int], drawn: random.Random) -> None:
    """Pictures with captions, in Karpathy's form: the adapter flickr reads it."""
    (folder / "images").mkdir(parents=True)
    entries = []
    for split, count in counts.items():
        for number in range(count):
            finding = drawn.choice(tuple(FINDINGS))
            name = f"{split}-{number}.png"
            scan(finding, drawn).save(folder / "images" / name)
            captions = [f"{FINDINGS[finding]}, seen from the {side}" for side in ("front", "side")]
            entries.append({"filename": name, "split": split, "sentences": [{"raw": caption} for caption in captions]})
    (folder / "dataset_cases.json").write_text(json.dumps({"images": entries}), encoding="utf-8")


def main(root: Path = Path()) -> None:
    """Every number is drawn from one seed."""
    drawn = random.Random(0)
    class_folders(root / "scans", 20, drawn)
    table(root / "reports", 60, drawn)
    pairs(root / "cases", {"train": 40, "val": 8, "test": 16}, drawn)
    pairs(root / "public", {"train": 64, "val": 12, "test": 24}, drawn)


if __name__ == "__main__":
    main()
