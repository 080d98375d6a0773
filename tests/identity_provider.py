"""A small identity provider: real HTTP, real keys, the code flow with PKCE. It does what tests tell it to do wrong."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

__all__ = ["AUDIENCE", "CLIENT", "SECRET", "IdentityProvider", "identity_provider"]

CLIENT, SECRET, AUDIENCE = "fedafd-dashboard", "a client's secret: with / and +", "fedafd-rest"
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def new_key(algorithm: str) -> Key:
    if algorithm.startswith("ES"):
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, 2048)


@dataclass
class IdentityProvider:
    """What it holds, and what it was asked for."""

    issuer: str
    keys: dict[str, tuple[str, Key]] = field(default_factory=dict)
    """Those that it shows: by their id, with their algorithm."""
    person: dict[str, Any] = field(default_factory=dict)
    """Claims of whoever logs in."""
    wrong: dict[str, Any] = field(default_factory=dict)
    """Claims that its identity tokens have instead."""
    document: dict[str, Any] = field(default_factory=dict)
    """What its discovery document has instead."""
    public: bool = False
    """Its client has no secret."""
    asked: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    failing: bool = False
    hung: threading.Event | None = None
    """While it is there and not set, no GET is answered."""

    def rotate(self, kid: str, algorithm: str = "RS256") -> None:
        """Another key in place of all before."""
        self.keys = {kid: (algorithm, new_key(algorithm))}

    def token(self, kid: str = "", **claims: Any) -> str:
        """A bearer token of the person."""
        now = int(time.time())
        usual = {"iss": self.issuer, "aud": AUDIENCE, "sub": "0815", "iat": now, "exp": now + 300}
        return self.sign(usual | self.person | claims, kid)

    def sign(self, claims: dict[str, Any], kid: str = "") -> str:
        kid = kid or next(iter(self.keys))
        algorithm, key = self.keys[kid]
        left = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(left, key, algorithm, headers={"kid": kid})

    def public_pem(self, kid: str) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self.keys[kid][1].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """To a GET."""
        if path == "/.well-known/openid-configuration":
            told = {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
            }
            return 200, {}, json.dumps(told | self.document).encode()
        if path == "/keys":
            return 200, {}, json.dumps({"keys": [_jwk(kid, *key) for kid, key in self.keys.items()]}).encode()
        if path == "/authorize":
            page = '<!doctype html><title>Provider</title><link rel="icon" href="data:,"><h1>Who are you?</h1>'
            page += f'<a href="/allow?{urlencode(query)}">I am ann</a>'
            return 200, {"Content-Type": "text/html"}, page.encode()
        if path == "/allow":
            return 303, {"Location": self.allow(query)}, b""
        return 404, {}, b""

    def allow(self, query: dict[str, str]) -> str:
        """Where a browser goes once the person has said yes."""
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        assert "openid" in query["scope"].split()
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        return f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state'], 'iss': self.issuer})}"

    def exchange(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """A code for a token, once, for whom it was made alone."""
        client, secret = form.get("client_id", ""), form.get("client_secret", "")
        if authorization.startswith("Basic "):
            pair = base64.b64decode(authorization.removeprefix("Basic ")).decode()
            client, secret = (unquote(part) for part in pair.split(":", 1))
        if client != CLIENT or secret != ("" if self.public else SECRET):
            return 401, {"error": "invalid_client"}
        begun = self.codes.pop(form["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode()
        if begun is None or challenge.rstrip("=") != begun["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        if begun["redirect_uri"] != form["redirect_uri"] or form["grant_type"] != "authorization_code":
            return 400, {"error": "invalid_request"}
        claims = {"aud": CLIENT, "nonce": begun["nonce"]} | self.wrong
        return 200, {"token_type": "Bearer", "access_token": "opaque", "id_token": self.token(**claims)}


def _jwk(kid: str, algorithm: str, key: Key) -> dict[str, Any]:
    kind: Any = ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else RSAAlgorithm
    shown: dict[str, Any] = kind.to_jwk(key.public_key(), as_dict=True)
    return shown | {"kid": kid, "use": "sig", "alg": algorithm}


@contextmanager
def identity_provider(**values: Any) -> Iterator[IdentityProvider]:
    """One that listens on this machine, with a key for RS256 and one for ES256; ann is of the group `staff`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            provider.asked.append(parts.path)
            if provider.hung is not None:
                provider.hung.wait()
            query = {name: one for name, (one, *_) in parse_qs(parts.query).items()}
            self._send(*((503, {}, b"") if provider.failing else provider.answer(parts.path, query)))

        def do_POST(self) -> None:
            provider.asked.append(self.path)
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            one = {name: values[0] for name, values in form.items()}
            status, told = provider.exchange(one, self.headers.get("Authorization", ""))
            self._send(status, {}, json.dumps(told).encode())

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in ({"Content-Type": "application/json"} | headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    # Another host name than that of the dashboard in tests, so that it is another site for a browser.
    provider = IdentityProvider(f"http://localhost:{server.server_port}", **values)
    provider.keys = {"one": ("RS256", new_key("RS256")), "two": ("ES256", new_key("ES256"))}
    provider.person = {"preferred_username": "ann", "groups": ["staff", "canteen"]}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
