"""A batch job: what a site's personalized model says of the pictures that came in since the last time.

    python predict_new.py MODEL INCOMING RESULTS.csv

MODEL is a folder such as state_dir/model of an agent. Each picture below INCOMING gets one row, once. A picture that
cannot be read gets a row with the reason; one that the model is unsure of is marked for a person. The job may be
stopped and repeated: what is written is not done again. Exit code 4 says that some pictures could not be read.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from fedafd import PersonalizedModel

ENDINGS = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}
FIELDS = ("file", "predicted", "probability", "review", "error")


def done_before(results: Path) -> set[str]:
    """The files that have a row."""
    if not results.exists():
        return set()
    with results.open(encoding="utf-8", newline="") as file:
        return {row["file"] for row in csv.DictReader(file)}


def rows(model: PersonalizedModel, folder: Path, names: list[str], sure: float) -> Iterator[dict[str, str]]:
    """One row for each file. They come as the model answers: memory holds one batch, however many files there are."""
    bad: list[dict[str, str]] = []

    def skip(place: int, error: Exception) -> None:
        bad.append({"file": names[place], "error": str(error)})

    paths = [folder / name for name in names]
    for place, ((label, probability),) in model.each_prediction(paths, top_k=1, on_bad=skip):
        review = "" if probability >= sure else "yes"
        yield {"file": names[place], "predicted": label, "probability": f"{probability:.3f}", "review": review}
    yield from bad


def main() -> int:
    """Returns the exit code."""
    arguments = argparse.ArgumentParser(description="Predict the pictures that have no row yet.")
    arguments.add_argument("model", type=Path)
    arguments.add_argument("incoming", type=Path)
    arguments.add_argument("results", type=Path)
    arguments.add_argument("--sure", type=float, default=0.8, help="below this probability a person should look")
    arguments.add_argument("--device", default="auto")
    given = arguments.parse_args()
    before = done_before(given.results)
    found = sorted(path for path in given.incoming.rglob("*") if path.suffix.lower() in ENDINGS)
    names = [name for path in found if (name := path.relative_to(given.incoming).as_posix()) not in before]
    model = PersonalizedModel.from_pretrained(given.model, device=given.device)
    failed = 0
    with given.results.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not before and file.tell() == 0:
            writer.writeheader()
        for row in rows(model, given.incoming, names, given.sure):
            failed += "error" in row
            writer.writerow(row)
            file.flush()
    print(f"{len(names)} new of {len(found)} pictures, {failed} could not be read; {given.results}")
    return 4 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
