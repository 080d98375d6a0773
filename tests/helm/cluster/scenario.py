"""What the cluster test installs: a trial of the server side and three sites on generated data, all of them tiny."""

from __future__ import annotations

import os
from typing import Any

from tests.end_to_end.federation import FEDERATION as TINY_FEDERATION
from tests.end_to_end.federation import KINDS, TINY_IMAGE, TINY_TEXT
from tests.helm.charts import TRIAL, Values, chart_version, merged

from fedafd.datasets import load_public_data, write_public_set

__all__ = [
    "FEDERATION",
    "KINDS",
    "TRIAL",
    "address",
    "images",
    "load_public_data",
    "server_values",
    "site_values",
    "write_public_set",
]

# Long enough for something to be broken in the middle of the server's or a site's training.
FEDERATION = merged(TINY_FEDERATION, {"server": {"passes": 30}, "client": {"local_epochs": 20}})
REGISTRY = os.environ.get("FEDAFD_IMAGE_REGISTRY", "")
TAG = os.environ.get("FEDAFD_IMAGE_TAG") or chart_version()
POSTGRES = os.environ.get("FEDAFD_POSTGRES_IMAGE", "postgres:15-bookworm")
REDIS = os.environ.get("FEDAFD_REDIS_IMAGE", "redis:7-bookworm")
RELEASE = "fed"
SERVER_PODS = 9
"""Two control planes, two aggregators, one distiller, one query worker, three stores."""
_SMALL = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "3Gi"}}


def images() -> list[str]:
    """Every image that the test's pods need."""
    names = ["control-plane", "aggregator", "distiller", "agent", "minio"]
    prefix = f"{REGISTRY}/" if REGISTRY else ""
    return [POSTGRES, REDIS, *(f"{prefix}fedafd/{name}:{TAG}" for name in names)]


def server_values(**more: Any) -> Values:
    """Values of the server side: the trial, with two of what is called, so that one may go."""
    own: Values = {
        "image": {"registry": REGISTRY, "tag": TAG},
        "database": {"trial": {"image": POSTGRES, "size": "1Gi"}},
        "redis": {"trial": {"image": REDIS}},
        "objectStore": {"trial": {"size": "1Gi"}},
        "controlPlane": {"replicas": 2},
        "aggregator": {"replicas": 2},
        "distiller": {"device": "cpu", "resources": _SMALL, "terminationGracePeriodSeconds": 60},
        "queries": {"resources": _SMALL},
    }
    return merged(merged(TRIAL, own), more)


def address(namespace: str, release: str = RELEASE) -> str:
    """host:port of a release's aggregator."""
    return f"{release}-fedafd-aggregator.{namespace}.svc:7443"


def site_values(name: str, namespace: str, **more: Any) -> Values:
    """Values of one site, whose invitation is in the Secret invitation-<name>: TLS by what the invitation names."""
    agent: dict[str, Any] = {
        "kind": KINDS[name],
        "device": "cpu",
        "data": {
            "adapter": "shapes",
            "options": {"num_train": 48, "num_val": 16, "num_test": 16, "seed": sorted(KINDS).index(name)},
        },
        "share": {"personalized_model": True},
    }
    if KINDS[name] != "text":
        agent["imageEncoder"] = TINY_IMAGE
    if KINDS[name] != "image":
        agent["textEncoder"] = TINY_TEXT
    values: Values = {
        "image": {"registry": REGISTRY, "tag": TAG},
        "aggregator": {"address": address(namespace)},
        "enrolment": {"existingSecret": f"invitation-{name}"},
        "agent": agent,
        "state": {"size": "1Gi"},
        "resources": _SMALL,
        "terminationGracePeriodSeconds": 30,
    }
    return merged(values, more)
