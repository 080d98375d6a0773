"""Each switch of the chart `fedafd-agent` does what its comment says, and nothing else."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from tests.helm.charts import (
    AGENT,
    SITE,
    Manifests,
    RefusedError,
    Values,
    chart_values,
    dotted,
    environment,
    merged,
    notes,
    render,
)

from fedafd.agent.settings import AgentSettings
from fedafd.domain.config import AgentConfig, SharingConfig, TlsConfig, parse_agent_config

NAME = "fed-fedafd-agent"
PAIR: dict[str, Any] = {
    "kind": "pair",
    "device": "cuda",
    "data": {"adapter": "flickr", "path": "/data", "options": {"limit": 10}},
    "imageEncoder": {"architecture": "resnet", "image_size": 32},
    "textEncoder": {"architecture": "bigru"},
    "share": {"personalized_model": True, "metrics": False, "weights": True},
    "baseline": "background",
}


def site(**values: Any) -> Values:
    return merged(SITE, values)


def agent_yaml(manifests: Manifests) -> dict[str, Any]:
    loaded = yaml.safe_load(manifests.one("ConfigMap", NAME)["data"]["agent.yaml"])
    assert isinstance(loaded, dict)
    return loaded


def pod(manifests: Manifests) -> dict[str, Any]:
    spec = manifests.one("StatefulSet", NAME)["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


# --- agent.yaml ------------------------------------------------------------------------------------------------------
def test_agent_yaml_is_what_the_values_say() -> None:
    config = parse_agent_config(agent_yaml(render(AGENT, site(agent=PAIR))))
    assert (config.kind, config.device, config.aggregator) == ("pair", "cuda", "aggregator.example.org:7443")
    assert config.data.adapter == "flickr" and config.data.options == {"limit": 10}
    assert config.image_encoder is not None and config.image_encoder.image_size == 32
    assert config.share == SharingConfig(personalized_model=True, metrics=False, weights=True)
    assert config.baseline == "background"
    assert str(config.state_dir) == "/var/lib/fedafd/state"


def test_defaults_keep_the_personalized_model_at_the_site() -> None:
    config = parse_agent_config(agent_yaml(render(AGENT, SITE)))
    assert config.share == SharingConfig() and config.baseline == "off"
    assert config.image_encoder is None and config.text_encoder is None


def test_a_tracker_is_asked_for_by_name() -> None:
    told = parse_agent_config(agent_yaml(render(AGENT, site(agent={"tracking": {"tensorboard": {"folder": "/tb"}}}))))
    assert told.tracking == {"tensorboard": {"folder": "/tb"}}
    assert parse_agent_config(agent_yaml(render(AGENT, SITE))).tracking == {}


def test_every_key_of_agent_yaml_can_be_set_or_is_the_charts() -> None:
    ours = {"aggregator", "state_dir", "threads", "tls", "plaintext", "metrics_port", "metrics_host"}
    values = {re.sub(r"(?<!^)(?=[A-Z])", "_", key).lower() for key in chart_values(AGENT)["agent"]}
    assert AgentConfig.model_fields.keys() - ours <= values
    assert SharingConfig.model_fields.keys() == chart_values(AGENT)["agent"]["share"].keys()


def test_checkpoints_at_the_site_reach_agent_yaml() -> None:
    manifests = render(AGENT, site(agent={"baseWeights": {"text": "/data/minilm"}}))
    assert agent_yaml(manifests)["base_weights"] == {"text": "/data/minilm"}
    assert "base_weights" not in agent_yaml(render(AGENT, SITE))


@pytest.mark.parametrize(
    ("url", "port"),
    [("https://store.example.org:9000", 9000), ("https://10.0.0.1", 443), ("http://[::1]:9001", 9001)],
)
def test_uploads_to_the_store_have_their_way_out(url: str, port: int) -> None:
    manifests = render(AGENT, site(agent={"directUploads": {"url": url}}))
    egress = manifests.one("NetworkPolicy", NAME)["spec"]["egress"]
    assert [each["port"] for rule in egress for each in rule["ports"]][-1] == port
    assert agent_yaml(manifests)["direct_uploads"] == {"url": url}


def test_every_command_in_the_pod_finds_agent_yaml() -> None:
    (container,) = pod(render(AGENT, SITE))["containers"]
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "config"]
    assert environment(container)["FEDAFD_AGENT_CONFIG"] == f"{mount['mountPath']}/agent.yaml"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"aggregator": {"address": ""}}, "aggregator.address"),
        ({"aggregator": {"address": "https://host"}}, "/aggregator/address"),
        ({"agent": {"kind": ""}}, "agent.kind"),
        ({"agent": {"kind": "video"}}, "/agent/kind"),
        ({"agent": {"baseline": "always"}}, "/agent/baseline"),
        ({"enrolment": {"token": "x"}}, "not both"),
    ],
)
def test_what_is_missing_or_wrong_is_named(values: Values, says: str) -> None:
    with pytest.raises(RefusedError, match=re.escape(says)):
        render(AGENT, site(**values))


def test_private_data_must_be_described() -> None:
    with pytest.raises(RefusedError, match=r"agent\.data"):
        render(AGENT, SITE | {"agent": {"kind": "image"}})


def test_a_changed_agent_yaml_restarts_the_agent() -> None:
    checksums = {
        render(AGENT, site(agent={"device": device})).one("StatefulSet", NAME)["spec"]["template"]["metadata"][
            "annotations"
        ]["checksum/config"]
        for device in ("cpu", "cuda")
    }
    assert len(checksums) == 2


# --- enrolment -------------------------------------------------------------------------------------------------------
def test_the_tokens_secret_may_vanish_once_the_agent_is_enrolled() -> None:
    (container,) = pod(render(AGENT, SITE))["containers"]
    reference = environment(container)["FEDAFD_AGENT_ENROLMENT_TOKEN"]["secretKeyRef"]
    assert reference == {"name": "invitation", "key": "token", "optional": True}


def test_a_token_in_the_values_becomes_a_secret() -> None:
    manifests = render(AGENT, site(enrolment={"existingSecret": "", "token": "one-time"}))
    assert manifests.one("Secret", NAME)["stringData"] == {"token": "one-time"}
    (container,) = pod(manifests)["containers"]
    assert environment(container)["FEDAFD_AGENT_ENROLMENT_TOKEN"]["secretKeyRef"]["name"] == NAME
    assert render(AGENT, SITE).of("Secret") == []


def test_an_enrolled_site_needs_no_token() -> None:
    (container,) = pod(render(AGENT, site(enrolment={"existingSecret": ""})))["containers"]
    assert "FEDAFD_AGENT_ENROLMENT_TOKEN" not in environment(container)


def test_every_variable_is_a_setting_of_the_agent() -> None:
    (container,) = pod(render(AGENT, SITE))["containers"]
    names = {name.removeprefix("FEDAFD_AGENT_") for name in environment(container) if name.startswith("FEDAFD_AGENT_")}
    assert {name.split("__")[0].lower() for name in names} <= AgentSettings.model_fields.keys()


# --- volumes ---------------------------------------------------------------------------------------------------------
def test_private_data_is_mounted_read_only() -> None:
    spec = pod(render(AGENT, site(dataVolume={"hostPath": {"path": "/srv/xrays"}})))
    (mount,) = [each for each in spec["containers"][0]["volumeMounts"] if each["mountPath"] == "/data"]
    assert mount["readOnly"] is True
    assert {"name": "data", "hostPath": {"path": "/srv/xrays"}} in spec["volumes"]
    assert "/data" not in {each["mountPath"] for each in pod(render(AGENT, SITE))["containers"][0]["volumeMounts"]}


def test_state_lies_on_a_claim_of_its_own_or_on_yours() -> None:
    own = render(AGENT, site(state={"size": "5Gi", "storageClass": "fast"})).one("StatefulSet", NAME)["spec"]
    (claim,) = own["volumeClaimTemplates"]
    assert (claim["spec"]["resources"]["requests"]["storage"], claim["spec"]["storageClassName"]) == ("5Gi", "fast")
    given = render(AGENT, site(state={"existingClaim": "north"}))
    assert "volumeClaimTemplates" not in given.one("StatefulSet", NAME)["spec"]
    assert {"name": "state", "persistentVolumeClaim": {"claimName": "north"}} in pod(given)["volumes"]


def test_state_dir_is_a_folder_below_the_volume_which_may_belong_to_root() -> None:
    (mount,) = [each for each in pod(render(AGENT, SITE))["containers"][0]["volumeMounts"] if each["name"] == "state"]
    assert agent_yaml(render(AGENT, SITE))["state_dir"].startswith(mount["mountPath"] + "/")


# --- TLS -------------------------------------------------------------------------------------------------------------
def test_tls_by_what_the_token_names_is_the_default() -> None:
    def config(**tls: Any) -> AgentConfig:
        return parse_agent_config(agent_yaml(render(AGENT, site(aggregator={"tls": tls}))))

    assert (config().tls, config().plaintext) == (None, None)
    assert config(publicAuthorities=True).tls == TlsConfig()
    assert (config(enabled=False).tls, config(enabled=False).plaintext) == (None, True)
    test = render(AGENT, site()).one("Pod", f"{NAME}-test")["spec"]["containers"][0]
    assert "--any-certificate" in test["command"]


def test_own_authority_name_and_certificate_reach_agent_and_test() -> None:
    tls = {"caSecret": "federation-ca", "serverName": "agg.example", "clientSecret": "north-tls"}
    manifests = render(AGENT, site(aggregator={"tls": tls}))
    config = parse_agent_config(agent_yaml(manifests)).tls
    assert config is not None and config.server_name == "agg.example"
    assert {str(config.authorities), str(config.certificate), str(config.key)} == {
        f"/etc/fedafd/tls/{name}" for name in ("ca.crt", "tls.crt", "tls.key")
    }
    for spec in (pod(manifests), manifests.one("Pod", f"{NAME}-test")["spec"]):
        (volume,) = [each for each in spec["volumes"] if each["name"] == "tls"]
        assert [source["secret"]["name"] for source in volume["projected"]["sources"]] == ["federation-ca", "north-tls"]
    command = manifests.one("Pod", f"{NAME}-test")["spec"]["containers"][0]["command"]
    assert command[-1] == "grpcs://aggregator.example.org:7443/fedafd.v1.AggregatorService"
    assert {"--authorities", "--certificate", "--key", "--server-name"} <= set(command)


# --- pod -------------------------------------------------------------------------------------------------------------
def test_a_gpu_is_added_to_the_limits() -> None:
    (container,) = pod(render(AGENT, site(gpu={"count": 1}, runtimeClassName="nvidia")))["containers"]
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": 1}
    assert pod(render(AGENT, site(runtimeClassName="nvidia")))["runtimeClassName"] == "nvidia"


@pytest.mark.parametrize(
    ("value", "given"),
    [
        ("nodeSelector", {"pool": "a"}),
        ("tolerations", [{"key": "a", "operator": "Exists"}]),
        ("affinity", {"podAffinity": {}}),
        ("priorityClassName", "high"),
        ("terminationGracePeriodSeconds", 77),
    ],
)
def test_the_pod_is_scheduled_as_told(value: str, given: object) -> None:
    assert pod(render(AGENT, site(**dotted(value, given))))[value] == given


def test_big_user_ids_stay_whole_numbers() -> None:
    security = pod(render(AGENT, site(runAsUser=1000690000)))["securityContext"]
    assert security["runAsUser"] == security["fsGroup"] == 1000690000


def test_one_agent_is_one_client() -> None:
    assert render(AGENT, SITE).one("StatefulSet", NAME)["spec"]["replicas"] == 1


# --- network ---------------------------------------------------------------------------------------------------------
def test_the_agent_reaches_names_and_the_aggregator_and_nobody_reaches_it() -> None:
    manifests = render(AGENT, site(aggregator={"address": "a.example:8443"}))
    spec = manifests.one("NetworkPolicy", NAME)["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"] and "ingress" not in spec
    assert [port["port"] for rule in spec["egress"] for port in rule["ports"]] == [53, 53, 8443]
    assert manifests.of("Service") == []
    narrow = render(AGENT, site(networkPolicy={"aggregatorTo": [{"ipBlock": {"cidr": "192.0.2.7/32"}}]}))
    rules = narrow.one("NetworkPolicy", NAME)["spec"]["egress"]
    assert rules[1]["to"] == [{"ipBlock": {"cidr": "192.0.2.7/32"}}]
    assert render(AGENT, site(networkPolicy={"enabled": False})).of("NetworkPolicy") == []


def test_metrics_open_one_port_to_the_cluster() -> None:
    monitor = {"enabled": True, "labels": {"release": "prometheus"}, "interval": "10s"}
    manifests = render(AGENT, site(metrics={"enabled": True, "serviceMonitor": monitor}))
    config = parse_agent_config(agent_yaml(manifests))
    assert (config.metrics_host, config.metrics_port) == ("0.0.0.0", 9090)
    (rule,) = manifests.one("NetworkPolicy", NAME)["spec"]["ingress"]
    assert rule == {"ports": [{"port": "metrics"}], "from": [{"namespaceSelector": {}}]}
    found = manifests.one("ServiceMonitor", NAME)
    assert found["metadata"]["labels"]["release"] == "prometheus"
    assert found["spec"]["endpoints"] == [{"port": "metrics", "path": "/metrics", "interval": "10s"}]
    labels = manifests.one("Service", f"{NAME}-metrics")["metadata"]["labels"]
    assert found["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert parse_agent_config(agent_yaml(render(AGENT, SITE))).metrics_port is None


# --- words -----------------------------------------------------------------------------------------------------------
def test_notes_say_what_to_do_next() -> None:
    text = notes(AGENT, SITE)
    for step in ("helm test fed", "logs --follow fed-fedafd-agent-0", "agent sent", "delete pvc"):
        assert step in text
    assert "WARNING" not in text
    assert "WARNING: no enrolment token" in notes(AGENT, site(enrolment={"existingSecret": ""}))
    assert "WARNING: TLS is off" in notes(AGENT, site(aggregator={"tls": {"enabled": False}}))
