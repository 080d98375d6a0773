"""`fedafd health`: ask a process how it is, for health checks in images that have no curl and no grpcurl."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import SplitResult, urlsplit

import typer

from fedafd.domain.errors import ConfigurationError
from fedafd.domain.process_errors import NotHealthyError

if TYPE_CHECKING:
    from fedafd.domain.config import TlsConfig
    from fedafd.rpc.tls import Trust

__all__ = ["health"]

_CONNECTIONS = 12
_EXAMPLES = "http://127.0.0.1:8080/readyz, grpc://127.0.0.1:7443 or grpcs://host:7443/service"


def health(
    url: Annotated[str, typer.Argument(help=f"What to ask: {_EXAMPLES}.")],
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the answer.")] = 5.0,
    authorities: Annotated[Path | None, typer.Option(help="PEM file of the authorities to trust, for grpcs.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM file of our certificate, for mutual TLS.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    server_name: Annotated[str | None, typer.Option(help="Name in the certificate, where it is not the host.")] = None,
    any_certificate: Annotated[
        bool, typer.Option("--any-certificate", help="Whoever signed the certificate: this question holds no secret.")
    ] = False,
) -> None:
    """Ask a process whether it can serve; exits with 0 if it can and with 1 if not."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"{url[:200]}: {error}; give an address such as {_EXAMPLES}") from None
    if parts.scheme in ("http", "https"):
        typer.echo(_ask_http(url, timeout))
    elif parts.scheme in ("grpc", "grpcs"):
        address = _address(url, parts)
        service = parts.path.strip("/")
        tls = _tls(authorities, certificate, key, server_name) if parts.scheme == "grpcs" else None
        if tls is not None and any_certificate:
            typer.echo(_ask_any(address, service, timeout))
        else:
            typer.echo(_ask_grpc(address, service, timeout, tls))
    else:
        raise ConfigurationError(f"{url}: give an address such as {_EXAMPLES}")


def _ask_http(url: str, timeout: float) -> str:
    import httpx

    from fedafd.client.http import checked_url, make_client, way_to

    with make_client(checked_url(url, "url"), timeout=timeout) as client:
        try:
            response = client.get(url)
        except httpx.HTTPError as error:
            raise NotHealthyError(f"{url}: no answer{way_to(url)}: {error or type(error).__name__}") from None
    if not response.is_success:
        raise NotHealthyError(f"{url}: {response.status_code} {response.text[:500]}")
    return f"{url}: {response.status_code}"


def _address(url: str, parts: SplitResult) -> str:
    """host:port as gRPC wants it: an IPv6 address keeps its brackets."""
    from fedafd.domain.addresses import split_address

    address = parts.netloc.rpartition("@")[2]
    try:
        split_address(address)
    except ValueError as error:
        raise ConfigurationError(f"{url}: {error}; give an address such as {_EXAMPLES}") from None
    return address


def _ask_grpc(address: str, service: str, timeout: float, tls: TlsConfig | Trust | None) -> str:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from fedafd.rpc.channel import open_sync_channel, way_to
    from fedafd.rpc.status import error_from_rpc

    with open_sync_channel(address, tls) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout)
        except grpc.RpcError as error:
            raise NotHealthyError(f"{address}: {error.code().name}: {error_from_rpc(error)}{way_to(address)}") from None
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise NotHealthyError(f"{address}: {status}")
    return f"{address}: {status}"


def _ask_any(address: str, service: str, timeout: float) -> str:
    """Ask whoever is there. Behind one address there may be several, each with a certificate of its own, so that the
    one that was shown may be another's than the one of who is asked: then those of several connections are trusted."""
    try:
        return _ask_grpc(address, service, timeout, _any(address, timeout, connections=1))
    except NotHealthyError:
        return _ask_grpc(address, service, timeout, _any(address, timeout, connections=_CONNECTIONS))


def _any(address: str, seconds: float, *, connections: int) -> Trust:
    """Trust in whatever is shown there."""
    from fedafd.domain.addresses import split_address
    from fedafd.rpc.certificates import shown_certificate
    from fedafd.rpc.tls import Trust

    try:
        shown = [shown_certificate(*split_address(address), seconds) for _ in range(connections)]
    except (OSError, ValueError) as error:
        raise NotHealthyError(f"{address}: shows no certificate: {error}") from None
    return Trust(b"".join(dict.fromkeys(certificate for certificate, _ in shown)), shown[0][1])


def _tls(authorities: Path | None, certificate: Path | None, key: Path | None, server_name: str | None) -> TlsConfig:
    from fedafd.domain.config import TlsConfig

    if (certificate is None) != (key is None):
        raise ConfigurationError("--certificate and --key are needed together")
    return TlsConfig(authorities=authorities, certificate=certificate, key=key, server_name=server_name)
