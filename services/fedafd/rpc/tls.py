"""TLS between agents, distillers and aggregators: PEM files, checked when read and read again when they change.

What needs no files, since an authority of the deployment's own makes it, is in `own_tls`.

A server looks at its files at each handshake, so a renewed certificate serves the next connection without a restart.
A client's channel keeps what it was opened with: who holds it opens another when `TlsConfig`'s files have changed.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import grpc

from fedafd.domain.config import TlsConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.telemetry.logging import get_logger

__all__ = ["FileStamp", "Pair", "Trust", "channel_credentials", "explain_handshake", "file_stamp", "server_credentials"]

FileStamp = tuple[tuple[int, int, int] | None, ...]
"""Of each file: inode, time of change in ns, length in bytes; None if it cannot be read."""

Pair = tuple[bytes, bytes]
"""A key and its certificate, in PEM: the order that gRPC has."""

_log = get_logger(__name__)

_REASONS = (
    ("hostname verification", "its certificate is for another name; `server_name` can say a name that stands in it"),
    ("certificate has expired", "its certificate has expired; renew it (it is taken up without a restart)"),
    ("certificate is not yet valid", "its certificate is not valid yet; compare the clocks of both machines"),
    (
        "certificate_verify_failed",
        "its certificate is not signed by an authority that is trusted here; `authorities` must name the PEM file of"
        " the authority that signed it, or the invitation's token be one of this federation as it is now",
    ),
    (
        "wrong_version_number",
        "it does not speak TLS; let it (docs/tls.md), or set `plaintext: true` here if nobody can listen on the way",
    ),
    (
        "socket closed",
        "it closed the connection at once; if it speaks TLS, set `tls` or `plaintext: false` here; if it asks for"
        " client certificates, set `tls.certificate` and `tls.key` to ones that its authorities signed and that have"
        " not expired",
    ),
)


def explain_handshake(details: str) -> str | None:
    """What a failed handshake means and what to do, from gRPC's words for it; None if it was no failed handshake."""
    if "failed to connect" not in details:
        return None
    lowered = details.lower()
    return next((f"{reason} ({details})" for sign, reason in _REASONS if sign in lowered), None)


@dataclass(frozen=True)
class Trust:
    """A client's side of TLS without files: whom it trusts, by which name, and what it shows."""

    authorities: bytes
    server_name: str
    shown: Pair | None = field(default=None, repr=False)


def channel_credentials(tls: TlsConfig | Trust) -> grpc.ChannelCredentials:
    """A client's credentials. Raises ConfigurationError naming the file that cannot be used, and why."""
    if isinstance(tls, Trust):
        return grpc.ssl_channel_credentials(tls.authorities, *(tls.shown or (None, None)))
    _check_authorities(tls.authorities)
    _check_pair(tls.certificate, tls.key)
    return grpc.ssl_channel_credentials(_read(tls.authorities), _read(tls.key), _read(tls.certificate))


def server_credentials(
    certificate: Path, key: Path, client_authorities: Path | None = None, *others: Pair
) -> grpc.ServerCredentials:
    """A server's credentials that follow their files. With `client_authorities` every client must show a certificate
    that they signed. `others` are shown to those who ask for a name in them. Raises ConfigurationError naming the file
    that cannot be used, and why.
    """
    return _ServerFiles(certificate, key, client_authorities, others).credentials()


def file_stamp(tls: TlsConfig | Trust | None) -> FileStamp:
    """Changes whenever one of the client's files does."""
    return () if tls is None or isinstance(tls, Trust) else _stamps(tls.authorities, tls.certificate, tls.key)


class _ServerFiles:
    """The server's files, and which state of them is in use."""

    def __init__(self, certificate: Path, key: Path, client_authorities: Path | None, others: Sequence[Pair]) -> None:
        self._certificate, self._key, self._authorities = certificate, key, client_authorities
        self._others = others
        self._used = self._look()

    def credentials(self) -> grpc.ServerCredentials:
        # gRPC takes None for "as before", which its stubs leave out.
        look = cast("Callable[[], grpc.ServerCertificateConfiguration]", self._if_changed)
        return grpc.dynamic_ssl_server_credentials(self._load(), look, self._authorities is not None)

    def _if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        # gRPC calls this at each handshake, from a thread of its own; None keeps what is in use.
        stamp = self._look()
        if stamp == self._used:
            return None
        try:
            fresh = self._load()
        except ConfigurationError as error:
            # Certificate and key are two files: between the two writes they do not fit. The next handshake looks again.
            _log.warning("tls.files_not_taken", reason=str(error))
            return None
        self._used = stamp
        _log.info("tls.files_reloaded", certificate=str(self._certificate))
        return fresh

    def _load(self) -> grpc.ServerCertificateConfiguration:
        _check_pair(self._certificate, self._key)
        _check_authorities(self._authorities)
        pair = (self._key.read_bytes(), self._certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair, *self._others], _read(self._authorities))

    def _look(self) -> FileStamp:
        return _stamps(self._certificate, self._key, self._authorities)


def _check_authorities(path: Path | None) -> None:
    if path is not None:
        _read(path)
        try:
            ssl.create_default_context(cafile=str(path))
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"TLS file {path}: holds no authority's certificate in PEM: {_why(error)}"
            ) from None


def _check_pair(certificate: Path | None, key: Path | None) -> None:
    if certificate is None or key is None:
        return
    _read(certificate), _read(key)
    try:
        ssl.create_default_context().load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        text = "the key does not belong to the certificate" if error.reason == "KEY_VALUES_MISMATCH" else _why(error)
        raise ConfigurationError(
            f"TLS files {certificate}, {key}: {text}; needed are a certificate and its key, unencrypted, in PEM"
        ) from None


def _no_password() -> str:
    return ""


def _why(error: ssl.SSLError) -> str:
    return (error.reason or "not readable as PEM").replace("_", " ").lower()


def _stamps(*paths: Path | None) -> FileStamp:
    return tuple(_stamp(path) for path in paths if path is not None)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"TLS file {path}: cannot be read: {error.strerror}") from error
