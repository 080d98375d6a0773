"""What OpenAPI says beyond what the signatures do: problems, the configuration's schema, headers of answers."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from fedafd.artifacts.manifest import Manifest
from fedafd.control_plane.problems import Problem
from fedafd.domain.config import FederationConfig

__all__ = ["describe", "operation_id"]

_DESCRIPTION = """Federations, their clients, rounds and models.

Send `Authorization: Bearer <API key>`. Errors are RFC 9457 problems of type `urn:fedafd:error:<code>`; docs/errors.md
lists the codes. Lists come in pages: pass `next_cursor` as `cursor` until it is null. A POST may carry an
`Idempotency-Key`, and may then be repeated without harm."""
_REF = "#/components/schemas/"


def operation_id(route: APIRoute) -> str:
    """Operations are named as their functions are."""
    return route.name


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of `app`, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
        schemas = document["components"]["schemas"]
        for name, model in (("Problem", Problem), ("FederationConfigInput", FederationConfig), ("Manifest", Manifest)):
            _add_schema(schemas, name, model.model_json_schema(ref_template=f"{_REF}{{model}}{_suffix(name)}"))
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                _complete(path, method, operation)
        app.openapi_schema = document
    return app.openapi_schema


def _suffix(name: str) -> str:
    return "Input" if name == "FederationConfigInput" else ""


def _add_schema(schemas: dict[str, Any], name: str, schema: dict[str, Any]) -> None:
    for inner, definition in schema.pop("$defs", {}).items():
        schemas[f"{inner}{_suffix(name)}"] = definition
    schemas[name] = schema


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    bodies = {"/v1/federations": "post", "/v1/federations/{federation}": "put"}
    if bodies.get(path) == method:
        operation["requestBody"]["content"]["application/json"]["schema"] = {"$ref": f"{_REF}FederationConfigInput"}
    if path.endswith("/public-set") and method == "put":
        operation["requestBody"]["content"]["application/json"]["schema"] = {"$ref": f"{_REF}Manifest"}
    if path.endswith("/shards/{sha256}"):
        binary = {"type": "string", "format": "binary"}
        operation["requestBody"]["content"]["application/octet-stream"]["schema"] = binary
    if method == "post":
        replayed = {"description": "`true` on a remembered answer.", "schema": {"type": "string", "enum": ["true"]}}
        for status, response in operation["responses"].items():
            if status.startswith("2"):
                response["headers"] = {"Idempotency-Replayed": replayed}
