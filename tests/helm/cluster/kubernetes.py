"""A namespace of a real cluster, with what the test needs to act in it: kubectl, helm, port-forward, waiting."""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helm.charts import CHARTS, Values, program
from tests.servers import free_port

Pod = dict[str, Any]
COMPLETED = ("Succeeded", "Failed")


class CommandFailedError(AssertionError):
    """A program ended with an error; the message is what it printed."""


def run(
    *command: str, stdin: str | None = None, seconds: float = 900, environment: Mapping[str, str] | None = None
) -> str:
    """Run a program, with `environment` on top of ours; what it printed. Raises CommandFailedError."""
    own = None if environment is None else os.environ | dict(environment)
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=seconds, env=own)
    if done.returncode:
        raise CommandFailedError(f"{shlex.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def load_images(images: list[str]) -> None:
    """Bring images into the cluster by the command in FEDAFD_LOAD_IMAGES; without it they must be pullable."""
    command = os.environ.get("FEDAFD_LOAD_IMAGES")
    if command:
        run(*shlex.split(command), *images, seconds=1800)


@dataclass
class Transcript:
    """What was done and how long it took."""

    lines: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def step(self, words: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.add(words, time.monotonic() - started)

    def add(self, words: str, seconds: float) -> None:
        self.lines.append((words, seconds))
        print(f"[{seconds:7.1f} s] {words}", flush=True)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([{"step": w, "seconds": round(s, 1)} for w, s in self.lines], indent=2) + "\n")


class Namespace:
    """One namespace under Pod Security `restricted`, made for the test and removed after it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._kubectl = shutil.which("kubectl") or "kubectl"

    def create(self) -> None:
        self.kubectl("create", "namespace", self.name)
        self.kubectl("label", "namespace", self.name, "pod-security.kubernetes.io/enforce=restricted")

    def remove(self) -> None:
        self.kubectl("delete", "namespace", self.name, "--wait=true", "--timeout=300s", "--ignore-not-found")

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return run(self._kubectl, "--namespace", self.name, *arguments, stdin=stdin)

    def helm(self, *arguments: str, values: Values | None = None) -> str:
        given = ["--values", "-"] if values is not None else []
        stdin = yaml.safe_dump(values) if values is not None else None
        return run(program("helm"), *arguments, "--namespace", self.name, *given, stdin=stdin)

    def install(self, release: str, chart: str, values: Values) -> None:
        self.helm("install", release, str(CHARTS / chart), "--wait", "--timeout", "10m", values=values)

    def upgrade(self, release: str, chart: str, values: Values) -> None:
        self.helm("upgrade", release, str(CHARTS / chart), "--wait", "--timeout", "10m", values=values)

    def get(self, kind: str, *more: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, *more, "--output", "json"))["items"]
        return items

    def admin_key(self, release: str) -> str:
        """The admin's key that a release generated."""
        return base64.b64decode(self.secret(f"{release}-fedafd-generated")["admin-key"]).decode()

    def secret(self, name: str) -> dict[str, str]:
        """The Secret's data, still in base64."""
        data: dict[str, str] = json.loads(self.kubectl("get", "secret", name, "--output", "json"))["data"]
        return data

    def pods(self) -> dict[str, Pod]:
        """Pods that are there to stay: neither of jobs nor on their way out."""
        return {
            pod["metadata"]["name"]: pod
            for pod in self.get("pods")
            if pod["status"]["phase"] not in COMPLETED
            and "deletionTimestamp" not in pod["metadata"]
            and pod["metadata"]["labels"]["app.kubernetes.io/component"] not in ("migration", "bucket-setup", "test")
        }

    def settled(self, expected: int) -> bool:
        """Whether just so many pods are there, each of them ready."""
        pods = self.pods().values()
        return len(pods) == expected and all(is_ready(pod) for pod in pods)

    def restarts(self) -> dict[str, int]:
        return {
            name: sum(status["restartCount"] for status in pod["status"].get("containerStatuses", []))
            for name, pod in self.pods().items()
        }

    def what_is_left(self) -> set[str]:
        """Kind and name of everything in the namespace that a namespace does not have by itself."""
        kinds = self.kubectl("api-resources", "--namespaced", "--verbs=list", "--output=name").split()
        stored = [kind for kind in kinds if not kind.startswith("events") and not kind.endswith("metrics.k8s.io")]
        names = self.kubectl("get", ",".join(stored), "--output=name", "--ignore-not-found").split()
        return set(names) - {"configmap/kube-root-ca.crt", "serviceaccount/default"}

    def connects(self, pod: str, address: str) -> bool:
        """Whether `pod` can open a TCP connection to host:port."""
        host, _, port = address.rpartition(":")
        code = f"import socket; socket.create_connection(({host!r}, {port}), timeout=3).close()"
        try:
            self.kubectl("exec", pod, "--", "python", "-c", code)
        except CommandFailedError:
            return False
        return True

    def remove_unless_kept(self) -> None:
        """Remove it, unless FEDAFD_KEEP_NAMESPACE asks to leave it for a look."""
        if not os.environ.get("FEDAFD_KEEP_NAMESPACE"):
            self.remove()

    def logs(self) -> str:
        """The last lines of every pod, for a failed test's report."""
        parts = []
        for pod in self.get("pods"):
            name = pod["metadata"]["name"]
            try:
                text = self.kubectl("logs", name, "--all-containers", "--tail=15", "--prefix")
            except CommandFailedError as error:
                text = str(error)
            parts.append(f"--- {name}: {pod['status']['phase']}, restarts {self.restarts().get(name)}\n{text}")
        return "\n".join(parts)

    def __str__(self) -> str:
        return self.name


@contextmanager
def told_if_failed(request: pytest.FixtureRequest, *namespaces: Namespace) -> Iterator[None]:
    """Print the pods' logs after a test that failed in the block."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        for namespace in namespaces:
            print(namespace.logs())


def is_ready(pod: Pod) -> bool:
    """Whether all of the pod's containers say that they are ready."""
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True"


def wait_until(ready: Callable[[], bool], what: str, seconds: float = 300) -> float:
    """Wait; returns the seconds it took. Raises TimeoutError naming what did not happen."""
    started = time.monotonic()
    while not ready():
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"{what} did not happen in {seconds:.0f} s")
        time.sleep(0.5)
    return time.monotonic() - started


class PortForward:
    """`kubectl port-forward` to a Service, started again when the pod behind it goes."""

    def __init__(self, namespace: Namespace, target: str, port: int) -> None:
        self._namespace, self._target, self._remote = namespace, target, port
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def ensure(self) -> None:
        """Make sure that something listens. Raises TimeoutError."""
        if self._process is not None and self._process.poll() is None and self._listens():
            return
        self.stop()
        ports = f"{self.port}:{self._remote}"
        command = ["kubectl", "--namespace", self._namespace.name, "port-forward", self._target, ports]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 15
        while not self._listens() and self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def _listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
