"""deploy/proxy/rest-tls.cfg: what is for the inside stays there, however its path is written."""

from __future__ import annotations

import http.client
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.certificates import Authority
from tests.control_plane.rest import Rest, in_a_thread, settings_for
from tests.servers import ROOT, accepts, free_port, wait_until

from fedafd.storage import StoreSettings

CONFIGURATION = (ROOT / "deploy/proxy/rest-tls.cfg").read_text(encoding="utf-8")
INSIDE = ("metrics", "healthz", "readyz")


def test_paths_are_compared_as_the_control_plane_reads_them() -> None:
    (refused,) = re.findall(r"http-request deny deny_status 404 if \{ (.*) \}", CONFIGURATION)
    assert refused == "path,url_dec -m beg " + " ".join(f"/{name}" for name in INSIDE)


@contextmanager
def proxied(folder: Path, backend: str) -> Iterator[int]:
    """The proxy on a free port of this machine, in front of `backend`."""
    certificate, key = Authority(folder, "authority").issue("rest")
    pem = folder / "tls_rest.pem"
    pem.write_bytes(certificate.read_bytes() + key.read_bytes())
    port, text = free_port(), CONFIGURATION
    for ours, here in (
        ("bind :8443 ssl crt /run/secrets/tls_rest.pem", f"bind 127.0.0.1:{port} ssl crt {pem}"),
        ("bind :8404", f"bind 127.0.0.1:{free_port()}"),
        ("control-plane:8080 check inter 5s resolvers docker init-addr none", backend),
    ):
        assert text.count(ours) == 1, ours
        text = text.replace(ours, here)
    (folder / "haproxy.cfg").write_text(text, encoding="utf-8")
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(["haproxy", "-f", str(folder / "haproxy.cfg")], stdout=log, stderr=log)
    try:
        wait_until(lambda: accepts(port), "haproxy")
        yield port
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
def test_metrics_and_probes_stay_inside_however_their_paths_are_written(tmp_path: Path) -> None:
    async def nothing(_: Rest) -> None:
        pass

    settings = settings_for(f"sqlite:///{tmp_path}/proxied.db", StoreSettings(url=str(tmp_path / "store")))
    with in_a_thread(settings, nothing) as url, proxied(tmp_path, url.removeprefix("http://")) as port:

        def asked(path: str) -> int:
            context = ssl._create_unverified_context()
            line = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)
            try:
                line.request("GET", path)
                return line.getresponse().status
            finally:
                line.close()

        assert asked("/login") == 200
        for name in INSIDE:
            first = f"%{ord(name[0]):x}{name[1:]}"
            written = (name, f"{name}/", f"{name}?a=b", first, first.upper(), f"%2f{name}", f"./{name}", f"{name}%2f")
            assert {path: asked(f"/{path}") for path in written} == dict.fromkeys(written, 404)
