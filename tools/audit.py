"""Ask a database of vulnerabilities about all that locks/ names; run it as `make audit`.

Nothing is installed or resolved: pip-audit reads the locks as they stand, and its arguments may be given here
(`--vulnerability-service osv`). Ends with 1 where something is known to be vulnerable, and with 0 where the
database has no answer, which is said: a machine without internet has no answer, not a good one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def main() -> int:
    vulnerable = 0
    for lock in sorted((ROOT / "locks").glob("*.lock")):
        told, number = summary(_asked(lock, sys.argv[1:]))
        print(f"locks/{lock.name}: {told}")
        vulnerable += number
    return 1 if vulnerable else 0


def _asked(lock: Path, arguments: list[str]) -> list[dict[str, Any]] | str:
    """What is known of each distribution; or why nobody answered."""
    options = ["--requirement", str(lock), "--no-deps", "--disable-pip", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", *options, *arguments]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    try:
        known: list[dict[str, Any]] = json.loads(asked.stdout)["dependencies"]
    except (ValueError, KeyError):
        return (asked.stderr.strip().splitlines() or ["no answer"])[-1][:200]
    return known


def summary(known: list[dict[str, Any]] | str) -> tuple[str, int]:
    """A lock's answer in words, and how many of its distributions are vulnerable."""
    if isinstance(known, str):
        return f"NOT CHECKED: {known}", 0
    unknown = [each["name"] for each in known if "skip_reason" in each]
    if len(unknown) == len(known):
        return f"NOT CHECKED: the database knows none of its {len(known)} distributions, or was not reached", 0
    bad = [each for each in known if each.get("vulns")]
    lines = [f"{len(known) - len(unknown)} of {len(known)} distributions checked, {len(bad)} of them vulnerable"]
    lines += [f"  not checked: {', '.join(unknown)}"] if unknown else []
    for each in bad:
        for found in each["vulns"]:
            fixed = ", ".join(found.get("fix_versions", [])) or "none yet"
            lines.append(f"  {each['name']} {each['version']}: {found['id']}, mended in {fixed}")
    return "\n".join(lines), len(bad)


if __name__ == "__main__":
    sys.exit(main())
