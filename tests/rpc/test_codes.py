"""The enums of the wire and of the domain say the same, value for value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fedafd.domain.errors import InvalidRequestError, UploadError
from fedafd.domain.kinds import Modality, ParticipantKind, StageKind, UploadPurpose
from fedafd.proto.v1 import aggregator_pb2, distillation_pb2, types_pb2
from fedafd.rpc import codes

TABLE = [
    (ParticipantKind, types_pb2.ClientKind, codes.wire_client_kind, codes.client_kind_from_wire),
    (Modality, types_pb2.Modality, codes.wire_modality, codes.modality_from_wire),
    (StageKind, distillation_pb2.StageKind, codes.wire_stage_kind, codes.stage_kind_from_wire),
    (UploadPurpose, aggregator_pb2.UploadPurpose, codes.wire_purpose, codes.purpose_from_wire),
]


@pytest.mark.parametrize(("kind", "wire", "to_wire", "from_wire"), TABLE)
def test_every_value_comes_back_and_none_is_missing(
    kind: Any, wire: Any, to_wire: Callable[[Any], str], from_wire: Callable[[int], Any]
) -> None:
    assert [from_wire(wire.Value(to_wire(value))) for value in kind] == list(kind)
    names = {name for name in wire.DESCRIPTOR.values_by_name if not name.endswith("_UNSPECIFIED")}
    assert {to_wire(value) for value in kind} == names


def test_what_is_about_no_modality_comes_back() -> None:
    assert codes.modality_from_wire(types_pb2.Modality.Value(codes.wire_modality(None))) is None


@pytest.mark.parametrize("number", [0, 99])
def test_a_number_that_is_none_is_refused_where_one_is_needed(number: int) -> None:
    with pytest.raises(InvalidRequestError, match="stage kind"):
        codes.stage_kind_from_wire(number)
    with pytest.raises(UploadError, match="update the agent"):
        codes.purpose_from_wire(number)
    assert codes.client_kind_from_wire(number) is None
