"""`fedafd demo` as a user runs it: what it leaves behind, what it says when something is in its way, how it ends."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
import yaml
from tests.datasets import makers
from tests.documents import blocks
from tests.servers import wait_until

from fedafd.rpc.authority import AGGREGATOR_NAME
from fedafd.rpc.channel import open_sync_channel
from fedafd.rpc.tls import Trust

pytestmark = pytest.mark.timeout(900)

BEHIND_A_PROXY = dict.fromkeys(("http_proxy", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
"""Nobody listens there: a demo talks to itself alone, and needs none of it."""
FEDAFD = [sys.executable, "-m", "fedafd.cli.main"]
CLIENT_KEYS = {"name", "kind", "metric", "alone", "federated", "standard_error", "bytes_up", "bytes_down", "details"}
RECALLS = {"i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "rsum"}


@contextmanager
def demo(folder: Path, *arguments: str, limit_bytes: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """A demo in `folder`, whose account closes nothing to others by itself; its output goes to demo.txt there."""

    def prepare() -> None:
        # Tests that a script runs in the background ignore Ctrl-C, and their children would too.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    with (folder / "demo.txt").open("w") as output:
        command = [*FEDAFD, "demo", "--rounds", "1", "--no-alone", *arguments]
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | BEHIND_A_PROXY,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            umask=0,
            preexec_fn=prepare,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some samples of each of the three sets: a demo of them is started and trained sooner than of generated ones."""
    folder = tmp_path_factory.mktemp("data")
    makers.karpathy(folder / "flickr8k", counts=(40, 8, 8))
    makers.cifar_npz(folder / "cifar100")
    makers.ag_news(folder / "ag_news_csv")
    return folder


def said(folder: Path) -> str:
    return " ".join((folder / "demo.txt").read_text().split())


