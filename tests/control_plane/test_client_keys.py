"""Over REST, too, a client's credential counts only beside its key: a copy of it reads no personalized model."""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from tests.control_plane.rest import Rest, problem
from typer.testing import CliRunner

from fedafd.agent.state import Credential, StateDirectory
from fedafd.cli.main import app
from fedafd.domain.kinds import ParticipantKind
from fedafd.persistence.authority_repository import keep_authority
from fedafd.persistence.client_repository import bind_key, enrol_client, invite_client
from fedafd.rpc.authority import Authority, key_id, new_authority, new_key, pem_of_key
from fedafd.rpc.proofs import PROOF_SECONDS, proof_metadata

MODELS = "/federations/trial/clients/north/models"
CURRENT = f"GET /v1{MODELS}/current"


class Site:
    """A client whose credential is bound to a key, and what it would show."""

    def __init__(self, secret: str, client_id: str, key: ec.EllipticCurvePrivateKey, certificate: bytes) -> None:
        self.secret, self.client_id, self.key, self.certificate = secret, client_id, key, certificate

    def headers(self, request: str = CURRENT, **changes: object) -> dict[str, str]:
        values = {"key": self.key, "certificate": self.certificate, "secret": self.secret} | changes
        ((name, proof),) = proof_metadata(path=request, **values)  # type: ignore[arg-type]
        return {"Authorization": f"Bearer {self.secret}", name: proof}


async def enrolled(rest: Rest, authority: Authority, name: str = "north") -> Site:
    key = new_key()
    async with rest.context.database.transaction() as session:
        _, token = await invite_client(session, "trial", name, ParticipantKind.TEXT, timedelta(hours=1))
        bound, nonce = key_id(key.public_key()), secrets.token_bytes(32)
        client, secret, _ = await enrol_client(session, token, ParticipantKind.TEXT, "1.0", nonce, bound)
        issued = authority.sign_client(key.public_key(), "trial", client.id, timedelta(days=30))
        await bind_key(session, client, bound, issued.not_valid_after_utc)
        return Site(secret, client.id, key, issued.public_bytes(Encoding.DER))


@pytest.fixture
async def authority(rest: Rest) -> Authority:
    """The federation server's, of which the database has the certificate; `north` will have shared a model."""
    made = new_authority()
    async with rest.context.database.transaction() as session:
        await keep_authority(session, made.certificate_pem(), None)
    await rest.federation()
    return made


async def status(rest: Rest, headers: dict[str, str], path: str = f"{MODELS}/current") -> int:
    return (await rest.http.get(path, headers=headers)).status_code


async def test_the_key_opens_what_a_copied_credential_does_not(rest: Rest, authority: Authority) -> None:
    site, other = await enrolled(rest, authority), await enrolled(rest, authority, "south")
    await rest.publish(1)
    await rest.share("north")
    assert await status(rest, site.headers()) == 200
    copied = {"Authorization": f"Bearer {site.secret}"}
    refused = await rest.http.get(f"{MODELS}/current", headers=copied)
    assert "bound to a key" in problem(refused, 401, "unauthenticated")
    for path in (MODELS, f"{MODELS}/1/archive", f"{MODELS}/1/files/config.json"):
        assert await status(rest, copied, path) == 401
        assert await status(rest, site.headers(f"GET /v1{path}"), path) == 200
    stranger = new_authority()
    forged = stranger.sign_client(site.key.public_key(), "trial", site.client_id, timedelta(days=1))
    for changes in (
        {"key": new_key()},
        {"key": other.key, "certificate": other.certificate},
        {"certificate": forged.public_bytes(Encoding.DER)},
        {"request": f"GET /v1{MODELS}"},
        {"request": f"HEAD /v1{MODELS}/current"},
        {"secret": other.secret},
        {"now": 0.0},
        {"now": 1e12 + PROOF_SECONDS},
    ):
        assert await status(rest, site.headers(**changes)) == 401, changes
    for proof in ("", "x", "a.b.c", "e30.e30."):
        assert await status(rest, copied | {"Fedafd-Proof": proof}) == 401, proof


async def test_a_proof_is_good_once(rest: Rest, authority: Authority) -> None:
    site = await enrolled(rest, authority)
    headers = site.headers(f"GET /v1{MODELS}")
    assert await status(rest, headers, MODELS) == 200
    again = await rest.http.get(MODELS, headers=headers)
    assert "used before" in problem(again, 401, "proof-stale")


async def test_the_command_prints_the_headers_of_one_request(rest: Rest, authority: Authority, tmp_path: Path) -> None:
    site = await enrolled(rest, authority)
    credential = Credential(
        federation_id="trial",
        client_id=site.client_id,
        client_name="north",
        kind=ParticipantKind.TEXT,
        secret=site.secret,
        key=pem_of_key(site.key).decode(),
        certificate=base64.b64encode(site.certificate).decode(),
    )
    folder = tmp_path / "state"
    command = ["agent", "headers", "get", f"https://fedafd.example.org/v1{MODELS}?limit=3", "--state-dir", str(folder)]
    early = CliRunner().invoke(app, command)
    assert early.exit_code != 0
    assert not folder.exists()
    StateDirectory(folder).save_credential(credential)
    assert json.loads((folder / "credential.json").read_text())["secret"] == asdict(credential)["secret"]
    printed = CliRunner().invoke(app, command)
    assert printed.exit_code == 0, printed.output
    headers = dict(line.split(": ", 1) for line in printed.stdout.splitlines())
    assert set(headers) == {"Authorization", "Fedafd-Proof"}
    assert await status(rest, headers, f"{MODELS}?limit=3") == 200
