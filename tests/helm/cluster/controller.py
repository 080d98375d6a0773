"""Traefik in the cluster, as the controller behind the charts' Ingresses and routes; removed after the test."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from string import Template
from typing import Any

from tests.certificates import Authority
from tests.helm.cluster.kubernetes import Namespace, load_images, run, wait_until
from tests.servers import ROOT, require_or_skip

__all__ = ["REST_HOST", "Controller", "require_traefik"]

IMAGE = os.environ.get("FEDAFD_TRAEFIK_IMAGE", "traefik:v3.6.12")
GATEWAY_API = ROOT / ".tools" / "share" / "gateway-api"
REST_HOST = "localhost"
"""What the operator dials: a port-forward, whose end is on this machine."""
_PROGRAM = ROOT / ".tools" / "bin" / "traefik"
_FOLDER = Path(__file__).parent
_DOCKERFILE = 'FROM scratch\nCOPY traefik /traefik\nENTRYPOINT ["/traefik"]\n'
_CLUSTER_WIDE = "clusterrolebinding,clusterrole,ingressclass,gatewayclass"


class Controller:
    """One Traefik with a namespace of its own, for the releases of one other namespace."""

    def __init__(self, releases: Namespace) -> None:
        self.namespace = Namespace(f"{releases}-front")
        self.grpc_host = f"grpc.{self.namespace}.svc"
        self._releases = releases
        self._has_kinds = False
        self._crds: list[str] = []

    @property
    def class_name(self) -> str:
        """Of IngressClass and GatewayClass."""
        return self.namespace.name

    @property
    def peers(self) -> list[dict[str, Any]]:
        """Its pods, as a NetworkPolicy names them."""
        labels = {"kubernetes.io/metadata.name": self.namespace.name}
        return [{"namespaceSelector": {"matchLabels": labels}}]

    def start(self) -> None:
        """Bring the image into the cluster, the Gateway API's kinds where they lack, and Traefik."""
        _load_image()
        self.namespace.create()
        before = set(self.namespace.kubectl("get", "crds", "--output=name").split())
        self.namespace.kubectl("apply", "--server-side", "--filename", str(GATEWAY_API))
        self._has_kinds = True
        self._crds = sorted(set(self.namespace.kubectl("get", "crds", "--output=name").split()) - before)
        self.configure(read_timeout="60s")

    def configure(self, *, read_timeout: str) -> None:
        """Run Traefik with this limit on a whole request (60s is its default, 0s is none)."""
        self._apply("traefik.yaml", image=IMAGE, read_timeout=read_timeout, release_namespace=str(self._releases))
        self.namespace.kubectl("rollout", "status", "deployment/traefik", "--timeout=120s")
        wait_until(lambda: len(self.namespace.get("pods")) == 1, "the end of the pods before")

    def certify(self, authority: Authority) -> None:
        """Make certificates for both names, here (for the Gateway) and beside the releases (for the Ingresses)."""
        for name, host in (("rest-tls", REST_HOST), ("grpc-tls", self.grpc_host)):
            certificate, key = authority.issue(name, host=host)
            for namespace in (self.namespace, self._releases):
                namespace.kubectl("create", "secret", "tls", name, f"--cert={certificate}", f"--key={key}")
        self._releases.kubectl("create", "secret", "generic", "authority", f"--from-file=ca.crt={authority.file}")

    def open_gateway(self) -> list[dict[str, str]]:
        """Make the Gateway; the parents that a route names to be reached over TLS."""
        self._apply("gateway.yaml", grpc_host=self.grpc_host)
        self.namespace.kubectl("wait", "gateway/public", "--for=condition=Programmed", "--timeout=60s")
        return [{"name": "public", "namespace": str(self.namespace), "sectionName": each} for each in ("rest", "grpc")]

    def requests(self) -> list[dict[str, Any]]:
        """The access log of the pod that runs: one line for every request that is over."""
        lines = self.namespace.kubectl("logs", "deployment/traefik").splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [each for each in found if "RequestPath" in each]

    def remove(self) -> None:
        """Take everything away, but no kind that the cluster had before."""
        self.namespace.remove()
        if self._has_kinds:
            self.namespace.kubectl("delete", _CLUSTER_WIDE, self.class_name, "--ignore-not-found")
        if self._crds:
            self.namespace.kubectl("delete", *self._crds)

    def _apply(self, file: str, **words: str) -> None:
        text = Template((_FOLDER / file).read_text(encoding="utf-8"))
        self.namespace.kubectl(
            "apply", "--filename", "-", stdin=text.substitute(namespace=str(self.namespace), **words)
        )


def require_traefik() -> None:
    """Skip the test where Traefik was not built, or fail it where everything must be there."""
    brought = bool(os.environ.get("FEDAFD_LOAD_IMAGES"))
    if not GATEWAY_API.is_dir() or (brought and not _PROGRAM.exists()):
        require_or_skip("Traefik", "build it and the Gateway API's kinds with `make tools TOOLS=traefik`")
    if brought and shutil.which("docker") is None:
        require_or_skip("docker", "it puts Traefik into an image")


def _load_image() -> None:
    """Build the image around the program and bring it in, where images are brought in; elsewhere it is pulled."""
    if not os.environ.get("FEDAFD_LOAD_IMAGES"):
        return
    run("docker", "build", "--quiet", "--tag", IMAGE, "--file", "-", str(_PROGRAM.parent), stdin=_DOCKERFILE)
    load_images([IMAGE])
