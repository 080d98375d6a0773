"""From where a call comes, as gRPC writes it."""

from __future__ import annotations

import pytest

from fedafd.rpc.peer import address_of


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.7:5123", "192.0.2.7"),
        ("ipv6:%5B2001:db8::1%5D:5123", "2001:db8::1"),
        ("ipv6:[::1]:5123", "::1"),
        ("unix:/run/fedafd.sock", None),
        ("unix:", None),
        ("", None),
    ],
)
def test_the_address_is_told_without_its_port(peer: str, address: str | None) -> None:
    assert address_of(peer) == address
