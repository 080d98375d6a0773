"""Until when certificates are valid: a server's, by a handshake with it, and our own, by one with ourselves."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fedafd.domain.config import TlsConfig

__all__ = ["own_certificate_end", "server_certificate_end", "shown_certificate"]


def server_certificate_end(tls: TlsConfig, host: str, port: int, seconds: float) -> datetime:
    """End of the certificate that the server shows. Raises OSError, ssl.SSLError among them, where there is no line."""
    context = ssl.create_default_context(cafile=None if tls.authorities is None else str(tls.authorities))
    context.set_alpn_protocols(["h2"])
    if tls.certificate is not None and tls.key is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    with (
        socket.create_connection((host, port), timeout=seconds) as plain,
        context.wrap_socket(plain, server_hostname=tls.server_name or host) as line,
    ):
        return _end(line.getpeercert())


def shown_certificate(host: str, port: int, seconds: float) -> tuple[bytes, str]:
    """The certificate that is shown there, in PEM, and a name in it, whoever signed it. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), timeout=seconds) as plain,
        context.wrap_socket(plain, server_hostname=host) as line,
    ):
        shown = x509.load_der_x509_certificate(line.getpeercert(binary_form=True) or b"")
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    named = [*names.get_values_for_type(x509.DNSName), host]
    return shown.public_bytes(Encoding.PEM), named[0]


def own_certificate_end(certificate: Path, key: Path) -> datetime:
    """End of our own certificate, read in a handshake in memory: the standard library reads no certificate alone.

    Raises ssl.SSLError, which says so for one that has expired.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (server, client):
        context.load_cert_chain(certificate, key)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    server.load_verify_locations(certificate)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)
    for _ in range(4):  # a handshake has two flights each way at most
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return _end(ends[1].getpeercert())


def _end(shown: object) -> datetime:
    assert isinstance(shown, dict)
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), UTC)
