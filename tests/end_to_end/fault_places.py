"""The scene of faults with TLS on every line between sites, aggregator and distiller; and with two aggregators."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url
from tests.certificates import Authority
from tests.end_to_end.fault_scene import Scene, swallowing
from tests.end_to_end.federation import Trial
from tests.end_to_end.proxy import proxy
from tests.hole import Hole
from tests.servers import accepts, free_port, postgres_server

from fedafd.local.services import Backends

__all__ = ["TlsScene", "TwoAggregatorsScene"]


class TlsScene(Scene):
    """Each side shows a certificate, and trusts one authority."""

    def own_settings(self) -> dict[str, str]:
        place = self.folder / "tls"
        place.mkdir()
        self._authority = Authority(place, "ours")
        self._site = self._authority.issue("site")
        self._pair = self._authority.issue("aggregator")
        aggregator = {
            "CERTIFICATE": str(self._pair[0]),
            "KEY": str(self._pair[1]),
            "CLIENT_AUTHORITIES": str(self._authority.file),
        }
        return {f"FEDAFD_AGGREGATOR_TLS_{key}": value for key, value in aggregator.items()} | {
            f"FEDAFD_DISTILLER_TLS__{key.upper()}": value for key, value in self.own_keys()["tls"].items()
        }

    def own_keys(self) -> dict[str, Any]:
        certificate, key = map(str, self._site)
        authorities = str(self._authority.file)
        return {"tls": {"authorities": authorities, "certificate": certificate, "key": key, "server_name": "localhost"}}

    def renew_certificates(self) -> None:
        """New ones for all, in the places of the old."""
        self._authority.issue("site")
        self._authority.issue("aggregator")

    @contextmanager
    def strange_certificate(self) -> Iterator[None]:
        """The aggregator comes back with one that nobody trusts, and then with the right one."""
        kept = [path.read_bytes() for path in self._pair]
        (self.folder / "theirs").mkdir()
        strange = Authority(self.folder / "theirs", "theirs").issue("aggregator")
        self.kill("aggregator")
        for path, other in zip(self._pair, strange, strict=True):
            shutil.copy(other, path)
        self.start("aggregator")
        yield
        for path, content in zip(self._pair, kept, strict=True):
            path.write_bytes(content)
        shutil.rmtree(self.folder / "theirs")


class _TwoAggregators(Trial):
    """Each with a line of its own to PostgreSQL, behind one address."""

    scene: TwoAggregatorsScene

    def start_services(self, *, distiller: bool) -> None:
        services = self.services
        services.migrate()
        services.start_control_plane()
        services.wait_for_control_plane()
        self.ports = [free_port() for _ in self.scene.lines]
        for which in range(len(self.ports)):
            self.start_one(which, "fedafd.aggregator.server")
        services.aggregator = self.scene.stack.enter_context(proxy(self.ports))
        services.start_distiller()

    def start_one(self, which: int, module: str) -> None:
        """The first or second of them; `module` is the program."""
        services, backends = self.services, self.services.backends
        url = make_url(backends.database_url).set(host="127.0.0.1", port=self.scene.lines[which].port, query={})
        services.backends = replace(backends, database_url=url.render_as_string(hide_password=False))
        try:
            services.start_aggregator(f"127.0.0.1:{self.ports[which]}", name=f"aggregator-{'ab'[which]}", module=module)
        finally:
            services.backends = backends
        self.until(partial(accepts, self.ports[which]), "the aggregator", 120)


class TwoAggregatorsScene(Scene):
    """On PostgreSQL."""

    trial_kind = _TwoAggregators

    def backends(self, redis_url: str) -> Backends:
        # Not below our folder: started by root, the server runs as another user.
        place = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="fedafd-postgres-"))
        url = self.stack.enter_context(postgres_server(Path(place)))()
        self.lines = [Hole(f"{make_url(url).query['host']}/.s.PGSQL.5432") for _ in range(2)]
        for line in self.lines:
            self.stack.callback(line.close)
        _TwoAggregators.scene = self
        return Backends(database_url=url, redis_url=redis_url, store={"URL": str(self.folder / "store")})

    def skewed(self, which: int, seconds: int) -> None:
        """One of them comes back on a machine whose clock is so far ahead, and stays there."""
        self.kill(f"aggregator-{'ab'[which]}")
        os.environ["SKEWED_SECONDS"] = str(seconds)
        trial = self.trial
        assert isinstance(trial, _TwoAggregators)
        trial.start_one(which, "tests.end_to_end.skewed_aggregator")

    def cut_off(self, which: int) -> None:
        """One of them does not reach the database until the round is over."""
        self.later.enter_context(swallowing(self.lines[which]))
