"""What the Compose files promise, read from the files: no Docker engine is needed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings
from tests.servers import ROOT

from fedafd.agent.settings import AgentSettings
from fedafd.aggregator import server as aggregator_server
from fedafd.aggregator.settings import AggregatorSettings
from fedafd.cli import up
from fedafd.control_plane.settings import ControlPlaneSettings
from fedafd.distiller import shutdown as distiller_shutdown
from fedafd.distiller.queries.settings import QueriesSettings
from fedafd.distiller.settings import DistillerSettings
from fedafd.domain.config import read_agent_config, read_federation_config
from fedafd.region.settings import RegionSettings

# In an order in which all of them work together.
OVERLAYS = ("gpu", "observability", "oidc", "region", "tls", "scale", "scale-tls")
TOGETHER = [(), *((name,) for name in OVERLAYS if name != "scale-tls"), ("tls", "scale", "scale-tls"), OVERLAYS]
JOBS = {"migrate", "store-keys", "federation", "invite-images", "invite-texts", "invite-pairs"}
AGENTS = {"agent-images", "agent-texts", "agent-pairs"}
SETTINGS: dict[str, type[BaseSettings]] = {
    "CONTROL_PLANE": ControlPlaneSettings,
    "AGGREGATOR": AggregatorSettings,
    "DISTILLER": DistillerSettings,
    "QUERIES": QueriesSettings,
    "AGENT": AgentSettings,
    "REGION": RegionSettings,
}


class _Loader(yaml.SafeLoader):
    """YAML with Compose's tags."""


def _sequence(loader: _Loader, node: yaml.SequenceNode) -> list[Any]:
    return list(loader.construct_sequence(node))


_Loader.add_constructor("!override", _sequence)
_Loader.add_constructor("!reset", _sequence)


