"""The values that every manifest is checked with: each switch on, and the combinations that people use."""

from __future__ import annotations

from tests.helm.charts import EXTERNAL, SITE, TRIAL, Values, merged

_GATEWAY = {
    "gateway": {
        "enabled": True,
        "parentRefs": [{"name": "public", "namespace": "gateways"}],
        "restHostnames": ["fedafd.example.org"],
        "grpcHostnames": ["aggregator.example.org"],
    }
}
_INGRESS = {
    "ingress": {
        "rest": {"enabled": True, "className": "nginx", "host": "fedafd.example.org", "tlsSecret": "rest-tls"},
        "grpc": {
            "enabled": True,
            "host": "aggregator.example.org",
            "tlsSecret": "grpc-tls",
            "annotations": {"nginx.ingress.kubernetes.io/backend-protocol": "GRPC"},
        },
    }
}
_SCHEDULING = {
    "nodeSelector": {"pool": "a"},
    "tolerations": [{"key": "pool", "operator": "Equal", "value": "a", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "x"}},
        }
    ],
    "priorityClassName": "high",
    "podAnnotations": {"team": "ml"},
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
}
_PEERS = [{"namespaceSelector": {"matchLabels": {"team": "ml"}}}]

SERVER_CASES: dict[str, Values] = {
    "trial": TRIAL,
    "external": EXTERNAL,
    "mixed stores": merged(
        EXTERNAL, {"redis": {"existingSecret": "", "trial": {"enabled": True, "storageClass": "fast"}}}
    ),
    "autoscaling": merged(
        EXTERNAL,
        {
            "controlPlane": {"autoscaling": {"enabled": True}},
            "aggregator": {"autoscaling": {"enabled": True, "maxReplicas": 40}},
            "distiller": {"autoscaling": {"mode": "cpu"}},
        },
    ),
    "keda": merged(
        EXTERNAL, {"distiller": {"autoscaling": {"mode": "keda", "keda": {"redisAddress": "redis.example.org:6379"}}}}
    ),
    "keda on the trial's Redis": merged(TRIAL, {"distiller": {"autoscaling": {"mode": "keda"}}}),
    "region": merged(
        EXTERNAL,
        {
            "region": _SCHEDULING
            | {
                "enabled": True,
                "aggregator": "upper.example.org:7443",
                "federation": "north",
                "enrolment": {"existingSecret": "invitation"},
                "tls": {"caSecret": "upper-ca", "serverName": "aggregator"},
                "state": {"storageClass": "fast"},
            },
            "networkPolicy": {"upperTo": _PEERS},
        },
    ),
    "region of a trial": merged(
        TRIAL,
        {"region": {"enabled": True, "aggregator": "upper:7443", "federation": "north", "tls": {"enabled": False}}},
    ),
    "gpu": merged(
        EXTERNAL,
        {
            "distiller": {
                "device": "cuda",
                "gpu": {"count": 2},
                "runtimeClassName": "nvidia",
                "nodeSelector": {"nvidia.com/gpu.present": "true"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            }
        },
    ),
    "ingress": merged(EXTERNAL, _INGRESS),
    "gateway": merged(EXTERNAL, _GATEWAY),
    "tls at the aggregator": merged(
        EXTERNAL,
        {
            "aggregator": {
                "tls": {"existingSecret": "aggregator-tls", "serverName": "aggregator.example.org"},
                "service": {"type": "LoadBalancer", "port": 443, "annotations": {"a": "b"}},
            }
        },
    ),
    "people of an identity provider, behind a proxy": merged(
        EXTERNAL,
        {
            "controlPlane": {
                "trustedProxies": ["10.42.0.0/16"],
                "oidc": {
                    "issuer": "https://login.example",
                    "clientId": "fedafd",
                    "existingSecret": "oidc",
                    "publicUrl": "https://fed.example",
                    "audience": "fedafd",
                    "roles": {"staff": "viewer", "team": {"role": "operator", "federations": ["lungs"]}},
                },
            }
        },
    ),
    "monitoring": merged(
        EXTERNAL,
        {"metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "interval": "15s"}}},
    ),
    "tracing": merged(
        EXTERNAL,
        {
            "tracing": {
                "endpoint": "http://collector.monitoring:4317",
                "protocol": "grpc",
                "port": 4317,
                "collectorTo": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}],
            }
        },
    ),
    "no metrics": merged(EXTERNAL, {"metrics": {"enabled": False}}),
    "narrow policies": merged(
        EXTERNAL,
        {
            "networkPolicy": {
                "restFrom": _PEERS,
                "grpcFrom": _PEERS,
                "metricsFrom": _PEERS,
                "storesTo": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
            }
        },
    ),
    "no policies, no budgets, no migration, no account": merged(
        EXTERNAL,
        {
            "networkPolicy": {"enabled": False},
            "controlPlane": {"podDisruptionBudget": {"enabled": False}},
            "aggregator": {"podDisruptionBudget": {"enabled": False}},
            "migration": {"enabled": False},
            "serviceAccount": {"create": False, "name": "mine"},
        },
    ),
    "scheduling": merged(EXTERNAL, {"controlPlane": _SCHEDULING, "aggregator": _SCHEDULING, "distiller": _SCHEDULING}),
    "own registry": merged(
        TRIAL,
        {
            "image": {"registry": "registry.example.org/team", "tag": "1.2.3", "pullSecrets": [{"name": "registry"}]},
            "commonLabels": {"owner": "ml"},
            "fullnameOverride": "federation",
            "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/fedafd"}},
        },
    ),
    "an access key per process": merged(
        EXTERNAL,
        {
            "objectStore": {"existingSecret": "", "region": "eu-central-1"},
            "controlPlane": {"objectStoreSecret": "s3-control-plane"},
            "aggregator": {"objectStoreSecret": "s3-aggregator"},
            "distiller": {"objectStoreSecret": "s3-distiller"},
            "queries": {"objectStoreSecret": "s3-queries"},
        },
    ),
}

