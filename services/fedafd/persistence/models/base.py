"""What all tables share: their base class, names of constraints, ids, times and columns of an enum."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, CheckConstraint, DateTime, Float, MetaData, TypeDecorator
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase

from fedafd.artifacts.ref import ArtifactRef

__all__ = ["Base", "Contributions", "Share", "UtcDateTime", "new_id", "one_of"]

_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def new_id() -> str:
    """A fresh random id."""
    return uuid.uuid4().hex


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware time, stored as UTC; SQLite, which drops the zone, gets it back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any] | None:
        return _text_of if dialect.name == "sqlite" else super().bind_processor(dialect)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        return _utc_of if dialect.name == "sqlite" else super().result_processor(dialect, coltype)


def _text_of(value: datetime | None) -> str | None:
    """As SQLAlchemy writes it, in one step in place of three: a round has hundreds of times for each client."""
    return None if value is None else value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def _utc_of(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)


class Share(TypeDecorator[float]):
    """A done share, 0 to 1. What is no number is none done on reading: older versions stored what agents sent."""

    impl = Float
    cache_ok = True

    def process_result_value(self, value: float | None, _: Dialect) -> float | None:
        return None if value is None else value if math.isfinite(value) else 0.0


class Figures(TypeDecorator[dict[str, float]]):
    """Numbers by name. What is no number is left out on reading, as above."""

    impl = JSON
    cache_ok = True
    should_evaluate_none = True

    def process_result_value(self, value: dict[str, float] | None, _: Dialect) -> dict[str, float] | None:
        return None if value is None else {name: figure for name, figure in value.items() if _is_number(figure)}


def _is_number(figure: Any) -> bool:
    return isinstance(figure, int | float) and math.isfinite(figure)


class Contributions(TypeDecorator[dict[str, Any]]):
    """A Contribution by modality. What is no number is not known on reading, and without a weight the whole is not."""

    impl = JSON
    cache_ok = True
    should_evaluate_none = True

    def process_result_value(self, value: dict[str, Any] | None, _: Dialect) -> dict[str, Any] | None:
        if value is None:
            return None
        known = {modality: _known(contribution) for modality, contribution in value.items()}
        return {
            modality: contribution for modality, contribution in known.items() if contribution.get("weight") is not None
        }


def _known(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(figure, float) and not math.isfinite(figure) else figure
        for name, figure in figures.items()
    }


def one_of(column: str, states: type[StrEnum]) -> CheckConstraint:
    """A column holds one of an enum's values."""
    return CheckConstraint(f"{column} IN ({', '.join(repr(state.value) for state in states)})", name=column)


class Base(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(naming_convention=_NAMING)
    type_annotation_map = {  # noqa: RUF012
        datetime: UtcDateTime(),
        dict[str, Any]: JSON(),
        dict[str, ArtifactRef]: JSON(),
        dict[str, float]: Figures(),
        list[str]: JSON(),
    }
