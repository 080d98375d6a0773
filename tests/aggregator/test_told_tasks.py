"""What an agent can be told to do is what an aggregator tells, and the agent reads all of it."""

from __future__ import annotations

from tests.servers import ROOT

from fedafd.proto.v1 import aggregator_pb2 as pb

SERVICES = ROOT / "services" / "fedafd"


def test_each_kind_of_task_is_one_that_an_aggregator_gives() -> None:
    given = (SERVICES / "aggregator" / "tasks.py").read_text(encoding="utf-8")
    kinds = [field.name for field in pb.FetchTaskResponse.DESCRIPTOR.oneofs_by_name["task"].fields]
    assert kinds
    assert [kind for kind in kinds if f"response.{kind}." not in given] == []


def test_the_agent_reads_each_part_of_a_training_task() -> None:
    read = "".join(path.read_text(encoding="utf-8") for path in (SERVICES / "agent").glob("*.py"))
    parts = [field.name for field in pb.TrainTask.DESCRIPTOR.fields]
    assert [part for part in parts if f"task.{part}" not in read and f'"{part}"' not in read] == []
