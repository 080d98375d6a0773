"""The chart `fedafd`: probes, TLS, ways in from outside, and who may call whom inside."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.helm.charts import (
    EXTERNAL,
    SERVER,
    TRIAL,
    Manifests,
    RefusedError,
    environment,
    merged,
    render,
)
from tests.helm.test_server_chart import MUTUAL_TLS, PROCESSES, VALUE, external, settings_of


# --- probes ----------------------------------------------------------------------------------------------------------
def test_probes_speak_the_protocol() -> None:
    manifests = render(SERVER, EXTERNAL)
    rest = manifests.container("Deployment", "fed-fedafd-control-plane")
    assert rest["readinessProbe"]["httpGet"] == {"path": "/readyz?serving=true", "port": "http"}
    assert rest["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    grpc = manifests.container("Deployment", "fed-fedafd-aggregator")
    assert grpc["readinessProbe"]["grpc"] == {"port": 7445}, "kubelets speak no TLS"
    # A database that is away must not restart the aggregators.
    assert grpc["livenessProbe"]["grpc"] == grpc["startupProbe"]["grpc"] == {"port": 7445, "service": "liveness"}
    off = render(SERVER, external(aggregator={"tls": {"mode": "off"}}))
    assert off.container("Deployment", "fed-fedafd-aggregator")["readinessProbe"]["grpc"] == {"port": 7443}


def test_with_tls_the_image_itself_asks_since_the_kubelet_cannot() -> None:
    grpc = render(SERVER, external(aggregator={"tls": MUTUAL_TLS})).container("Deployment", "fed-fedafd-aggregator")
    for probe, service in (("livenessProbe", "liveness"), ("readinessProbe", "")):
        command = grpc[probe]["exec"]["command"]
        assert command[:2] == ["fedafd", "health"] and command[-1] == f"grpcs://127.0.0.1:7443/{service}"
        assert "--certificate" in command and "fed-fedafd-aggregator" in command


# --- TLS -------------------------------------------------------------------------------------------------------------
def test_tls_reaches_the_aggregator_and_those_who_ask_for_its_health() -> None:
    manifests = render(
        SERVER, external(aggregator={"tls": {"existingSecret": "server-tls", "serverName": "agg.example"}})
    )
    given = settings_of(manifests, "aggregator")
    assert given["FEDAFD_AGGREGATOR_TLS_KEY"] == "/etc/fedafd/tls/tls.key"
    assert "FEDAFD_AGGREGATOR_TLS_CLIENT_AUTHORITIES" not in given
    command = manifests.container("Deployment", "fed-fedafd-aggregator")["readinessProbe"]["exec"]["command"]
    assert {"agg.example", "/etc/fedafd/caller-tls/ca.crt"} <= set(command)
    (asking,) = manifests.of("Pod")
    (volume,) = [each for each in asking["spec"]["volumes"] if each["name"] == "caller-tls"]
    (source,) = volume["projected"]["sources"]
    assert source["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}], "the key must stay with the aggregator"


def test_an_authority_of_your_own_reaches_the_aggregator_alone_and_no_token_names_it() -> None:
    manifests = render(SERVER, external(aggregator={"authority": {"existingSecret": "sites-authority"}}))
    given = settings_of(manifests, "aggregator")
    assert given["FEDAFD_AGGREGATOR_AUTHORITY_CERTIFICATE"] == "/etc/fedafd/authority/tls.crt"
    assert given["FEDAFD_AGGREGATOR_AUTHORITY_KEY"] == "/etc/fedafd/authority/tls.key"
    assert settings_of(manifests, "control-plane")["FEDAFD_CONTROL_PLANE_NAME_AUTHORITY"] == "false"
    holders = [
        (name, mount["mountPath"])
        for name in ("aggregator", "control-plane", "distiller")
        for pod in [manifests.one("Deployment", f"fed-fedafd-{name}")["spec"]["template"]["spec"]]
        for volume in pod["volumes"]
        if volume.get("secret", {}).get("secretName") == "sites-authority"
        for mount in pod["containers"][0]["volumeMounts"]
        if mount["name"] == volume["name"]
    ]
    assert holders == [("aggregator", "/etc/fedafd/authority")]
    built_in = settings_of(render(SERVER, external()), "control-plane")
    assert built_in["FEDAFD_CONTROL_PLANE_NAME_AUTHORITY"] == "true"


def test_with_public_authorities_probes_need_no_file() -> None:
    manifests = render(SERVER, external(aggregator={"tls": {"existingSecret": "server-tls", "caKey": ""}}))
    pod = manifests.one("Deployment", "fed-fedafd-aggregator")["spec"]["template"]["spec"]
    assert "fed-fedafd-aggregator" in pod["containers"][0]["readinessProbe"]["exec"]["command"]
    assert "caller-tls" not in {volume["name"] for volume in pod["volumes"]}


def test_mutual_tls_needs_a_certificate_for_the_probes() -> None:
    with pytest.raises(RefusedError, match="clientSecret"):
        render(SERVER, external(aggregator={"tls": {"existingSecret": "a", "clientAuthoritiesSecret": "b"}}))
    manifests = render(SERVER, external(aggregator={"tls": MUTUAL_TLS}))
    path = "/etc/fedafd/client-authorities/ca.crt"
    assert settings_of(manifests, "aggregator")["FEDAFD_AGGREGATOR_TLS_CLIENT_AUTHORITIES"] == path


def test_by_default_the_aggregator_has_tls_of_its_own_and_nobody_needs_a_file() -> None:
    manifests = render(SERVER, EXTERNAL)
    assert not [name for process in PROCESSES for name in settings_of(manifests, process) if "TLS" in name]
    assert not [name for process in PROCESSES for name in settings_of(manifests, process) if "PLAINTEXT" in name]
    assert settings_of(manifests, "control-plane")["FEDAFD_CONTROL_PLANE_NAME_AUTHORITY"] == "true"
    assert settings_of(manifests, "aggregator")["FEDAFD_AGGREGATOR_HEALTH_LISTEN"] == "0.0.0.0:7445"
    service = manifests.one("Service", "fed-fedafd-aggregator")["spec"]
    assert service["ports"][0]["appProtocol"] == "https"


INGRESS = {"grpc": {"enabled": True, "host": "h.example", "tlsSecret": "tls"}}
GATEWAY = {"enabled": True, "parentRefs": [{"name": "public"}]}


@pytest.mark.parametrize(
    "front", [{"ingress": INGRESS}, {"gateway": GATEWAY}, {"aggregator": {"tls": {"mode": "off"}}}]
)
def test_where_tls_ends_in_front_agents_come_in_plain_text_and_distillers_never(front: dict[str, Any]) -> None:
    manifests = render(SERVER, external(**front))
    assert settings_of(manifests, "aggregator")["FEDAFD_AGGREGATOR_PLAINTEXT"] == "true"
    assert "FEDAFD_DISTILLER_PLAINTEXT" not in settings_of(manifests, "distiller")
    assert settings_of(manifests, "distiller")["FEDAFD_DISTILLER_AGGREGATOR"] == "fed-fedafd-aggregator-internal:7444"
    assert settings_of(manifests, "control-plane")["FEDAFD_CONTROL_PLANE_NAME_AUTHORITY"] == "false"
    own = render(SERVER, merged(external(**front), {"aggregator": {"tls": {"mode": "own"}}}))
    assert "FEDAFD_AGGREGATOR_PLAINTEXT" not in settings_of(own, "aggregator")


# --- ways in ---------------------------------------------------------------------------------------------------------
def test_ingress_for_rest_and_for_grpc() -> None:
    values = external(
        ingress={
            "rest": {"enabled": True, "host": "rest.example", "className": "nginx", "tlsSecret": "a", "paths": ["/v1"]},
            "grpc": {"enabled": True, "host": "grpc.example", "tlsSecret": "b", "annotations": {"proto": "GRPC"}},
        }
    )
    manifests = render(SERVER, values)
    rest, grpc = manifests.one("Ingress", "fed-fedafd-rest"), manifests.one("Ingress", "fed-fedafd-grpc")
    assert rest["spec"]["ingressClassName"] == "nginx"
    assert rest["spec"]["tls"] == [{"hosts": ["rest.example"], "secretName": "a"}]
    (path,) = rest["spec"]["rules"][0]["http"]["paths"]
    assert path["path"] == "/v1" and path["backend"]["service"]["name"] == "fed-fedafd-control-plane"
    assert grpc["metadata"]["annotations"] == {"proto": "GRPC"}
    assert grpc["spec"]["tls"] == [{"hosts": ["grpc.example"], "secretName": "b"}]
    assert render(SERVER, EXTERNAL).of("Ingress") == []


@pytest.mark.parametrize(("which", "lacks"), [("rest", "host"), ("grpc", "host"), ("grpc", "tlsSecret")])
def test_an_ingress_without_its_host_or_grpc_without_tls_is_refused(which: str, lacks: str) -> None:
    entry = {"enabled": True, "host": "h.example", "tlsSecret": "tls"} | {lacks: ""}
    with pytest.raises(RefusedError, match=rf"ingress\.{which}\.{lacks}"):
        render(SERVER, external(ingress={which: entry}))


def test_default_paths_keep_metrics_and_probes_inside() -> None:
    values = external(ingress={"rest": {"enabled": True, "host": "h.example"}})
    paths = [each["path"] for each in render(SERVER, values).of("Ingress")[0]["spec"]["rules"][0]["http"]["paths"]]
    assert "/v1" in paths and "/" not in paths and "/metrics" not in paths


def test_an_ingress_leads_agents_to_their_service_only() -> None:
    values = external(ingress={"grpc": {"enabled": True, "host": "h.example", "tlsSecret": "tls"}})
    paths = [each["path"] for each in render(SERVER, values).of("Ingress")[0]["spec"]["rules"][0]["http"]["paths"]]
    assert paths == ["/fedafd.v1.AggregatorService", "/grpc.health.v1.Health/Check"]


def test_gateway_routes_agents_to_their_service_only() -> None:
    parents = [{"name": "public", "namespace": "gateways"}]
    gateway = {"enabled": True, "parentRefs": parents, "restHostnames": ["r.example"], "grpcHostnames": ["g.example"]}
    manifests = render(SERVER, external(gateway=gateway))
    rest, grpc = (
        manifests.one("HTTPRoute", "fed-fedafd-rest")["spec"],
        manifests.one("GRPCRoute", "fed-fedafd-grpc")["spec"],
    )
    assert rest["parentRefs"] == grpc["parentRefs"] == parents
    assert (rest["hostnames"], grpc["hostnames"]) == (["r.example"], ["g.example"])
    assert grpc["rules"][0]["matches"] == [
        {"method": {"service": "fedafd.v1.AggregatorService"}},
        {"method": {"service": "grpc.health.v1.Health", "method": "Check"}},
    ]
    with pytest.raises(RefusedError, match=r"gateway\.parentRefs"):
        render(SERVER, external(gateway={"enabled": True}))


@pytest.mark.parametrize(("process", "port"), [("control-plane", 80), ("aggregator", 7443)])
def test_services_can_be_of_another_type(process: str, port: int) -> None:
    service = render(SERVER, EXTERNAL).one("Service", f"fed-fedafd-{process}")["spec"]
    assert (service["type"], service["ports"][0]["port"]) == ("ClusterIP", port)
    other = {"service": {"type": "LoadBalancer", "port": 443, "annotations": {"internal": "true"}}}
    manifests = render(SERVER, external(**{VALUE[process]: other}))
    found = manifests.one("Service", f"fed-fedafd-{process}")
    assert (found["spec"]["type"], found["spec"]["ports"][0]["port"]) == ("LoadBalancer", 443)
    assert found["metadata"]["annotations"] == {"internal": "true"}


# --- network policies ------------------------------------------------------------------------------------------------
def egress_ports(manifests: Manifests, policy: str) -> set[int | str]:
    spec = manifests.one("NetworkPolicy", f"fed-fedafd-{policy}")["spec"]
    return {port["port"] for rule in spec.get("egress", []) for port in rule["ports"]}


def test_each_process_reaches_what_it_needs_and_no_more() -> None:
    values = external(database={"port": 5433}, redis={"port": 6380}, objectStore={"port": 9443})
    manifests = render(SERVER, values)
    assert egress_ports(manifests, "control-plane") == {5433, 6380, 9443}
    assert egress_ports(manifests, "aggregator") == {5433, 6380, 9443}
    assert egress_ports(manifests, "distiller") == {"internal", 6380, 9443}, "a distiller never reaches the database"
    assert egress_ports(manifests, "queries") == {6380, 9443}
    assert egress_ports(manifests, "migration") == {5433}
    assert "ingress" not in manifests.one("NetworkPolicy", "fed-fedafd-deny-all")["spec"]


def test_a_trials_stores_are_reached_by_their_users_only() -> None:
    manifests = render(SERVER, TRIAL)
    users = {
        store: {
            peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            for peer in manifests.one("NetworkPolicy", f"fed-fedafd-{store}")["spec"]["ingress"][0]["from"]
        }
        for store in ("postgresql", "redis", "minio")
    }
    assert users == {
        "postgresql": {"control-plane", "aggregator", "migration"},
        "redis": {"control-plane", "aggregator", "distiller", "queries"},
        "minio": {"control-plane", "aggregator", "distiller", "queries", "bucket-setup"},
    }
    for store in users:
        assert "egress" not in manifests.one("NetworkPolicy", f"fed-fedafd-{store}")["spec"]


@pytest.mark.parametrize("tls", [{}, {"existingSecret": "server-tls"}, MUTUAL_TLS, {"mode": "off"}])
def test_distillers_have_a_listener_of_their_own_that_is_never_published(tls: dict[str, Any]) -> None:
    manifests = render(SERVER, external(aggregator={"service": {"type": "LoadBalancer"}, "tls": tls}))
    assert settings_of(manifests, "aggregator")["FEDAFD_AGGREGATOR_INTERNAL_LISTEN"] == "0.0.0.0:7444"
    assert settings_of(manifests, "distiller")["FEDAFD_DISTILLER_AGGREGATOR"] == "fed-fedafd-aggregator-internal:7444"
    inner = manifests.one("Service", "fed-fedafd-aggregator-internal")["spec"]
    assert (inner["type"], inner["ports"][0]["port"]) == ("ClusterIP", 7444)
    outer = manifests.one("Service", "fed-fedafd-aggregator")["spec"]
    assert [port["targetPort"] for port in outer["ports"]] == ["grpc"]
    container = manifests.container("Deployment", "fed-fedafd-aggregator")
    assert {"name": "internal", "containerPort": 7444} in container["ports"]
    # Both know each other by the internal token: no file of the operator's is theirs.
    assert not [name for name in settings_of(manifests, "distiller") if "TLS" in name]
    pod = manifests.one("Deployment", "fed-fedafd-distiller")["spec"]["template"]["spec"]
    assert {volume["name"] for volume in pod["volumes"]} == {"tmp", "cache"}
    assert egress_ports(manifests, "distiller") >= {"internal"} and "grpc" not in egress_ports(manifests, "distiller")


def test_proxies_in_front_are_named_and_no_others_are_trusted() -> None:
    name = "FEDAFD_CONTROL_PLANE_TRUSTED_PROXIES"
    assert settings_of(render(SERVER, EXTERNAL), "control-plane")[name] == "127.0.0.1,::1"
    given = external(controlPlane={"trustedProxies": ["10.42.0.0/16", "fd00::/8"]})
    assert settings_of(render(SERVER, given), "control-plane")[name] == "127.0.0.1,::1,10.42.0.0/16,fd00::/8"
    with pytest.raises(RefusedError, match="trustedProxies"):
        render(SERVER, external(controlPlane={"trustedProxies": ["ingress.example"]}))


def test_an_identity_provider_is_set_up_and_reached() -> None:
    oidc = {"issuer": "https://login.example", "clientId": "fedafd", "publicUrl": "https://fed.example", "port": 8443}
    oidc |= {"roles": {"staff": "viewer", "it": {"role": "admin"}}, "audience": "rest", "existingSecret": "oidc"}
    manifests = render(SERVER, external(controlPlane={"oidc": oidc}))
    given = settings_of(manifests, "control-plane")
    prefix = "FEDAFD_CONTROL_PLANE_OIDC__"
    told = {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
    assert json.loads(told.pop("ROLES")) == oidc["roles"]
    assert told.pop("CLIENT_SECRET")
    assert told == {
        "ISSUER": "https://login.example",
        "CLIENT_ID": "fedafd",
        "PUBLIC_URL": "https://fed.example",
        "AUDIENCE": "rest",
        "ROLES_CLAIM": "groups",
    }
    secret = environment(manifests.container("Deployment", "fed-fedafd-control-plane"))[f"{prefix}CLIENT_SECRET"]
    assert secret["secretKeyRef"] == {"name": "oidc", "key": "client-secret"}
    assert 8443 in egress_ports(manifests, "control-plane")
    assert not [name for name in settings_of(render(SERVER, EXTERNAL), "control-plane") if prefix in name]
    for lacks, words in (("clientId", "what the provider calls"), ("roles", "set roles")):
        with pytest.raises(RefusedError, match=words):
            render(SERVER, external(controlPlane={"oidc": oidc | {lacks: type(oidc[lacks])()}}))


def test_callers_can_be_narrowed() -> None:
    peers = [{"ipBlock": {"cidr": "10.1.0.0/16"}}]
    open_to_all = render(SERVER, EXTERNAL).one("NetworkPolicy", "fed-fedafd-aggregator")["spec"]["ingress"][0]
    assert "from" not in open_to_all
    narrow = render(SERVER, external(networkPolicy={"grpcFrom": peers, "restFrom": peers, "storesTo": peers}))
    grpc = narrow.one("NetworkPolicy", "fed-fedafd-aggregator")["spec"]
    assert peers[0] in grpc["ingress"][0]["from"]
    inner = [
        peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in grpc["ingress"][0]["from"][1:]
    ]
    assert inner == ["test"]
    (of_distillers,) = [each for each in grpc["ingress"] if each["ports"] == [{"port": "internal"}]]
    (only,) = of_distillers["from"]
    assert only["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "distiller"
    assert all(rule["to"] == peers for rule in grpc["egress"])
    assert peers[0] in narrow.one("NetworkPolicy", "fed-fedafd-control-plane")["spec"]["ingress"][0]["from"]


def test_a_namespace_that_denies_everything_still_lets_the_first_migration_through() -> None:
    policy = render(SERVER, EXTERNAL).one("NetworkPolicy", "fed-fedafd-migration-hook")
    assert policy["metadata"]["annotations"]["helm.sh/hook-weight"] == "-1"
    assert egress_ports(render(SERVER, EXTERNAL), "migration-hook") == {53, 5432}
