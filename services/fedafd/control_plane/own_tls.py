"""TLS that the control plane speaks itself, by a certificate and a key in files, which may be renewed while it runs."""

from __future__ import annotations

import ssl
from pathlib import Path

from fedafd.domain.errors import ConfigurationError
from fedafd.telemetry.logging import get_logger

__all__ = ["OwnTls"]

_log = get_logger(__name__)
_Stamp = tuple[tuple[int, int, int], ...]


class OwnTls:
    """The files, and the state of them that is in use: each handshake looks whether they have changed."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises ConfigurationError for files that cannot be read or do not fit."""
        self._certificate, self._key = certificate, key
        self._used, self._loaded = self._stamp(), self._load()

    def context(self) -> ssl.SSLContext:
        """What a server takes; connections get the newest certificate."""
        outer = self._load()
        outer.sni_callback = self._choose
        return outer

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _: str | None, __: ssl.SSLContext) -> None:
        try:
            stamp = self._stamp()
            if stamp != self._used:
                self._loaded, self._used = self._load(), stamp
                _log.info("tls.files_reloaded", certificate=str(self._certificate))
        except ConfigurationError as error:
            # They are two files: between the two writes they do not fit. The next handshake looks again.
            _log.warning("tls.files_not_taken", reason=str(error))
        connection.context = self._loaded

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # An empty password, or OpenSSL asks the terminal for one.
            context.load_cert_chain(self._certificate, self._key, password=lambda: "")
        except ssl.SSLError as error:
            why = (error.reason or "not readable as PEM").replace("_", " ").lower()
            raise ConfigurationError(
                f"TLS files {self._certificate}, {self._key}: {why}; needed are a certificate and its key, unencrypted,"
                " in PEM"
            ) from None
        except OSError as error:
            raise self._unreadable(error) from None
        return context

    def _stamp(self) -> _Stamp:
        try:
            states = [path.stat() for path in (self._certificate, self._key)]
        except OSError as error:
            raise self._unreadable(error) from None
        return tuple((state.st_ino, state.st_mtime_ns, state.st_size) for state in states)

    def _unreadable(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(f"TLS files {self._certificate}, {self._key}: cannot be read: {error.strerror}")
