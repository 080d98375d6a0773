"""The services of the protos: each is served, and each of their calls is made by some process."""

from __future__ import annotations

import re

import pytest
from tests.servers import ROOT

from fedafd.aggregator.health import SERVICE_NAMES
from fedafd.proto.v1 import aggregator_pb2, distillation_pb2

SERVICES = [
    service
    for file in (aggregator_pb2.DESCRIPTOR, distillation_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
]


def test_each_service_of_the_protos_is_served_and_no_other() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "protos").rglob("*.proto")]
    named = {name for text in texts for name in re.findall(r"^service (\w+) \{", text, re.MULTILINE)}
    assert named == {service.name for service in SERVICES}
    assert set(SERVICE_NAMES) == {service.full_name for service in SERVICES}


@pytest.mark.parametrize("method", [method.name for service in SERVICES for method in service.methods])
def test_each_call_has_a_caller(method: str) -> None:
    """What nobody calls is not kept (docs/adr/0011-no-coordination-rpc.md)."""
    processes = [ROOT / "services" / "fedafd" / name for name in ("agent", "distiller", "control_plane")]
    sources = [path.read_text(encoding="utf-8") for folder in processes for path in folder.rglob("*.py")]
    called = re.compile(rf'_stub\.{method}\b|\bself\._(ask|once)[(,]\s*("[^"]*",\s*)?"{method}"')
    assert any(called.search(source) for source in sources)
