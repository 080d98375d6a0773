"""Moments that are written once: the first stays, whoever comes later."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, bindparam, func
from sqlalchemy.sql.functions import coalesce

__all__ = ["first_moment"]


def first_moment(column: Column[Any], parameter: str) -> coalesce[Any]:
    """What the column holds, or the parameter where it holds nothing."""
    return func.coalesce(column, bindparam(parameter, type_=column.type))
