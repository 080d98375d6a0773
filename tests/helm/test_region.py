"""A release that takes part in an upper federation as a region."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from tests.helm.charts import EXTERNAL, SERVER, TRIAL, RefusedError, Values, environment, merged, render
from tests.helm.test_server_chart_network import egress_ports

from fedafd.domain.config.region import RegionConfig
from fedafd.region.settings import RegionSettings

NAME = "fed-fedafd-region"


def region(base: Values = EXTERNAL, **values: Any) -> Values:
    wanted = {"enabled": True, "aggregator": "upper.example.org:7443", "federation": "north"}
    return merged(base, {"region": wanted | values})


def region_yaml(values: Values) -> RegionConfig:
    data = render(SERVER, values).one("ConfigMap", f"{NAME}-yaml")["data"]
    return RegionConfig.model_validate(yaml.safe_load(data["region.yaml"]))


def test_nothing_of_it_is_there_unless_it_is_asked_for() -> None:
    manifests = render(SERVER, EXTERNAL)
    assert not [item for item in manifests.items if "region" in item["metadata"]["name"]]


def test_region_yaml_is_what_the_values_say() -> None:
    config = region_yaml(region(deadlineShare=0.8))
    assert (config.aggregator, config.federation, config.deadline_share) == ("upper.example.org:7443", "north", 0.8)
    assert config.tls is None and config.plaintext is None and str(config.state_dir) == "/var/lib/fedafd/state"
    assert set(RegionConfig.model_fields) == set(config.model_dump()), "each key comes from a value or from the chart"


def test_how_the_line_is_trusted() -> None:
    assert region_yaml(region(tls={"enabled": False})).plaintext is True
    public = region_yaml(region(tls={"publicAuthorities": True})).tls
    assert public is not None and public.authorities is None
    values = region(tls={"caSecret": "upper-ca", "caKey": "root.pem", "serverName": "aggregator"})
    own = region_yaml(values).tls
    assert own is not None and (str(own.authorities), own.server_name) == ("/etc/fedafd/tls/ca.crt", "aggregator")
    (volume,) = (
        each
        for each in render(SERVER, values).one("StatefulSet", NAME)["spec"]["template"]["spec"]["volumes"]
        if each["name"] == "tls"
    )
    assert volume["secret"]["items"] == [{"key": "root.pem", "path": "ca.crt"}]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"aggregator": ""}, "region.aggregator"),
        ({"aggregator": "upper"}, "region"),
        ({"federation": ""}, "federation"),
    ],
)
def test_what_is_missing_is_named(values: dict[str, Any], says: str) -> None:
    with pytest.raises(RefusedError, match=says):
        render(SERVER, region(**values))


@pytest.mark.parametrize("base", [EXTERNAL, TRIAL])
def test_every_variable_is_a_setting_of_the_region(base: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = render(SERVER, region(base, enrolment={"existingSecret": "invitation"}))
    given = dict(manifests.one("ConfigMap", NAME)["data"])
    for name, value in environment(manifests.container("StatefulSet", NAME)).items():
        given[name] = value if isinstance(value, str) else "a secret of enough characters"
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = RegionSettings()
    assert settings.token() == "a secret of enough characters"
    assert {name for name in given if not name.startswith("FEDAFD_REGION_")} <= {"HOME"}


def test_the_invitation_may_vanish_once_the_region_is_enrolled() -> None:
    values = region(enrolment={"existingSecret": "invitation", "tokenKey": "once"})
    env = {entry["name"]: entry for entry in render(SERVER, values).container("StatefulSet", NAME)["env"]}
    source = env["FEDAFD_REGION_ENROLMENT_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert source == {"name": "invitation", "key": "once", "optional": True}
    none = render(SERVER, region()).container("StatefulSet", NAME)["env"]
    assert "FEDAFD_REGION_ENROLMENT_TOKEN" not in {entry["name"] for entry in none}


def test_it_reaches_the_upper_aggregator_database_and_store_and_nobody_reaches_more_than_its_metrics() -> None:
    manifests = render(SERVER, merged(region(), {"database": {"port": 5433}, "objectStore": {"port": 9443}}))
    assert egress_ports(manifests, "region") == {7443, 5433, 9443}
    (rule,) = manifests.one("NetworkPolicy", NAME)["spec"]["ingress"]
    assert rule["ports"] == [{"port": "metrics"}]
    without = render(SERVER, merged(region(), {"metrics": {"enabled": False}}))
    assert "ingress" not in without.one("NetworkPolicy", NAME)["spec"]
    trial = render(SERVER, region(TRIAL))
    for store, reaches in (("postgresql", True), ("minio", True), ("redis", False)):
        peers = trial.one("NetworkPolicy", f"fed-fedafd-{store}")["spec"]["ingress"][0]["from"]
        users = {peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in peers}
        assert ("region" in users) is reaches, store


def test_it_is_ready_once_its_metrics_answer() -> None:
    """They do so once it is enrolled. An upper federation that does not answer is no reason to restart it."""
    manifests = render(SERVER, region())
    container = manifests.container("StatefulSet", NAME)
    assert container["readinessProbe"]["httpGet"] == {"path": "/metrics", "port": "metrics"}
    assert not {"livenessProbe", "startupProbe"} & set(container)
    assert manifests.one("ConfigMap", NAME)["data"]["FEDAFD_REGION_METRICS_LISTEN"] == "0.0.0.0:9090"
    assert manifests.find("Service", f"{NAME}-metrics")
    without = render(SERVER, merged(region(), {"metrics": {"enabled": False}}))
    assert "readinessProbe" not in without.container("StatefulSet", NAME)
    assert not without.find("Service", f"{NAME}-metrics")


def test_its_state_lies_on_a_claim_of_its_own_or_on_yours() -> None:
    own = render(SERVER, region(state={"size": "5Gi"})).one("StatefulSet", NAME)["spec"]
    assert own["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] == "5Gi" and own["replicas"] == 1
    yours = render(SERVER, region(state={"existingClaim": "mine"})).one("StatefulSet", NAME)["spec"]
    assert "volumeClaimTemplates" not in yours
    assert {"name": "state", "persistentVolumeClaim": {"claimName": "mine"}} in yours["template"]["spec"]["volumes"]


def test_a_changed_region_yaml_restarts_it() -> None:
    sums = {
        render(SERVER, region(federation=name)).one("StatefulSet", NAME)["spec"]["template"]["metadata"]["annotations"][
            "checksum/config"
        ]
        for name in ("north", "south")
    }
    assert len(sums) == 2
