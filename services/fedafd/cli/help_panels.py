"""Headings of `fedafd --help`: who reads on below each."""

from __future__ import annotations

__all__ = ["FEDERATION", "SERVER", "SITE", "START"]

START = "Try it on this machine"
SITE = "At a site, beside its data"
FEDERATION = "Run a federation: asks the control plane of --profile, or of FEDAFD_URL"
SERVER = "Run the server's processes, and look after them"