def read(path: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.load((ROOT / path).read_text(encoding="utf-8"), _Loader)
    return content


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read("docker-compose.yml")["services"]
    return found


def test_every_service_is_confined_and_limited(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        limits = service["deploy"]["resources"]["limits"]
        assert {"cpus", "memory", "pids"} <= set(limits), name
        assert service["restart"] == ("no" if name in JOBS else "unless-stopped"), name


def test_an_agent_meets_the_aggregator_only(services: dict[str, dict[str, Any]]) -> None:
    for agent in AGENTS:
        networks = set(services[agent]["networks"])
        met = {name for name, service in services.items() if networks & set(service["networks"])}
        assert met == {agent, "aggregator"}


def test_only_the_database_users_are_on_its_network(services: dict[str, dict[str, Any]]) -> None:
    on = {name for name, service in services.items() if "database" in service["networks"]}
    assert on == {"postgres", "migrate", "control-plane", "aggregator"}


def test_nothing_is_published_but_rest_on_this_machine(services: dict[str, dict[str, Any]]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert list(published) == ["control-plane"]
    assert all(port.startswith("127.0.0.1:") for port in published["control-plane"])


@pytest.mark.parametrize(
    ("name", "hard_end", "settings"),
    [
        ("distiller", distiller_shutdown.HARD_END_SECONDS, DistillerSettings),
        ("aggregator", aggregator_server.HARD_END_SECONDS, AggregatorSettings),
    ],
)
def test_a_process_ends_itself_before_the_engine_ends_it(
    services: dict[str, dict[str, Any]], name: str, hard_end: float, settings: type[BaseSettings]
) -> None:
    """Its grace and what a hanging dependency may cost after it, against `stop_grace_period`; of `fedafd up`, too."""
    variable = f"FEDAFD_{name.upper()}_SHUTDOWN_GRACE_SECONDS"
    overlays = (read(f"deploy/compose/{overlay}.yml")["services"].get(name, {}) for overlay in OVERLAYS)
    for service in (services[name], *(overlay for overlay in overlays if "stop_grace_period" in overlay)):
        grace = float(
            service.get("environment", {}).get(variable, settings.model_fields["shutdown_grace_seconds"].default)
        )
        assert grace + hard_end < float(service["stop_grace_period"].removesuffix("s"))
    assert settings.model_fields["shutdown_grace_seconds"].default + hard_end < up.GRACE_SECONDS


def test_what_is_waited_for_is_healthy_or_done(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if needed in JOBS else "service_healthy"
            assert how == {"condition": wanted}, f"{name} waits for {needed}"


def test_a_secret_goes_to_those_who_need_it(services: dict[str, dict[str, Any]]) -> None:
    holders: dict[str, set[str]] = {}
    for name, service in services.items():
        for secret in service.get("secrets", []):
            holders.setdefault(secret if isinstance(secret, str) else secret["source"], set()).add(name)
    assert holders["database_url"] == {"migrate", "control-plane", "aggregator"}
    assert holders["minio_root_password"] == {"minio", "store-keys"}
    for process in ("control-plane", "aggregator", "distiller", "queries"):
        assert holders[f"store_key_{process.replace('-', '_')}"] == {process, "store-keys"}
    assert holders["internal_token"] == {"aggregator", "distiller"}
    assert not any(name in AGENTS for names in holders.values() for name in names)


def test_nothing_turns_tls_off_and_distillers_dial_the_listener_for_them(services: dict[str, dict[str, Any]]) -> None:
    files = [read("docker-compose.yml"), *(read(f"deploy/compose/{name}.yml") for name in OVERLAYS)]
    for file in files:
        for name, service in file["services"].items():
            given = service.get("environment", {})
            assert not [key for key in given if key.endswith("_PLAINTEXT")], name
            if "FEDAFD_DISTILLER_AGGREGATOR" in given:
                assert given["FEDAFD_DISTILLER_AGGREGATOR"].endswith(":7444"), name
            assert not [key for key in given if key.startswith("FEDAFD_DISTILLER_TLS")], "the internal token is enough"
    assert services["aggregator"]["environment"]["FEDAFD_AGGREGATOR_INTERNAL_LISTEN"].endswith(":7444")


def test_every_deployment_takes_agents_with_a_key_of_their_own_alone(services: dict[str, dict[str, Any]]) -> None:
    name = "REQUIRE_CLIENT_KEYS"
    assert SETTINGS["AGGREGATOR"].model_fields[name.lower()].default is True
    assert services["aggregator"]["environment"][f"FEDAFD_AGGREGATOR_{name}"] == f"${{FEDAFD_{name}:-true}}"
    shipped = [*(ROOT / "helm").rglob("*.yaml"), *(ROOT / "deploy").rglob("*"), *(ROOT / "services").rglob("*.py")]
    others = [path for path in shipped if path.is_file() and f"AGGREGATOR_{name}" in path.read_text(errors="replace")]
    assert others == []


@pytest.mark.parametrize("invitation", sorted(JOBS - {"migrate", "store-keys", "federation"}))
def test_who_invites_waits_for_the_authority_that_tokens_name(
    services: dict[str, dict[str, Any]], invitation: str
) -> None:
    assert "aggregator" in services[invitation]["depends_on"]


@pytest.mark.parametrize("path", ["docker-compose.yml", *(f"deploy/compose/{name}.yml" for name in OVERLAYS)])
def test_no_password_stands_in_a_file(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assigned = re.findall(r"\b[A-Z_]*(?:PASSWORD|TOKEN|SECRET|_KEY)[A-Z_]*: (\S+)", text)
    assert all(value.startswith(("/run/", "fedafd-", "${FEDAFD_REQUIRE_CLIENT_KEYS:-")) for value in assigned), assigned


@pytest.mark.parametrize("path", ["docker-compose.yml", *(f"deploy/compose/{name}.yml" for name in OVERLAYS)])
def test_every_variable_is_a_setting(path: str) -> None:
    for name in re.findall(
        r"\bFEDAFD_(?:CONTROL_PLANE|AGGREGATOR|DISTILLER|QUERIES|AGENT|REGION)_\w+(?=: )", (ROOT / path).read_text()
    ):
        process = next(each for each in SETTINGS if name.startswith(f"FEDAFD_{each}_"))
        key = name.removeprefix(f"FEDAFD_{process}_").split("__")[0].lower()
        assert key in SETTINGS[process].model_fields, name


def test_the_proxy_that_ends_tls_alone_is_believed_where_requests_are_from() -> None:
    file = read("deploy/compose/tls.yml")
    (address,) = re.findall(r":-([0-9.]+)\}", file["services"]["rest-tls"]["networks"]["rest"]["ipv4_address"])
    trusted = file["services"]["control-plane"]["environment"]["FEDAFD_CONTROL_PLANE_TRUSTED_PROXIES"]
    assert re.findall(r":-([0-9.]+)\}\}$", trusted) == [address]
    (subnet,) = (each["subnet"] for each in file["networks"]["rest"]["ipam"]["config"])
    ours = ip_network(re.findall(r":-(.+)\}", subnet)[0])
    assert ip_address(address) in ours
    # Where Docker takes the networks from that no file gives addresses to.
    assert not any(ours.overlaps(ip_network(pool)) for pool in ("172.16.0.0/12", "192.168.0.0/16"))
    proxy = (ROOT / "deploy/proxy/rest-tls.cfg").read_text(encoding="utf-8")
    # Set, not added: what a caller wrote there before counts nothing.
    assert "http-request set-header X-Forwarded-For %[src]" in proxy
    assert "http-request set-header X-Forwarded-Proto https" in proxy


def test_the_sites_and_the_federation_are_valid() -> None:
    for folder in ("deploy/compose", "tests/compose/stack"):
        assert read_federation_config(ROOT / folder / "federation.yaml").name == "local"
        for name, kind in (("images", "image"), ("texts", "text"), ("pairs", "pair")):
            assert read_agent_config(ROOT / folder / "sites" / f"{name}.yaml").kind.value == kind


def test_images_take_nothing_that_no_lock_holds() -> None:
    recipe = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert set(re.findall(r"install-requirements.sh ([a-z ]+)", recipe)) == {"services", "agent", "distiller"}
    for line in re.findall(r"^.*pip install.*$|^.*\$install .*$", recipe, re.M):
        # From a lock with hashes, from a wheel that this build made, or torch from an index that the operator named.
        assert "--require-hashes" in line or "--no-index" in line or "$TORCH_INDEX_URL" in line or "install=" in line, (
            line
        )
    script = (ROOT / "deploy/install-requirements.sh").read_text(encoding="utf-8")
    assert "--require-hashes --requirement" in script


@pytest.mark.parametrize(
    ("index", "taken"), [("", {"first", "torchvision", "last"}), ("https://torch.example/cpu", {"first", "last"})]
)
def test_an_image_takes_torchvision_from_where_its_torch_comes(index: str, taken: set[str], tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    entries = [_wheel(tmp_path, name) for name in ("first", "torchvision", "last")]
    (tmp_path / "locks/agent.lock").write_text("# A comment.\n" + "\n".join(entries) + "\n")
    script = shutil.copy(ROOT / "deploy/install-requirements.sh", tmp_path)
    own = {"TORCH_INDEX_URL": index, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "TMPDIR": str(tmp_path)}
    own |= {"PIP_TARGET": str(tmp_path / "site"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run([script, "agent"], env=os.environ | own, check=True, capture_output=True)
    assert {path.name.partition("-")[0] for path in (tmp_path / "site").glob("*.dist-info")} == taken
    # What an index of one's own gives instead, in the same layer as its torch.
    recipe = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (pattern,) = re.findall(r"grep -E '(.+)' /constraints.txt > /torch.txt", recipe)
    pins = re.findall(rf"{pattern}.*", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert len(pins) == 2


def _wheel(folder: Path, name: str) -> str:
    """An empty distribution, and its lines in a lock, the last of two hashes being its own."""
    path = folder / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in (
            ("METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n"),
            ("WHEEL", "Wheel-Version: 1.0\nGenerator: fedafd\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            ("RECORD", ""),
        ):
            wheel.writestr(f"{name}-1.dist-info/{file}", text)
    own = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{name}==1 \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{own}"


def test_all_images_that_are_ours_are_built_by_one_target() -> None:
    told = subprocess.run(["make", "--dry-run", "images"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    built = re.findall(r"(?<=-f )\S+\.yml", told)
    assert "docker-compose.yml" in built
    # The overlay for GPUs has images with CUDA, which TORCH_INDEX_URL makes of the same recipes.
    all_of_them = {image for name in OVERLAYS if name != "gpu" for image in _own_images(f"deploy/compose/{name}.yml")}
    assert "proxy" in all_of_them
    all_of_them |= _own_images("docker-compose.yml")
    assert set().union(*map(_own_images, built)) == all_of_them


def _own_images(path: str) -> set[str]:
    """Of the services of a Compose file, those that this project builds."""
    images = [service.get("image", "") for service in read(path)["services"].values()]
    return {image.partition("/")[2].partition(":")[0] for image in images if image.startswith("fedafd/")}


def test_secrets_are_made_once_and_kept(tmp_path: Path) -> None:
    def make() -> dict[str, str]:
        subprocess.run(["deploy/make-secrets.sh", str(tmp_path / "s")], cwd=ROOT, check=True, capture_output=True)
        return {path.name: path.read_text() for path in (tmp_path / "s").iterdir()}

    first = make()
    assert first == make()
    assert first.pop("oidc_client_secret") == "", "an operator's to write"
    own = {name: text for name, text in first.items() if name not in ("database_url", "redis_url", "redis_auth.conf")}
    assert len(set(own.values())) == len(own)
    assert all(len(text.strip()) >= 64 for text in own.values())
    assert first["postgres_password"].strip() in first["database_url"]
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
    declared = read("docker-compose.yml")["secrets"] | {"grafana_password": None}
    assert set(declared) == set(first)
    assert set(read("deploy/compose/oidc.yml")["secrets"]) == {"oidc_client_secret"}
    (tmp_path / "s" / "oidc_client_secret").chmod(0o600)
    (tmp_path / "s" / "oidc_client_secret").write_text("the provider's")
    assert make()["oidc_client_secret"] == "the provider's"


def _compose() -> bool:
    try:
        return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not _compose(), reason="Docker Compose is not installed")
@pytest.mark.parametrize("overlays", TOGETHER)
def test_compose_takes_the_files(overlays: tuple[str, ...]) -> None:
    files = ["docker-compose.yml", *(f"deploy/compose/{name}.yml" for name in overlays)]
    command = [
        "docker",
        "compose",
        *(word for file in files for word in ("--file", file)),
        "config",
        "--format",
        "json",
    ]
    environment = os.environ | {
        "FEDAFD_SECRETS": "./s",
        "FEDAFD_TLS": "./t",
        "FEDAFD_REGION_FILE": "./region.yaml",
        "FEDAFD_REGION_TOKEN": "./token",
        "FEDAFD_OIDC_ROLES": '{"staff": "viewer"}',
    }
    environment |= {"FEDAFD_OIDC_ISSUER": "https://login.example", "FEDAFD_OIDC_PUBLIC_URL": "https://fed.example"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "not set" not in done.stderr, done.stderr
    for name, service in json.loads(done.stdout)["services"].items():
        # A port of this machine leads to one container.
        assert not service.get("ports") or service.get("deploy", {}).get("replicas", 1) == 1, name


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_certificates_are_made_anew_by_the_same_authority(tmp_path: Path) -> None:
    def make() -> dict[str, str]:
        subprocess.run(["deploy/make-certificates.sh", str(tmp_path / "t")], cwd=ROOT, check=True, capture_output=True)
        return {path.name: path.read_text() for path in (tmp_path / "t").iterdir()}

    first, second = make(), make()
    assert set(read("deploy/compose/tls.yml")["secrets"]) <= set(first)
    assert first["tls_authority.pem"] == second["tls_authority.pem"]
    assert first["tls_aggregator.crt"] != second["tls_aggregator.crt"]
    verify = ["openssl", "verify", "-CAfile", "tls_authority.pem", "-verify_hostname"]
    names = [("tls_aggregator.crt", "aggregator"), ("tls_aggregator.crt", "grpc"), ("tls_rest.crt", "localhost")]
    for name, host in names:
        done = subprocess.run([*verify, host, name], cwd=tmp_path / "t", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "t" / "authority.key").stat().st_mode & 0o777 == 0o400
