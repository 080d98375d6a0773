"""What somebody without a client's key can do to it, and to whoever reads the log: over real gRPC."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from tests.aggregator.test_identity import Site, enrolled, fetch, invited
from tests.aggregator.world import World, error_code

from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.sessions import session_metadata

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.mark.parametrize("recorded", [False, True], ids=["a request of another key", "the client's own request"])
async def test_a_stolen_credential_without_its_key_does_not_take_the_clients_place(
    world: World, recorded: bool
) -> None:
    """Nor with a request for a certificate that the client's key signed once, as who ends TLS in front could have."""
    site, thief = await enrolled(world), Site("none")
    request = pb.RenewCertificateRequest(certificate_request=(site if recorded else thief).request())
    stolen = (*bearer_metadata(site.secret), *session_metadata(thief.session))
    try:
        await world.agents.RenewCertificate(request, metadata=stolen)
    except grpc.aio.AioRpcError as error:
        assert error_code(error) == "forbidden"
    await fetch(world, site.signed())
