"""A port that there is not is refused wherever a port is taken; hosts keep their form."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedafd.agent.settings import load_settings as load_agent_settings
from fedafd.aggregator.settings import load_settings as load_aggregator_settings
from fedafd.control_plane.settings import load_settings as load_control_plane_settings
from fedafd.distiller.settings import load_settings as load_distiller_settings
from fedafd.domain.addresses import split_address
from fedafd.domain.errors import ConfigurationError

HOSTS = {"127.0.0.1": "127.0.0.1", "site.example.org": "site.example.org", "[::1]": "::1", "dns:///name": "name"}
COMMON = {
    "AGGREGATOR": {
        "DATABASE_URL": "sqlite:///x",
        "REDIS_URL": "redis://h:6379/0",
        "STORE__URL": "store",
        "INTERNAL_TOKEN": "t" * 20,
    },
    "CONTROL_PLANE": {"DATABASE_URL": "sqlite:///x", "STORE__URL": "store"},
    "DISTILLER": {"REDIS_URL": "redis://h:6379/0", "STORE__URL": "store", "INTERNAL_TOKEN": "t" * 20},
    "AGENT": {},
}
LOADERS = {
    "AGGREGATOR": load_aggregator_settings,
    "CONTROL_PLANE": load_control_plane_settings,
    "DISTILLER": load_distiller_settings,
    "AGENT": load_agent_settings,
}


@settings(max_examples=60, deadline=None)
@given(host=st.sampled_from(sorted(HOSTS)), port=st.integers(0, 10**9))
def test_an_address_has_a_port_from_1_to_65535(host: str, port: int) -> None:
    if 1 <= port <= 65535:
        assert split_address(f"{host}:{port}") == (HOSTS[host], port)
    else:
        with pytest.raises(ValueError, match="port must be 1 to 65535"):
            split_address(f"{host}:{port}")


@pytest.mark.parametrize("address", ["", "host", "host:", ":7443", "::1:7443", "h:1:2", "http://h:1", "h:+1", "h: 1"])
def test_what_is_no_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="must be host:port"):
        split_address(address)


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
@pytest.mark.parametrize(
    ("process", "name", "value"),
    [
        ("AGGREGATOR", "LISTEN", "127.0.0.1:{}"),
        ("AGGREGATOR", "METRICS_LISTEN", "[::1]:{}"),
        ("AGGREGATOR", "REDIS_URL", "redis://:secret@h:{}/0"),
        ("AGGREGATOR", "DATABASE_URL", "postgresql://u:p@h:{}/db"),
        ("AGGREGATOR", "STORE__ENDPOINT", "minio:{}"),
        ("CONTROL_PLANE", "PORT", "{}"),
        ("CONTROL_PLANE", "REDIS_URL", "redis://h:{}/0"),
        ("DISTILLER", "AGGREGATOR", "h:{}"),
        ("DISTILLER", "METRICS_LISTEN", "0.0.0.0:{}"),
        ("AGENT", "AGGREGATOR", "h:{}"),
        ("AGENT", "METRICS_PORT", "{}"),
    ],
)
def test_every_process_refuses_a_port_that_there_is_not(
    monkeypatch: pytest.MonkeyPatch, process: str, name: str, value: str, port: str
) -> None:
    for key, good in COMMON[process].items():
        monkeypatch.setenv(f"FEDAFD_{process}_{key}", good)
    LOADERS[process]()
    monkeypatch.setenv(f"FEDAFD_{process}_{name}", value.format(port))
    with pytest.raises(ConfigurationError, match=rf"FEDAFD_{process}_{name}: .*(65535|equal to 1)"):
        LOADERS[process]()
