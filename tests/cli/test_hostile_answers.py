"""What others wrote - names, reasons, numbers that are none - is printed as text, and ends no command."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tests.servers import ROOT

from fedafd.cli.main import main

HOSTILE = "up\x1b[2J\x1b]0;owned\x07load\r\nround 1: completed \u202eevil\x9b31m \\[/]"
MOMENT = "2026-11-01T12:00:00Z"
PART = {
    "client": f"north{HOSTILE}",
    "kind": "image",
    "state": "dropped",
    "progress": None,
    "activity": None,
    "reason": HOSTILE,
    "reason_code": None,
    "metrics": None,
    "bytes_up": 0,
    "bytes_down": 0,
    "num_clients": None,
    "settled_at": MOMENT,
    "contributions": {HOSTILE: {"weight": 0.5, "similarity": None, "agreement": None, "left_out": False}},
}
STAGE = {"kind": "fold", "modality": "image", "state": "failed", "progress": None, "worker": HOSTILE, "reason": HOSTILE}
ROUND = {
    "number": 1,
    "state": "failed",
    "reason": HOSTILE,
    "metrics": {"rsum": None, "i2t_r1": 1.0},
    "started_at": MOMENT,
    "finished_at": MOMENT,
    "num_online": 2,
    "collecting_since": MOMENT,
    "participations": [PART],
    "stages": [STAGE | {"activity": None, "failures": 3, "announced_at": MOMENT, "finished_at": MOMENT}],
}
EVENT = {"id": 1, "at": MOMENT, "kind": HOSTILE, "federation": HOSTILE, "actor": HOSTILE, "data": {HOSTILE: [HOSTILE]}}
ANSWERS: dict[str, Any] = {
    "/rounds/1": ROUND,
    "/rounds": {"items": [ROUND], "next_cursor": None},
    "/events": {"items": [EVENT], "next_cursor": None, "end_cursor": None},
}


class _Hostile(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        found = next((answer for end, answer in ANSWERS.items() if path.endswith(end)), None)
        content = json.dumps(found or {"detail": HOSTILE}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hostile) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("command", ["round show 1", "round list", "events", "round watch 1", "client show nobody"])
def test_nothing_that_a_terminal_obeys_is_printed(
    url: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDAFD_URL", url)
    monkeypatch.setenv("FEDAFD_API_KEY", "any")
    monkeypatch.setenv("FEDAFD_FEDERATION", "trial")
    monkeypatch.setattr(sys, "argv", ["fedafd", *command.split()])
    if command == "round watch 1":
        monkeypatch.setattr("fedafd.client.control_plane.PATIENCE_SECONDS", 0.0)
    with pytest.raises(SystemExit) as ended:
        main()
    printed = "".join(capsys.readouterr())
    assert printed.strip()
    assert "Traceback" not in printed
    assert not any(mark in printed for mark in "\x1b\x07\r\x9b\u202e"), repr(printed)
    assert (ended.value.code or 0) == (0 if command in ("round show 1", "round list", "events") else ended.value.code)


COMMANDS = (
    "status",
    "events",
    "round list",
    "round show 1",
    "round watch 1",
    "round start",
    "round cancel 1",
    "client list",
    "client show north",
    "client invite north --kind image",
    "model list",
    "model show 1",
    "federation list",
    "federation show",
    "public-set show",
    "key list",
)


class _OfAnotherProgram(BaseHTTPRequestHandler):
    answer = b""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "answer",
    [
        "{}",
        "[]",
        '{"items": 5, "next_cursor": null}',
        '{"items": ["x"], "next_cursor": null}',
        '{"kind": "PodList", "items": [{}], "next_cursor": null}',
        "[" * 100_000,
    ],
    ids=lambda answer: answer[:40],
)
def test_json_of_another_program_is_told_from_a_control_planes(
    answer: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Server(_OfAnotherProgram):
        pass

    Server.answer = answer.encode()
    monkeypatch.setattr("fedafd.client.control_plane.PATIENCE_SECONDS", 0.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, value in (("URL", f"http://127.0.0.1:{server.server_port}"), ("API_KEY", "any"), ("FEDERATION", "f")):
            monkeypatch.setenv(f"FEDAFD_{name}", value)
        monkeypatch.setattr(sys, "argv", ["fedafd", *command.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        server.shutdown()
    told = capsys.readouterr()
    assert ended.value.code in (1, 3), told
    assert "is this a control plane of FedAFD" in told.err or "cannot be reached" in told.err, told


def test_no_remote_command_prints_without_the_one_function_that_takes_them_out() -> None:
    """Any answer may hold anything: also those of commands that are not called above."""
    folder = ROOT / "services" / "fedafd" / "cli" / "remote"
    found = {
        f"{path.name}: {line.strip()}"
        for path in folder.glob("*.py")
        if path.name != "output.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if "typer.echo(" in line and "plain_text(" not in line
    }
    assert found == {
        "federations.py: " + 'typer.echo("Its name, to go on: ", err=True, nl=False)'
        "  # typer's own prompt writes to standard output, too",
        "options.py: typer.echo(",
    }
