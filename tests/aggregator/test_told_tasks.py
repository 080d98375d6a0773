"""What an agent can be told to do is what an aggregator tells."""

from __future__ import annotations

from tests.servers import ROOT

from fedafd.proto.v1 import aggregator_pb2 as pb

SERVICES = ROOT / "services" / "fedafd"


def test_each_kind_of_task_is_one_that_an_aggregator_gives() -> None:
    given = (SERVICES / "aggregator" / "tasks.py").read_text(encoding="utf-8")
    kinds = [field.name for field in pb.FetchTaskResponse.DESCRIPTOR.oneofs_by_name["task"].fields]
    assert kinds
    assert [kind for kind in kinds if f"response.{kind}." not in given] == []
