"""Folders for secrets: this account's own, and closed to all others, whoever made them and with whatever rights.

A folder that somebody else made in a shared place, such as /tmp, stays theirs: they change what lies in it at any time.
"""

from __future__ import annotations

import os
from pathlib import Path

from fedafd.domain.errors import ConfigurationError

__all__ = ["is_own", "make_own"]


def is_own(path: Path) -> bool:
    """Whether what is there, behind links too, is this account's. Raises OSError where nothing is."""
    return not hasattr(os, "geteuid") or path.stat().st_uid == os.geteuid()


def make_own(folder: Path) -> None:
    """Make the folder if it is not there, and close it to other accounts.

    Raises OSError, and ConfigurationError for a folder of another account.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not is_own(folder):
        raise ConfigurationError(
            f"{folder}: belongs to another account, which could read and change what lies there; choose another folder,"
            " or give it to this account (chown)"
        )
    folder.chmod(0o700)
