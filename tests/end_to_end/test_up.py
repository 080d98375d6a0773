"""`fedafd up`: the page's commands make a round; whatever is killed comes back; the same command goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.documents import blocks
from tests.end_to_end.test_documents import shell
from tests.servers import free_port, wait_until

from fedafd.cli.up import _queries_store
from fedafd.cli.up_file import is_set, process_settings, read_up_file
from fedafd.domain.errors import ConfigurationError

pytestmark = pytest.mark.timeout(600)

TINY = """
image_encoder: {image_size: 16, options: {embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1], layer_type: basic}}
text_encoder: {options: {embedding_size: 16, hidden_size: 16}}
server: {passes: 1}
client: {local_epochs: 1}
"""


@contextmanager
def up(folder: Path, ports: tuple[int, int], *, umask: int = 0o022) -> Iterator[subprocess.Popen[str]]:
    """`fedafd up` in `folder`, ready; its output goes to up.txt there."""
    command = [sys.executable, "-m", "fedafd.cli.main", "up", "--port", str(ports[0]), "--agents-port", str(ports[1])]
    with (folder / "up.txt").open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            umask=umask,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        wait_until(
            lambda: "Ctrl-C stops everything" in said(folder) or process.poll() is not None, "fedafd up", seconds=180
        )
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def open_to_others(folder: Path) -> list[str]:
    """What other accounts may do anything with, of the folder and all below."""
    return [str(path) for path in (folder, *folder.rglob("*")) if path.lstat().st_mode & 0o077]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another account, which root may alone")
@pytest.mark.parametrize("whose", ["", "secrets"])
def test_a_folder_of_another_account_is_refused_before_anything_is_read_of_it(tmp_path: Path, whose: str) -> None:
    """Who owns the folder could put an admin's key there that they know."""
    (tmp_path / "fedafd-data" / "secrets").mkdir(parents=True)
    (tmp_path / "fedafd-data" / "secrets" / "admin-key").write_text("fedafd-key.that-another-account-knows")
    os.chown(tmp_path / "fedafd-data" / whose, 65534, 65534)
    with up(tmp_path, (free_port(), free_port())) as process:
        assert process.wait(60) != 0
    assert "belongs to another account" in said(tmp_path)
    assert not (tmp_path / "fedafd-data" / "fedafd.db").exists()


def said(folder: Path) -> str:
    return (folder / "up.txt").read_text()


def child_of(process: subprocess.Popen[str], module: str) -> psutil.Process:
    (found,) = (child for child in psutil.Process(process.pid).children() if module in child.cmdline())
    return found