AGENT_CASES: dict[str, Values] = {
    "site": SITE,
    "token": merged(SITE, {"enrolment": {"existingSecret": "", "token": "fedafd-enrol.x"}}),
    "enrolled before": merged(SITE, {"enrolment": {"existingSecret": ""}, "state": {"existingClaim": "north"}}),
    "gpu": merged(
        SITE,
        {
            "gpu": {"count": 1},
            "runtimeClassName": "nvidia",
            "agent": {"device": "cuda"},
            "nodeSelector": {"gpu": "yes"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "priorityClassName": "high",
            "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        },
    ),
    "pair with encoders and data": merged(
        SITE,
        {
            "agent": {
                "kind": "pair",
                "data": {"adapter": "flickr", "path": "/data", "options": {"limit": 10}},
                "imageEncoder": {"architecture": "resnet"},
                "textEncoder": {"architecture": "bigru"},
                "share": {"personalized_model": True},
            },
            "dataVolume": {"persistentVolumeClaim": {"claimName": "pictures", "readOnly": True}},
            "state": {"storageClass": "fast", "size": "5Gi"},
            "runAsUser": 1000690000,
            "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
            "podAnnotations": {"a": "b"},
            "commonLabels": {"owner": "ml"},
        },
    ),
    "narrow policy": merged(SITE, {"networkPolicy": {"aggregatorTo": [{"ipBlock": {"cidr": "192.0.2.7/32"}}]}}),
    "metrics": merged(
        SITE,
        {
            "metrics": {"enabled": True, "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
            "networkPolicy": {"metricsFrom": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]},
        },
    ),
    "no policy, no account": merged(SITE, {"networkPolicy": {"enabled": False}, "serviceAccount": {"create": False}}),
}
CASES = [("fedafd", name, values) for name, values in SERVER_CASES.items()] + [
    ("fedafd-agent", name, values) for name, values in AGENT_CASES.items()
]
