"""What all blocks of a configuration have in common: they are frozen, take no unknown key, and share these types."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["LONGEST_SECONDS", "Config", "Count", "Name", "NonNegative", "Optimizer", "Positive", "Precision"]

LONGEST_SECONDS = 1e9
"""Thirty years: longer ones are slips, and far longer ones no clock can count."""
NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Optimizer = Literal["adamp", "adamw", "adam", "sgd"]
Precision = Literal["auto", "bfloat16", "off"]


class Config(BaseModel):
    """A block of keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
