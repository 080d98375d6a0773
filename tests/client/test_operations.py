"""Each operation is one of the control plane's, and answers what the OpenAPI document says."""

from __future__ import annotations

import json
import pickle
from copy import deepcopy
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import NoneType
from typing import Any

import pytest
from tests.servers import ROOT

from fedafd.client import operations
from fedafd.client.answered import read_answer
from fedafd.client.control_plane import ControlPlaneClient
from fedafd.client.operations import Listing, Operation
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.process_errors import ControlPlaneError

EACH = {name: getattr(operations, name) for name in operations.__all__ if name.isupper()}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    return found


def answered(document: dict[str, Any], method: str, path: str) -> set[str]:
    """Names of the schemas of an operation's good answers, or of their forms where they are no JSON."""
    found = set()
    for status, response in document["paths"][f"/v1{path}"][method.lower()]["responses"].items():
        if status.startswith("2"):
            for form, content in response.get("content", {"": {}}).items():
                found.add(content.get("schema", {}).get("$ref", form).removeprefix("#/components/schemas/"))
    return found


@pytest.mark.parametrize("name", EACH)
def test_an_operation_answers_what_is_documented(name: str, document: dict[str, Any]) -> None:
    operation: Operation[Any] | Listing[Any] = EACH[name]
    if isinstance(operation, Listing):
        assert answered(document, "GET", operation.path) == {f"Page_{operation.item.__name__}_"}
    elif operation.answer is NoneType:
        assert answered(document, operation.method, operation.path) == {""}
    elif operation.answer is bytes:
        assert answered(document, operation.method, operation.path) >= {"application/x-tar"}
    else:
        assert operation.answer.__name__ in answered(document, operation.method, operation.path)


@pytest.mark.parametrize("part", ["", ".", ".."])
def test_a_part_that_leads_to_another_path_is_refused(part: str) -> None:
    server = ControlPlaneClient("http://127.0.0.1:9", "key")
    with pytest.raises(ConfigurationError, match=rf"^client '{part}': is no name; give its name$"):
        server.ask(operations.REVOKE_CLIENT, "trial", part)
    server.close()


def test_what_would_end_a_part_is_quoted() -> None:
    assert operations.SHOW_CLIENT.filled("trial", "a/b?c#d") == "/federations/trial/clients/a%2Fb%3Fc%23d"


def test_another_server_is_told_from_a_control_plane() -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>It works!</html>")

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as web:
        Thread(target=web.serve_forever, daemon=True).start()
        server = ControlPlaneClient(f"http://127.0.0.1:{web.server_port}", "key")
        with pytest.raises(ControlPlaneError, match="answers something else than JSON; is this a control plane"):
            server.ask(operations.STATUS)
        with pytest.raises(ControlPlaneError, match="answers something else than JSON; is this a control plane"):
            server.items(operations.LIST_FEDERATIONS)
        server.close()
        web.shutdown()


def test_an_answer_of_another_version_is_taken_and_a_field_that_it_lacks_is_named() -> None:
    answer = read_answer(
        "http://there", b'{"name": "north", "state": "online", "new": {}}', frozenset(("name", "state", "kind"))
    )
    assert (answer["name"], answer.get("kind"), "kind" in answer) == ("north", None, False)
    for lacking, name in ((answer, "kind"), (answer["new"], "at")):
        with pytest.raises(ControlPlaneError, match=rf"^http://there: its answer has no '{name}'; is this a control"):
            lacking[name]


def test_an_answer_is_copied_and_becomes_data_as_a_dict_does() -> None:
    @dataclass
    class Report:
        rounds: list[Any]

    answer = read_answer("http://there", b'{"items": [{"number": 1, "metrics": {"rsum": 2.0}}]}')
    plain = {"items": [{"number": 1, "metrics": {"rsum": 2.0}}]}
    assert asdict(Report([answer])) == {"rounds": [plain]}
    for copied in (deepcopy(answer), pickle.loads(pickle.dumps(answer)), answer | {}, json.loads(json.dumps(answer))):
        assert copied == plain


def test_missing_and_left_over_parts_are_a_mistake_in_the_program() -> None:
    with pytest.raises(TypeError, match="takes 2 parts, got 1"):
        operations.SHOW_CLIENT.filled("trial")
