"""`policy` in agent.yaml: what a site does for its federation. What is left out, but `pretrained`, is not limited."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field, JsonValue, ValidationError, create_model, field_validator

from fedafd.domain.config.base import Config, Count, Positive
from fedafd.domain.config.federation import OF_THE_SERVER, FederationConfig
from fedafd.domain.hub_names import hub_name

__all__ = ["PolicyConfig", "flat_values"]

_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class PolicyConfig(Config):
    """What a site takes part in. The agent refuses the rest before it does it, with a code to the federation."""

    approve: tuple[Literal["configuration", "public-set"], ...] = Field(
        (),
        description="What waits for your yes by `fedafd agent approve`: each change of the federation's configuration"
        " (`configuration`), each public set (`public-set`).",
    )
    max_bundle_bytes: int | None = Field(
        None, ge=1, description="Longest encoder bundle that is downloaded; null: no limit."
    )
    max_download_bytes: int | None = Field(
        None,
        ge=1,
        description="Most bytes that a round may bring down: public set, representations and bundles that are not here"
        " yet, of a bundle what differs from what is here; null: as much as the disk holds.",
    )
    max_bundle_parameters: int | None = Field(
        None, ge=1, description="Most numbers in the encoder of a bundle; null: no limit."
    )
    max_epochs: Count | None = Field(None, description="Most local epochs in a round; null: no limit.")
    max_minutes: Positive | None = Field(
        None, description="Longest training in a round; it is stopped then, and the round left; null: no limit."
    )
    max_rounds: Count | None = Field(
        None, description="Rounds that your data are used for, as the record of what was sent has them; null: no limit."
    )
    encoders: tuple[str, ...] | None = Field(
        None, description="Architectures of encoders that are taken from the federation, by name; null: any."
    )
    pretrained: tuple[str, ...] = Field(
        (),
        description="Pretrained weights that are loaded where the federation names them for your model, by their id on"
        " a hub: `organisation/name@revision` for this revision alone, or `organisation/name`; left out: none. A folder"
        " is never taken from a federation. Encoders that agent.yaml names itself need no entry.",
    )
    public_sets: tuple[str, ...] | None = Field(
        None, description="Public sets that are taken, by SHA-256, beside those that you approved; null: any."
    )
    allow: dict[str, tuple[JsonValue, ...]] = Field(
        default_factory=dict,
        description="Keys of federation.yaml, such as `averaging` or `alignment.mode`, each with the values that are"
        " taken; other keys may have any.",
    )
    hours: tuple[str, ...] | None = Field(
        None, description="When it trains, each `HH:MM-HH:MM`, also over midnight; null: at any time."
    )
    time_zone: str | None = Field(
        None, description="Of `hours`, such as `Europe/Berlin`; null: as this machine's clock says."
    )

    @field_validator("approve", "encoders", "pretrained", "public_sets", "hours", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("allow", mode="before")
    @classmethod
    def _one_value_is_a_list(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {key: item if isinstance(item, list | tuple) else [item] for key, item in value.items()}

    @field_validator("allow")
    @classmethod
    def _are_keys_of_a_federation(cls, allow: dict[str, tuple[JsonValue, ...]]) -> dict[str, tuple[JsonValue, ...]]:
        return {path: tuple(_as_a_federation_has_it(path, item) for item in values) for path, values in allow.items()}

    @field_validator("pretrained")
    @classmethod
    def _are_names_on_a_hub(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        ids = []
        for name in names:
            parsed = hub_name(name)
            if parsed is None:
                raise ValueError(
                    f"{name!r} is no id on a hub, such as organisation/name or organisation/name@revision; a folder is"
                    " never taken from a federation: name it in image_encoder or text_encoder of agent.yaml"
                )
            ids.append(parsed.id)
        twice = next((name for name in ids if ids.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is there twice: which revision of it counts?")
        return names

    @field_validator("public_sets")
    @classmethod
    def _are_hashes(cls, hashes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for sha256 in hashes or ():
            if not _SHA256.fullmatch(sha256):
                raise ValueError(f"{sha256!r} is no SHA-256: 64 of 0-9 and a-f")
        return hashes

    @field_validator("hours")
    @classmethod
    def _are_spans(cls, hours: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for span in hours or ():
            _span(span)
        return hours

    @field_validator("time_zone")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        try:
            return name if name is None else ZoneInfo(name).key
        except (KeyError, OSError, ValueError):
            raise ValueError(f"{name!r} is no time zone that this machine knows, such as Europe/Berlin") from None

    def is_open(self, now: datetime) -> bool:
        """Whether it trains at `now`, which has a time zone."""
        local = now.astimezone(None if self.time_zone is None else ZoneInfo(self.time_zone))
        minute = local.hour * 60 + local.minute
        return self.hours is None or any(_within(minute, *_span(span)) for span in self.hours)

    def taken_pretrained(self, named: str) -> str | None:
        """What is loaded where a federation names pretrained weights: with the revision that stands here, if one does.

        None for what is not allowed: a folder, an id that is not listed, another revision than the listed one.
        """
        wanted = hub_name(named)
        for entry in self.pretrained:
            allowed = hub_name(entry)
            if wanted is None or allowed is None or allowed.id != wanted.id:
                continue
            if allowed.revision is None:
                return named
            return entry if wanted.revision in (None, allowed.revision) else None
        return None

    def not_allowed(self, config: FederationConfig) -> Iterator[tuple[str, JsonValue, tuple[JsonValue, ...]]]:
        """Key, value and what is allowed, of each key that `allow` has and the federation sets otherwise."""
        has = config.model_dump(mode="json")
        for path, allowed in self.allow.items():
            present = _value_at(has, path)
            if present is not _ABSENT and present not in allowed:
                yield path, present, allowed


_ABSENT = object()


_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


def flat_values(values: Mapping[str, Any], prefix: str = "") -> dict[str, JsonValue]:
    """The values of nested blocks by their dotted path, in which a key with other letters stands as JSON has it: else
    `{"a": {"b": 1}}` and `{"a.b": 1}` would be one, and of a block with both only one would be seen."""
    flat: dict[str, JsonValue] = {}
    for key, value in values.items():
        path = f"{prefix}{key if _PLAIN_KEY.fullmatch(key) else json.dumps(key)}"
        if isinstance(value, Mapping) and value:
            flat |= flat_values(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def _value_at(values: Any, path: str) -> Any:
    """The value there; _ABSENT where a block above it is not set."""
    for part in path.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return _ABSENT
        values = values[part]
    return values


def _as_a_federation_has_it(path: str, value: JsonValue) -> JsonValue:
    """The value as JSON of a federation's configuration has it. Raises ValueError for no key, or no value of it."""
    model: type[BaseModel] = FederationConfig
    *blocks, last = path.split(".")
    if path.split(".")[0] in OF_THE_SERVER or path in OF_THE_SERVER:
        raise ValueError(f"{path}: no site is told this key; the server alone reads it")
    for block in blocks:
        inner = _block(model, block)
        if inner is None:
            raise ValueError(f"{path}: no key of federation.yaml; docs/configuration.md lists them")
        model = inner
    if last not in model.model_fields:
        raise ValueError(f"{path}: no key of federation.yaml; here are {', '.join(sorted(model.model_fields))}")
    block_here = _block(model, last)
    if block_here is not None and value is not None:
        raise ValueError(f"{path}: is a block; name a key in it: {', '.join(sorted(block_here.model_fields))}")
    field = model.model_fields[last]
    try:
        kind: Any = field.annotation
        checked = create_model("Value", value=(kind, field))(value=value)
    except ValidationError as error:
        raise ValueError(f"{path}: {error.errors()[0]['msg']}; found {value!r}") from None
    dumped: JsonValue = checked.model_dump(mode="json")["value"]
    return dumped


def _block(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    field = model.model_fields.get(name)
    kinds = () if field is None else (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _span(text: str) -> tuple[int, int]:
    """First minute of the day, and the one after the last."""
    match = _HOURS.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no span of hours, such as 22:00-06:00")
    hour, minute, to_hour, to_minute = map(int, match.groups())
    start, end = hour * 60 + minute, to_hour * 60 + to_minute
    if end > 24 * 60 or start == end:
        raise ValueError(
            f"{text!r} is no span of hours: it is empty or ends after 24:00; for all day leave `hours` out"
        )
    return start, end


def _within(minute: int, start: int, end: int) -> bool:
    return start <= minute < end if start < end else minute >= start or minute < end
