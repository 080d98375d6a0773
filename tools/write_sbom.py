"""Write what each image consists of, and what a release was made from: `make sbom`.

`<image>.cdx.json` is a CycloneDX bill of materials of an image's Python distributions, with hashes, by locks/.
`provenance.json` is an in-toto statement with SLSA's predicate: the hashes of the files in build/dist, the commit,
the hashes of the locks, and images by digest. It is not signed: whoever releases signs it with their own key.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from base_images import images

ROOT = Path(__file__).parent.parent
IMAGES = {
    "control-plane": ("services",),
    "aggregator": ("services",),
    "distiller": ("torch", "distiller"),
    "agent": ("torch", "agent"),
}


def main() -> int:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for image, locks in IMAGES.items():
        target = folder / f"{image}.cdx.json"
        target.write_text(_bill(locks), encoding="utf-8")
        print(f"{target}: {len(json.loads(target.read_text(encoding='utf-8'))['components'])} distributions")
    statement = provenance(sorted((ROOT / "build/dist").glob("fedafd-*")))
    (folder / "provenance.json").write_text(json.dumps(statement, indent=2) + "\n", encoding="utf-8")
    print(f"{folder / 'provenance.json'}: {len(statement['subject'])} files of build/dist")
    return 0


def _bill(locks: tuple[str, ...]) -> str:
    text = "\n".join((ROOT / "locks" / f"{lock}.lock").read_text(encoding="utf-8") for lock in locks)
    options = ["--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible", "--of", "JSON", "--validate"]
    command = [sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements", *options, "-"]
    made = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if made.returncode:
        raise SystemExit(made.stderr)
    return made.stdout


def provenance(files: list[Path]) -> dict[str, Any]:
    """The statement; without files it has no subject, and says what the next ones would be made from."""
    commit = _git("rev-parse", "HEAD")
    changed = bool(_git("status", "--porcelain"))
    inputs = [{"uri": f"git+file:.@{commit}", "digest": {"gitCommit": commit}, "annotations": {"changed": changed}}]
    locks = sorted((ROOT / "locks").glob("*.lock"))
    inputs += [{"uri": f"locks/{lock.name}", "digest": {"sha256": _sha256(lock)}, "annotations": {}} for lock in locks]
    inputs += _images()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": path.name, "digest": {"sha256": _sha256(path)}} for path in files],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "make package",
                "externalParameters": {},
                "internalParameters": {"python": platform.python_version()},
                "resolvedDependencies": inputs,
            },
            "runDetails": {"builder": {"id": "make"}},
        },
    }


def _images() -> list[dict[str, Any]]:
    """The images of others that the environment names by digest."""
    named = {image.name for image in images(ROOT, os.environ) if image.is_by_digest}
    return [
        {"uri": f"docker://{name}", "digest": {"sha256": name.rpartition(":")[2]}, "annotations": {}}
        for name in sorted(named)
    ]


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
