"""Locks, bills of materials and the audit of vulnerabilities, without asking an index or a database."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from tests.servers import ROOT

DIGEST = f"@sha256:{'0a' * 32}"


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(*names: str) -> set[str]:
    text = "\n".join((ROOT / "locks" / f"{name}.lock").read_text(encoding="utf-8") for name in names)
    return {plain(name) for name in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==", text, re.M)}


def required(extras: list[str]) -> tuple[set[str], set[str]]:
    """All that an installation with these extras takes here, by what the installed distributions say of themselves.

    And which of it is not installed, so that nobody knows what that requires.
    """
    waiting = [("fedafd", extra) for extra in ["", *extras]]
    seen, found, unknown = set(waiting), set[str](), set[str]()
    while waiting:
        name, extra = waiting.pop()
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            unknown.add(name)
            continue
        for text in requirements:
            requirement = Requirement(text)
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            found.add(plain(requirement.name))
            more = {(plain(requirement.name), each) for each in ["", *requirement.extras]} - seen
            seen |= more
            waiting += more
    return found - {"fedafd"}, unknown


def test_the_locks_are_those_of_pyproject_and_constraints() -> None:
    checked = subprocess.run(
        [sys.executable, "tools/lock.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_what_make_setup_installs_side_by_side_has_no_package_in_common() -> None:
    assert locked("torch") & locked("dev") == set()


@pytest.mark.parametrize(
    "extra", sorted(tool("list_requirements").project_of(ROOT / "pyproject.toml")["optional-dependencies"])
)
def test_an_extra_can_be_installed_from_one_lock(extra: str) -> None:
    lists, lock = tool("list_requirements"), tool("lock")
    wanted = lists.requirements(lists.project_of(ROOT / "pyproject.toml"), [extra])
    names = {plain(Requirement(each).name) for each in wanted}
    assert any(names <= locked("torch", each, lock._BESIDE.get(each, each)) for each in lock.LOCKS)


@pytest.mark.parametrize("lock", ["services", "distiller", "agent", "dev", "vision"])
def test_a_lock_holds_all_that_its_extras_take(lock: str) -> None:
    extras, beside = tool("lock").LOCKS[lock], tool("lock")._BESIDE.get(lock, lock)
    wanted, unknown = required(extras)
    assert wanted - locked("torch", lock, beside) == set()
    if unknown:
        pytest.skip(f"all but what these require, which are not installed here: {', '.join(sorted(unknown))}")


@pytest.mark.parametrize("image", ["distiller", "agent"])
def test_an_image_that_trains_has_what_adapters_and_encoders_of_timm_need(image: str) -> None:
    lock, locks = tool("lock"), tool("write_sbom").IMAGES[image]
    assert {"lora", "vision"} <= set(lock.LOCKS[image]), "an image cannot be given an extra while it runs"
    assert {"peft", "accelerate", "timm", "torchvision", "torch"} <= locked(*locks)


def test_a_lock_of_an_older_pin_or_without_a_requirement_or_a_hash_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tool("lock")
    (tmp_path / "locks").mkdir()
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["kept>=1", "lost"]\n'
        '[project.optional-dependencies]\nall = []\nforgotten = ["rare"]\n'
    )
    (tmp_path / "constraints.txt").write_text("kept==2\n")
    (tmp_path / "locks/torch.lock").write_text("torch==1 \\\n    --hash=sha256:aa\n")
    (tmp_path / "locks/one.lock").write_text("kept==1 \\\n    --hash=sha256:aa\nbare==1\n")
    monkeypatch.setattr(lock, "ROOT", tmp_path)
    monkeypatch.setattr(lock, "LOCKS", {"one": ["all"]})
    told = "\n".join(lock._problems())
    assert "kept 1, and constraints.txt has 2" in told
    assert "bare has no hash" in told
    assert "lacks lost" in told
    assert "no lock holds the extra forgotten" in told and "extra all" not in told


@pytest.mark.parametrize(
    ("known", "told", "vulnerable"),
    [
        ("no route to the database", "NOT CHECKED: no route", 0),
        ([{"name": "a", "skip_reason": "not found"}], "NOT CHECKED", 0),
        ([{"name": "a", "version": "1", "vulns": []}], "1 of 1 distributions checked, 0 of them vulnerable", 0),
        (
            [
                {"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]},
                {"name": "b", "skip_reason": "?"},
            ],
            "a 1: X-1, mended in 2",
            1,
        ),
    ],
)
def test_an_audit_says_what_was_not_checked(known: Any, told: str, vulnerable: int) -> None:
    text, number = tool("audit").summary(known)
    assert told in text
    assert number == vulnerable


def test_the_provenance_names_the_commit_and_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GO_IMAGE", f"golang:1.26-bookworm{DIGEST}")
    made = tmp_path / "fedafd-1.whl"
    made.write_bytes(b"wheel")
    statement = tool("write_sbom").provenance([made])
    [subject] = statement["subject"]
    assert (subject["name"], subject["digest"]["sha256"]) == (made.name, hashlib.sha256(b"wheel").hexdigest())
    inputs = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert re.fullmatch("[0-9a-f]{40}", inputs[0]["digest"]["gitCommit"])
    locks = {f"locks/{path.name}" for path in (ROOT / "locks").glob("*.lock")}
    assert locks | {f"docker://golang:1.26-bookworm{DIGEST}"} == {each["uri"] for each in inputs[1:]}


def test_a_release_refuses_each_image_of_others_that_a_tag_alone_names() -> None:
    here = tool("base_images")
    variables = {image.variable: image.name for image in here.images(ROOT, {}) if image.variable}
    assert {"PYTHON_IMAGE", "FEDAFD_POSTGRES_IMAGE", "FEDAFD_GRAFANA_IMAGE"} < set(variables)
    assert not [image for image in here.images(ROOT, {}) if image.is_by_digest]
    named = {variable: f"{name}{DIGEST}" for variable, name in variables.items()}
    assert all(image.is_by_digest for image in here.images(ROOT, named) if image.variable)
    for missing in variables:
        given = named | {missing: f"{variables[missing]}@sha256:short"}
        told = subprocess.run(
            [sys.executable, "tools/base_images.py", "--by-digest"],
            cwd=ROOT, env=os.environ | given, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (told.returncode, set(re.findall(r"set (\w+)=", told.stderr))) == (1, {missing})


def test_every_image_of_others_can_be_named_by_digest() -> None:
    listed = {(image.file, image.name) for image in tool("base_images").images(ROOT, {})}
    for file in (ROOT / "Dockerfile", *(ROOT / "deploy").glob("*/Dockerfile")):
        text = file.read_text(encoding="utf-8")
        stages = {"scratch", *re.findall(r"^FROM .+ AS (\S+)$", text, re.M)}
        for base in re.findall(r"^FROM (\S+)", text, re.M):
            assert base in stages or re.search(rf"^ARG {base[1:]}=\S+$", text, re.M), (file, base)
    for file in (ROOT / "docker-compose.yml", *(ROOT / "deploy/compose").glob("*.yml")):
        for image in re.findall(r"^\s+image: (.+)", file.read_text(encoding="utf-8"), re.M):
            ours = image.startswith("fedafd/")
            assert ours or image.startswith("${"), f"{file}: {image} has no variable"
    assert {file for file, _ in listed} >= {"docker-compose.yml", "deploy/minio/Dockerfile", "helm/fedafd/values.yaml"}
