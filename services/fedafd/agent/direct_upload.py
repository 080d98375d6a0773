"""Parts of a blob, sent to the federation's object store itself where the site allows it: past the aggregator.

The site names the store; forms for another address are not used. Whatever goes wrong here, the blob goes the usual way.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from fedafd.agent.chunks import ChunkedFile
from fedafd.domain.config import DirectUploadConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.proxies import proxy_for
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.telemetry.logging import get_logger

__all__ = ["DirectUpload"]

_TIMEOUT = httpx.Timeout(120.0, connect=10.0)
_LARGEST_PART_BYTES = 64 << 20
_log = get_logger(__name__)


class DirectUpload:
    """The way to one store."""

    def __init__(self, config: DirectUploadConfig, on_sent: Callable[[int], None]) -> None:
        """Raises ConfigurationError for authorities that cannot be read."""
        self._origin = _origin(config.url)
        self._trust = _trust(config.authorities) if config.url.startswith("https:") else True
        self._on_sent = on_sent

    async def send(self, forms: Iterable[pb.StoreForm], blob: ChunkedFile) -> bool:
        """Post the parts that `forms` name; False, which is logged, if not all of them were taken."""
        scheme, host, _ = self._origin
        proxy = proxy_for(scheme, host)
        try:
            async with httpx.AsyncClient(
                verify=self._trust, trust_env=False, proxy=proxy.url if proxy else None, timeout=_TIMEOUT
            ) as client:
                return all([await self._post(client, form, blob) for form in forms])
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _refused(f"the store cannot be reached: {error}")

    async def _post(self, client: httpx.AsyncClient, form: pb.StoreForm, blob: ChunkedFile) -> bool:
        if _origin(form.url) != self._origin:
            return _refused(f"the aggregator names {form.url[:200]!r}, which is not the store of direct_uploads.url")
        begin, length = form.offset_bytes, form.length_bytes
        if not 0 <= begin < begin + length <= blob.size_bytes or length > _LARGEST_PART_BYTES:
            return _refused(f"the aggregator asks for {length} bytes from byte {begin} on, of {blob.size_bytes}")
        data = await asyncio.to_thread(_read, blob.path, begin, length)
        answer = await client.post(form.url, data=dict(form.fields), files={"file": ("part", data)})
        if not answer.is_success:
            return _refused(f"the store answers {answer.status_code}")
        self._on_sent(length)
        return True


def _refused(reason: str) -> bool:
    _log.warning("agent.not_sent_to_the_store", reason=reason, next="sending it to the aggregator")
    return False


def _read(path: Path, begin: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(length)


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port; of no URL an origin that is no store's."""
    try:
        parts = urlsplit(url)
        standard = {"http": 80, "https": 443}.get(parts.scheme)
        return parts.scheme, (parts.hostname or "").lower(), parts.port or standard
    except ValueError:
        return "", "", None


def _trust(authorities: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if authorities is None else str(authorities))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"direct_uploads: {authorities}: cannot be used as authorities: {error}") from error