def test_the_pages_commands_make_a_round_and_the_same_command_goes_on(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    (install, start), (bootstrap,), (run,) = (block.splitlines() for block in blocks("docs/up.md", "sh"))
    assert (install, start) == ("pip install 'fedafd[demo]'", "fedafd up"), "four commands, with the two below"
    (tmp_path / "federation.yaml").write_text("name: lungs\npreset: small\n" + TINY)
    assert "--name lungs" in bootstrap
    # The page's, but smaller: with tiny encoders, and a public set of 80.
    options = """'{"num_train": 40, "num_val": 20, "num_test": 20}'"""
    bootstrap = bootstrap.replace("--name lungs", f"-f federation.yaml --options {options}")
    with up(tmp_path, ports) as process:
        key = re.search(r"fedafd-key\.[\w-]+", said(tmp_path))
        assert key is not None, said(tmp_path)
        assert (tmp_path / "fedafd-data" / "secrets" / "admin-key").read_text().strip() == key[0]
        assert (tmp_path / "fedafd-data" / "secrets" / "admin-key").stat().st_mode & 0o077 == 0
        child_of(process, "fedafd.distiller.worker").kill()
        both = [
            f"{bootstrap} 2>&1 & first=$!",
            "until [ -e north/token ]; do kill -0 $first; sleep 0.2; done",
            f"{run} >&2 & second=$!",
            "code=0; wait $first || code=$?",
            "kill $second; wait $second || true; exit $code",
        ]
        answer = shell(tmp_path, "\n".join(both))
        assert f"Next, each in a terminal of its own:\n  {run}\n" in answer
        assert "delivered: north" in answer
        assert "distiller was ended by signal 9; starts again in 1 s" in said(tmp_path)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        wait_until(
            lambda: not any(child.is_running() and child.status() != "zombie" for child in children),
            "their end",
            seconds=60,
        )
    with up(tmp_path, ports) as process:
        assert "API key" not in said(tmp_path)
        headers = {"Authorization": f"Bearer {key[0]}"}
        url = f"http://127.0.0.1:{ports[0]}/v1/federations/lungs/rounds/1"
        assert httpx.get(url, headers=headers, trust_env=False).json()["state"] == "completed"
        search = f"http://127.0.0.1:{ports[0]}/v1/federations/lungs/models/current/search"
        asked: dict[str, Any] = {
            "json": {"caption": "a red circle"},
            "headers": headers,
            "trust_env": False,
            "timeout": 60,
        }
        # 409 until the query worker has started, 202 until it has embedded the public set.
        wait_until(lambda: httpx.post(search, **asked).status_code == 200, "the query worker", seconds=90)
        assert (tmp_path / "fedafd-data" / "secrets" / "settings.json").stat().st_mode & 0o077 == 0
        looked = shell(tmp_path, f"{sys.executable} -m fedafd.cli.main doctor --folder fedafd-data\n")
        assert "the control-plane answers there" in looked
        assert "BAD" not in looked
        second = subprocess.run(process.args, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert second.returncode != 0
        assert "another `fedafd up` runs here" in second.stderr
        process.terminate()
        assert process.wait(120) == 0
    assert "Traceback" not in said(tmp_path)


def test_the_query_worker_reads_the_distillers_store_unless_it_has_its_own() -> None:
    given = {"FEDAFD_DISTILLER_STORE__URL": "s3://b", "FEDAFD_DISTILLER_DEVICE": "cuda"}
    assert _queries_store(given) == {"FEDAFD_QUERIES_STORE__URL": "s3://b"}
    assert _queries_store(given | {"FEDAFD_QUERIES_STORE__URL": "s3://c"}) == {}


def test_of_an_operators_own_key_no_other_file_is_made_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDAFD_CONTROL_PLANE_ADMIN_KEY", "an operator's own key")
    # As systemd and administrators make a service's folder.
    (tmp_path / "fedafd-data").mkdir()
    (tmp_path / "fedafd-data").chmod(0o755)
    (tmp_path / "fedafd-data" / "redis").mkdir()
    (tmp_path / "fedafd-data" / "redis").chmod(0o777)
    with up(tmp_path, (free_port(), free_port()), umask=0):
        assert (tmp_path / "fedafd-data" / "fedafd.db").stat().st_size
        assert open_to_others(tmp_path / "fedafd-data") == []
        assert "FEDAFD_API_KEY_FILE" not in said(tmp_path)
        assert "export FEDAFD_URL=http://127.0.0.1:" in said(tmp_path)
        assert not (tmp_path / "fedafd-data" / "secrets" / "admin-key").exists()


def test_a_file_gives_settings_and_the_environment_wins(tmp_path: Path) -> None:
    path = tmp_path / "up.yaml"
    path.write_text(
        "control_plane: {port: 8443}\n"
        "aggregator: {tracking: {mlflow: {}}, store: {url: 's3://a'}}\n"
        "distiller: {device: cpu}\n"
    )
    given = {"FEDAFD_DISTILLER_DEVICE": "cuda", "FEDAFD_AGGREGATOR_STORE__URL": "s3://b", "HOME": "/"}
    assert process_settings(read_up_file(path), given) == {
        "FEDAFD_CONTROL_PLANE_PORT": "8443",
        "FEDAFD_AGGREGATOR_TRACKING": '{"mlflow": {}}',
        "FEDAFD_AGGREGATOR_STORE__URL": "s3://b",
        "FEDAFD_DISTILLER_DEVICE": "cuda",
    }
    assert is_set(given, "STORE")
    assert not is_set(given, "REDIS_URL")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("agregator: {}", "agregator: unknown key; the blocks are control_plane, aggregator, distiller, queries"),
        ("distiller: {devise: cpu}", "distiller.devise: unknown key"),
        ("distiller: cpu", "distiller: expected settings"),
        ("- a", "expected the blocks"),
        ("a: [", "not valid YAML"),
    ],
)
def test_mistakes_in_the_file_are_named(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "up.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as error:
        read_up_file(path)
    assert told in str(error.value)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_up_file(tmp_path / "absent.yaml")