def open_to_others(folder: Path) -> list[str]:
    """What other accounts may do anything with, of the folder and all below; links have no rights of their own."""
    return [
        str(path) for path in (folder, *folder.rglob("*")) if not path.is_symlink() and path.lstat().st_mode & 0o077
    ]


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=15)
    assert [each.cmdline() for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []


def test_a_busy_port_is_told_before_anything_is_started(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with demo(tmp_path, "--port", str(port)) as process:
            assert process.wait(300) == 1
    assert f"port {port} of 127.0.0.1 is in use; choose another with --port" in said(tmp_path)
    assert "Traceback" not in said(tmp_path)
    assert not list(tmp_path.glob("demo-output/work/logs/*"))


def test_a_folder_that_holds_other_files_is_told_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine").chmod(0o755)
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with demo(tmp_path, "--output", "mine") as process:
        assert process.wait(300) == 1
    assert "holds files of others (thesis.tex); choose another folder" in said(tmp_path)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another account, which root may alone")
def test_a_folder_of_another_account_is_told_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 65534, 65534)
    with demo(tmp_path, "--output", "theirs") as process:
        assert process.wait(300) == 1
    assert "belongs to another account" in said(tmp_path)
    assert list((tmp_path / "theirs").iterdir()) == []


def test_missing_real_data_is_told_before_anything_is_started(tmp_path: Path) -> None:
    data = tmp_path / "data"
    makers.karpathy(data / "flickr8k")
    makers.cifar_npz(data / "cifar100")
    with demo(tmp_path, "--data", str(data)) as process:
        assert process.wait(300) == 1
    assert f"{data}/ag_news_csv: no such folder" in said(tmp_path)
    assert not (tmp_path / "demo-output" / "work" / "logs" / "redis.log").exists()
    makers.ag_news(data / "ag_news_csv")
    (data / "flickr8k" / "images.tar").unlink()
    with demo(tmp_path, "--data", str(data), "--force") as process:
        assert process.wait(300) == 1
    assert "neither a folder images/ nor a .tar of images" in said(tmp_path)
    assert "Traceback" not in said(tmp_path)


def test_encoders_from_scratch_are_prepared_without_their_libraries(tmp_path: Path, data: Path) -> None:
    """torch and transformers take longer to load than the data to prepare, of which a user waits for the end."""
    choices = json.dumps({"work": str(tmp_path), "seed": 0, "data": str(data)})
    code = "import sys; from fedafd.cli.demo_data import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, choices], capture_output=True, text=True)
    assert done.stdout.split() == ["0", "False"], done.stderr
    assert (tmp_path / "plan.json").is_file()


def test_a_disk_that_fills_up_is_told_and_nothing_keeps_running(tmp_path: Path) -> None:
    """A limit on the size of files is a full disk to every process of the demo."""
    with demo(tmp_path, limit_bytes=300_000) as process:
        assert process.wait(300) == 1
    assert re.search(r"demo-output/work: cannot be written: .*File too large; is the disk full\?", said(tmp_path))
    assert "Traceback" not in said(tmp_path)


def log_exists(name: str) -> Callable[[Path], bool]:
    return lambda folder: (folder / "demo-output" / "work" / "logs" / f"{name}.log").exists()


PHASES: dict[str, Callable[[Path], bool]] = {
    "data": log_exists("data"),
    "services": log_exists("control-plane"),
    "round": lambda folder: "round 1 of 1: preparing" in said(folder),
}


@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c_stops_everything_at_every_phase(tmp_path: Path, data: Path, phase: str) -> None:
    (tmp_path / "demo-output").mkdir()
    (tmp_path / "demo-output").chmod(0o777)
    with demo(tmp_path, "--data", str(data)) as process:
        wait_until(lambda: PHASES[phase](tmp_path) and bool(children(process)), phase, seconds=300)
        running = children(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert_gone(running)
    assert "Interrupted; everything is stopped." in said(tmp_path)
    assert "Traceback" not in said(tmp_path)
    assert open_to_others(tmp_path / "demo-output") == []
    with demo(tmp_path) as process:
        assert process.wait(300) == 1
    assert "an earlier demo was interrupted here" in said(tmp_path)
    assert "--force removes what it left" in said(tmp_path)


def test_a_demo_leaves_what_it_promises_and_keeps_running_when_asked(tmp_path: Path, data: Path) -> None:
    with demo(tmp_path, "--data", str(data), "--keep", "--seed", "3") as process:
        wait_until(
            lambda: "stop it with Ctrl-C" in said(tmp_path) or process.poll() is not None, "the demo", seconds=600
        )
        assert process.poll() is None, said(tmp_path)
        check_results(tmp_path / "demo-output")
        readme_python_runs(tmp_path)
        nothing_travels_in_plain_text(tmp_path / "demo-output" / "work")
        assert re.search(r"http://127.0.0.1:\d+/ with the API key fedafd-key\.\S+; REST", said(tmp_path))
        running = children(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert_gone(running)
    assert open_to_others(tmp_path / "demo-output") == []
    again = json.loads((tmp_path / "demo-output" / ".demo.json").read_text())
    assert again["state"] == "finished"


def check_results(output: Path) -> None:
    results = json.loads((output / "results.json").read_text())
    assert (results["seed"], len(results["rounds"])) == (3, 1)
    assert results["seconds"] > 0
    for item in results["rounds"]:
        assert set(item) >= {"number", "server", "bytes_up", "bytes_down", "seconds"}
        assert set(item["server"]) == RECALLS
        assert item["server"]["rsum"] == pytest.approx(
            sum(v for k, v in item["server"].items() if k != "rsum"), abs=0.01
        )
    assert {client["kind"]: client["name"] for client in results["clients"]} == {
        "image": "images",
        "text": "texts",
        "pair": "pairs",
    }
    for client in results["clients"]:
        assert set(client) == CLIENT_KEYS
        assert client["bytes_up"] > 0
        assert client["bytes_down"] > 0
        assert client["alone"] is None, "--no-alone"
        assert (output / "models" / "clients" / client["name"] / "config.json").is_file()
    assert (output / "models" / "global" / "config.json").is_file()
    assert sum(client["bytes_up"] for client in results["clients"]) == results["rounds"][0]["bytes_up"]


def nothing_travels_in_plain_text(work: Path) -> None:
    """The aggregator speaks TLS by the authority that each agent's invitation named."""
    for name in ("images", "texts", "pairs"):
        config = yaml.safe_load((work / f"{name}.yaml").read_text())
        trust = Trust((work / f"agent-{name}" / "authority.pem").read_bytes(), AGGREGATOR_NAME)
        trusting, plain = (open_sync_channel(config["aggregator"], tls) for tls in (trust, None))
        with trusting, plain:
            grpc.channel_ready_future(trusting).result(timeout=20)
            with pytest.raises(grpc.FutureTimeoutError):
                grpc.channel_ready_future(plain).result(timeout=2)


def readme_python_runs(folder: Path) -> None:
    """The README's Python, word for word, where the demo lies."""
    code = "\n".join(blocks("README.md", "python"))
    assert "GlobalModel" in code
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nassert captions.shape[0] == 2"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
