"""The server's clock beside its health, so that a site can tell whether its own is right before it joins."""

from __future__ import annotations

__all__ = ["CLOCK_KEY"]

CLOCK_KEY = "fedafd-time"
"""Trailing metadata of a health answer: seconds since 1970, UTC."""
