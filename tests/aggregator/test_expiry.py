"""The metrics say when the certificates end that a person renews."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from fedafd.aggregator.listening import watch_expiry
from fedafd.aggregator.metrics import AggregatorMetrics
from fedafd.aggregator.settings import AggregatorSettings
from fedafd.rpc.authority import new_authority, new_key

_NAME = "fedafd_aggregator_certificate_expiry_timestamp_seconds"


def settings(**more: Any) -> AggregatorSettings:
    return AggregatorSettings(
        database_url="sqlite+aiosqlite:///x.db",
        redis_url="redis://h/0",
        store={"url": "store"},
        internal_token="0123456789abcdef0123456789abcdef",
        **more,
    )


def test_of_an_aggregator_without_a_file_the_authority_alone_is_told() -> None:
    authority, metrics = new_authority(), AggregatorMetrics()
    watch_expiry(metrics, settings(), authority)
    value = metrics.metrics.registry.get_sample_value
    assert value(_NAME, {"certificate": "authority"}) == authority.certificate.not_valid_after_utc.timestamp()
    assert value(_NAME, {"certificate": "tls"}) is None


def test_the_file_is_read_at_each_scrape(tmp_path: Path) -> None:
    authority, metrics, path = new_authority(), AggregatorMetrics(), tmp_path / "tls.crt"
    watch_expiry(metrics, settings(tls_certificate=path, tls_key=tmp_path / "tls.key"), authority)

    def expiry() -> float:
        sample = metrics.metrics.registry.get_sample_value(_NAME, {"certificate": "tls"})
        assert sample is not None
        return sample

    assert math.isnan(expiry()), "the file is not there yet"
    for days in (3, 90):
        certificate = authority.sign_server(new_key().public_key(), ["aggregator"], timedelta(days=days))
        path.write_bytes(certificate.public_bytes(Encoding.PEM))
        assert expiry() == certificate.not_valid_after_utc.timestamp()
    path.write_text("no certificate")
    assert math.isnan(expiry())
