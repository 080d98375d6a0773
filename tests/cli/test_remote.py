"""The commands against a real control plane: what people see, what scripts get, and which exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.remote import KEY, ControlPlane, Run
from tests.servers import ROOT, wait_until

from fedafd.domain.states import RoundState


def as_json(answer: tuple[int, str, str]) -> Any:
    assert answer[0] == 0, answer
    return json.loads(answer[1])


def push(run: Run) -> tuple[int, str, str]:
    options = '{"num_train": 8, "num_val": 4, "num_test": 4}'
    return run("public-set", "push", "--adapter", "shapes", "--options", options)


def test_a_federation_is_made_shown_and_configured(run: Run, federation: Path) -> None:
    assert run("federation", "create", "-f", str(federation)) == (
        6,
        "",
        "error: federation trial: exists already; choose another name\n",
    )
    assert "trial" in run("federation", "list")[1]
    assert "embedding_dim" in run("federation", "show")[1]
    assert as_json(run("federation", "show", "trial", "--json"))["name"] == "trial"
    before = as_json(run("federation", "show", "--json"))["config_version"]
    federation.write_text(f"name: trial\npreset: small\nseed: {before + 40}\n")
    for number in [r["number"] for r in as_json(run("round", "list", "--json")) if r["state"] == "queued"]:
        run("round", "cancel", str(number))
    assert f"version {before + 1}" in run("federation", "configure", "-f", str(federation))[1]


def test_a_federation_is_deleted_by_its_name_alone_and_says_what_goes(
    run: Run, federation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = federation.with_name("doomed.yaml")
    file.write_text("name: doomed\npreset: small\n")
    run("federation", "create", "-f", str(file))
    monkeypatch.setattr("sys.stdin", io.StringIO("domed\n"))
    code, out, said = run("federation", "delete", "doomed")
    assert (code, out) == (2, "")
    assert "deletes federation doomed for ever: 0 sites, 0 rounds" in said
    assert said.endswith("error: federation doomed: is not deleted\n")
    assert run("client", "revoke", "..", "-F", "doomed")[::2] == (2, "error: client '..': is no name; give its name\n")
    assert run("federation", "show", "doomed")[0] == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("doomed\n"))
    assert run("federation", "delete", "doomed")[:2] == (0, "federation doomed deleted\n")
    assert run("federation", "delete", "doomed", "--yes")[0] == 5


def test_status_says_what_is_missing_and_what_to_do(run: Run, federation: Path) -> None:
    code, out, _ = run("status")
    assert code == 1
    assert out.startswith("TROUBLE no aggregator is running")
    assert "start one: `fedafd aggregator`" in out
    code, out, _ = run("status", "--json")
    assert (code, json.loads(out)["level"]) == (1, "trouble")


def test_a_wrong_file_is_a_wrong_usage(run: Run, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("name: trial\npassess: 3\n")
    code, _, said = run("federation", "create", "-f", str(tmp_path / "wrong.yaml"))
    assert (code, "passess: unknown key" in said, said.count("\n")) == (2, True, 1)
    code, _, said = run("public-set", "push", "--adapter", "shapes", "--options", "{")
    assert (code, "--options: is not JSON" in said) == (2, True)


def test_a_token_goes_to_standard_output_alone(run: Run, federation: Path) -> None:
    code, out, said = run("client", "invite", "north", "--kind", "image")
    assert (code, out.startswith("fedafd-enrol."), out.count("\n")) == (0, True, 1)
    assert "fedafd agent run" in said
    again = as_json(run("client", "invite", "north", "--again", "--json"))
    assert again["enrolment_token"] != out.strip()
    assert run("client", "invite", "north")[0] == 2
    assert "invited" in run("client", "list")[1]
    assert as_json(run("client", "show", "north", "--json"))["state"] == "invited"
    assert run("client", "forget", "north", "--yes", "--no-wait")[:2] == (0, "what client north sent will be deleted\n")
    assert as_json(run("client", "forget", "north", "--yes", "--no-wait", "--json"))["receipt"] is None
    assert run("client", "forget", "nobody", "--yes")[0] == 5
    assert run("client", "revoke", "north")[:2] == (0, "client north is revoked\n")
    assert [c["state"] for c in as_json(run("client", "list", "--json"))] == ["revoked"]


def test_keys_open_what_their_role_allows(run: Run, federation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, secret, _ = run("key", "create", "board", "--role", "viewer", "--days", "3")
    assert (code, secret.count("\n")) == (0, 1)
    assert "active" in run("key", "list")[1]
    monkeypatch.setenv("FEDAFD_API_KEY", secret.strip())
    assert run("client", "list")[0] == 0
    code, _, said = run("round", "start")
    assert (code, said) == (4, "error: this needs an API key of role operator or higher; yours is viewer\n")
    monkeypatch.setenv("FEDAFD_API_KEY", KEY)
    assert run("key", "revoke", "board")[0] == 0


def test_a_key_of_one_federation_is_told_of_no_other(
    run: Run, federation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, secret, said = run("key", "create", "of-trial", "--role", "operator", "-F", "trial")
    assert (code, "as operator in trial until it is revoked" in said) == (0, True)
    assert "of-trial  operator  trial" in run("key", "list")[1]
    assert run("key", "create", "of-none", "--role", "viewer", "-F", "nowhere")[0] == 5
    monkeypatch.setenv("FEDAFD_API_KEY", secret.strip())
    assert run("client", "list")[0] == 0
    code, _, said = run("federation", "create", "-f", str(federation))
    assert (code, said.startswith("error: this needs an API key for all federations")) == (4, True)


def test_a_rotated_key_has_another_secret_and_the_old_one_is_refused(
    run: Run, federation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, old, _ = run("key", "create", "turned", "--role", "viewer")
    assert "the old key is good until" in run("key", "rotate", "turned", "--overlap-hours", "2")[2]
    assert "used never" in run("key", "list")[1]
    monkeypatch.setenv("FEDAFD_API_KEY", old.strip())
    assert run("federation", "list")[0] == 0
    monkeypatch.setenv("FEDAFD_API_KEY", KEY)
    code, new, said = run("key", "rotate", "turned", "--days", "9")
    assert (code, new != old, "may act as viewer until" in said) == (0, True, True)
    for name, refused in ((KEY, "is the one"), (new.strip(), "role admin")):
        monkeypatch.setenv("FEDAFD_API_KEY", name)
        assert refused in run("key", "rotate", "admin")[2]
    monkeypatch.setenv("FEDAFD_API_KEY", old.strip())
    assert run("client", "list")[0] == 4
    monkeypatch.setenv("FEDAFD_API_KEY", KEY)
    run("key", "revoke", "turned")
    assert (run("key", "rotate", "turned")[0], run("key", "rotate", "nobodys")[0]) == (6, 5)


def test_what_export_prints_configure_takes_and_diff_tells_what_would_change(
    run: Run, federation: Path, tmp_path: Path
) -> None:
    for number in [r["number"] for r in as_json(run("round", "list", "--json")) if r["state"] == "queued"]:
        run("round", "cancel", str(number))
    before = as_json(run("federation", "show", "--json"))
    exported = tmp_path / "exported.yaml"
    exported.write_text(run("federation", "export")[1])
    assert run("federation", "diff", "-f", str(exported)) == (0, f"{exported} says what holds for trial\n", "")
    assert run("federation", "configure", "-f", str(exported))[0] == 0
    assert as_json(run("federation", "show", "--json")) == before
    exported.write_text(yaml.safe_dump(yaml.safe_load(exported.read_text()) | {"round_deadline_seconds": 77}))
    code, out, _ = run("federation", "diff", "-f", str(exported), "-o", "json")
    now = before["config"]["round_deadline_seconds"]
    assert (code, json.loads(out)) == (1, [{"key": "round_deadline_seconds", "now": now, "then": 77.0}])


def test_an_answer_is_a_table_json_or_yaml(run: Run, federation: Path) -> None:
    short, long = run("federation", "list", "--json")[1], run("federation", "list", "--output", "json")[1]
    assert json.loads(short) == json.loads(long) == yaml.safe_load(run("federation", "list", "-o", "yaml")[1])
    assert run("federation", "list", "-o", "xml")[0] == 2
    run("client", "invite", "in-yaml", "--kind", "text")
    (event,) = yaml.safe_load_all(run("events", "--last", "1", "-o", "yaml")[1])
    assert (event["kind"], event["data"]) == ("client.invited", {"client": "in-yaml"})


@pytest.mark.parametrize("words", [(), ("round",), ("round", "list"), ("model", "show"), ("status",)])
def test_each_command_explains_itself_after_h(run: Run, words: tuple[str, ...]) -> None:
    code, out, _ = run(*words, "-h")
    assert (code, "Usage:" in out) == (0, True)


def test_a_profile_says_where_to_as_whom_and_which_federation(
    run: Run, federation: Path, control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDAFD_CONFIG", str(tmp_path / "conf" / "config.yaml"))
    (tmp_path / "key").write_text(KEY)
    given = ("--url", control_plane.url, "--api-key-file", str(tmp_path / "key"), "-F", "trial")
    assert "and the default" in run("profile", "set", "here", *given)[1]
    assert run("profile", "set", "away", "--url", "http://127.0.0.1:1", "--api-key-file", str(tmp_path / "key"))[0] == 0
    assert (tmp_path / "conf" / "config.yaml").stat().st_mode & 0o077 == 0
    for name in ("FEDAFD_URL", "FEDAFD_API_KEY", "FEDAFD_FEDERATION"):
        monkeypatch.delenv(name)
    assert run("client", "list")[0] == 0
    assert run("--profile", "away", "federation", "list")[0] == 3
    monkeypatch.setenv("FEDAFD_API_KEY", "of another control plane")
    assert run("--profile", "here", "client", "list")[0] == 0
    monkeypatch.delenv("FEDAFD_API_KEY_FILE", raising=False)
    monkeypatch.setenv("FEDAFD_URL", "http://127.0.0.1:1")
    code, _, said = run("client", "list", "-F", "trial")
    assert (code, "no API key" in said) == (2, True), "the default profile counts as a whole or not at all"
    assert "there are here, away" in run("--profile", "nowhere", "status")[2]
    assert [p["name"] for p in as_json(run("profile", "list", "--json"))] == ["here", "away"]
    assert run("profile", "remove", "here")[0] == 0
    assert run("profile", "remove", "here")[0] == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("profiles: {a: {key: secret}}", "profiles.a: key: unknown key"),
        ("profiles: [a]", "profiles: must hold keys"),
        ("default: b", "there is no profile 'b'"),
        ("profiles: {a: {url: 3}}", "a.url: must be a text"),
        ("a: [", "not valid YAML"),
    ],
)
def test_mistakes_in_the_profiles_file_are_named(
    text: str, told: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    monkeypatch.setenv("FEDAFD_CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.delenv("FEDAFD_URL")
    monkeypatch.delenv("FEDAFD_API_KEY")
    code, _, said = run("client", "list")
    assert (code, told in said, said.count("\n")) == (2, True, 1), said


def test_a_key_may_come_from_a_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    monkeypatch.setenv("FEDAFD_API_KEY", "")
    monkeypatch.setenv("FEDAFD_API_KEY_FILE", str(tmp_path / "key"))
    assert run("federation", "list")[0] == 0
    monkeypatch.setenv("FEDAFD_API_KEY_FILE", str(tmp_path / "none"))
    assert run("federation", "list")[0] == 2


@pytest.mark.parametrize(
    ("variable", "value", "code", "words"),
    [
        ("FEDAFD_URL", "http://127.0.0.1:1", 3, "cannot be reached"),
        ("FEDAFD_URL", "127.0.0.1", 2, "must start with http"),
        ("FEDAFD_API_KEY", "wrong", 4, "not known"),
        ("FEDAFD_API_KEY", "", 2, "no API key"),
        ("FEDAFD_API_KEY", "schlüssel", 2, "copied whole"),
        ("FEDAFD_FEDERATION", "nowhere", 5, "nowhere"),
    ],
)
def test_what_is_wrong_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, code: int, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    found, out, said = run("client", "list")
    assert (found, out, said.count("\n")) == (code, "", 1)
    assert words in said


def test_something_else_on_the_port_is_recognised(
    run: Run, monkeypatch: pytest.MonkeyPatch, control_plane: ControlPlane
) -> None:
    monkeypatch.setenv("FEDAFD_URL", f"{control_plane.url}/docs")
    assert run("federation", "list")[0] == 5


def test_rounds_are_started_listed_and_cancelled(run: Run, federation: Path) -> None:
    assert "public set of trial: 8 train" in push(run)[1]
    assert as_json(run("public-set", "show", "--json"))["num_samples"]["train"] == 8
    numbers = as_json(run("round", "start", "--rounds", "2", "--json"))["numbers"]
    assert "queued" in run("round", "list")[1]
    for number in numbers:
        assert run("round", "cancel", str(number))[1] == f"round {number} is cancelled\n"
        assert "cancelled by admin" in run("round", "show", str(number))[1]
    assert run("round", "cancel", str(numbers[0]))[0] == 6
    assert run("round", "watch", str(numbers[0]))[0] == 1
    assert run("round", "show", "999")[0] == 5
    assert "round.state_changed" in run("events", "--last", "2")[1]
    assert json.loads(run("events", "--json", "--last", "1")[1])["data"]["new"] == "cancelled"


def test_a_model_that_is_not_there_leaves_no_folder(run: Run, federation: Path, tmp_path: Path) -> None:
    assert run("model", "list")[1] == "no model version yet\n"
    code, _, said = run("model", "pull", str(tmp_path / "model"))
    assert (code, "no model version yet" in said, (tmp_path / "model").exists()) == (5, True, False)
    code, _, said = run("model", "pull", str(tmp_path))
    assert (code, "not empty" in said) == (2, True)


def test_watching_goes_on_over_a_restart_of_the_server(
    run: Run, federation: Path, control_plane: ControlPlane, environment: dict[str, str]
) -> None:
    push(run)
    run("client", "invite", "late", "--kind", "image")
    (before,) = as_json(run("round", "start", "--json"))["numbers"]
    run("round", "cancel", str(before))
    first, second = as_json(run("round", "start", "--rounds", "2", "--json"))["numbers"]
    command = [sys.executable, "-m", "fedafd.cli.main", "round", "watch"]
    watching = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    assert watching.stdout.readline() == f"round {first} (1 of 2): queued\n"
    assert "no aggregator is running" in watching.stdout.readline()
    control_plane.stop()
    time.sleep(1)
    control_plane.finish_round(first, RoundState.COMPLETED, dropped="late")
    control_plane.start()
    control_plane.finish_round(second, RoundState.FAILED)
    rest, _ = watching.communicate(timeout=90)
    assert re.search(rf"round {first} \(1 of 2\) in [0-9]+ s: server rsum 10.0", rest)
    assert "delivered: none; dropped: late (the round's deadline passed)" in rest
    assert watching.returncode == 1
    shown = run("round", "show", str(first))[1]
    assert "delivered: none; dropped: late (the round's deadline passed)" in shown
    assert re.search(r"late +image +dropped +\d+ s", shown)
    history = as_json(run("client", "history", "late", "--json"))
    assert [(part["round"], part["state"], part["round_state"]) for part in history] == [
        (first, "dropped", "completed")
    ]
    assert "the round's deadline passed" in run("client", "history", "late")[1]
    assert run("client", "history", "nobody")[0] == 5


def test_following_events_shows_each_as_it_happens(run: Run, federation: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "fedafd.cli.main", "events", "--follow", "--last", "1", "--json"]
    following = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
    assert following.stdout is not None
    following.stdout.readline()
    run("client", "invite", "followed", "--kind", "text")
    event = json.loads(following.stdout.readline())
    assert (event["kind"], event["data"]) == ("client.invited", {"client": "followed"})
    following.terminate()
    following.wait(30)


def test_the_examples_script_runs_a_round_and_keeps_a_line_of_it(
    run: Run, federation: Path, control_plane: ControlPlane, environment: dict[str, str], tmp_path: Path
) -> None:
    push(run)
    table, script = tmp_path / "rounds.csv", ROOT / "examples" / "python_client" / "run_rounds.py"
    for state in (RoundState.COMPLETED, RoundState.FAILED):
        before = {each["number"] for each in as_json(run("round", "list", "--json"))}
        command = [sys.executable, str(script), str(table)]
        running = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE, text=True)
        new: set[int] = set()

        def started(new: set[int] = new, before: set[int] = before) -> bool:
            new |= {each["number"] for each in as_json(run("round", "list", "--json"))} - before
            return bool(new)

        wait_until(started, "a round", seconds=90)
        control_plane.finish_round(max(new), state)
        _, said = running.communicate(timeout=90)
        assert running.returncode == (0 if state is RoundState.COMPLETED else 1)
        assert ("a test" in said) == (state is RoundState.FAILED)
    with table.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["delivered"], row["server_rsum"]) == ("0", "10.0")
    assert float(row["seconds"]) >= 0


def test_the_audit_log_is_exported_and_tampering_with_it_is_found(
    run: Run, federation: Path, control_plane: ControlPlane, tmp_path: Path
) -> None:
    for number in range(3):
        run("client", "invite", f"audited-{number}", "--kind", "image")
    file = tmp_path / "audit.jsonl"
    code, said, _ = run("audit", "export", str(file))
    anchor = said.rpartition("anchor ")[2].strip()
    lines = file.read_text().splitlines()
    assert (code, anchor) == (0, "{id}:{hash}".format(**json.loads(lines[-1])))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert as_json(run("audit", "verify", "--anchor", anchor, "--json")) == {
        "intact": True,
        "entries": len(lines),
        "anchor": anchor,
        "misfit": None,
    }
    assert run("audit", "verify", str(file), "--url", "http://127.0.0.1:1") == (
        0,
        f"intact: {len(lines)} entries; anchor {anchor}\n",
        "",
    )
    file.write_text("\n".join(lines[:-1]) + "\n")
    code, said, _ = run("audit", "verify", str(file), "--anchor", anchor)
    assert (code, "its end was cut off" in said) == (1, True)
    file.write_text(lines[0] + "\n" + lines[1][:40])
    assert run("audit", "verify", str(file)) == (1, "", f"error: {file}, line 2: is no JSON; export the log anew\n")
    assert run("audit", "verify", "--anchor", "7")[0] == 1

    with closing(sqlite3.connect(control_plane.database_url.removeprefix("sqlite:///"))) as database, database:
        # As a replica of a version without the chain writes during an upgrade.
        old = "INSERT INTO events (at, kind, actor, data) VALUES ('2026-01-02 03:04:05', 'old.one', 'test', '{}')"
        database.execute(old)
    code, said, _ = run("audit", "export", str(tmp_path / "later.jsonl"))
    assert f"anchor {anchor}\n" in said
    assert "the last 1 have no hash yet: export again later" in said
    run("client", "invite", "audited-3", "--kind", "image")

    changed = json.loads(lines[-2])["id"]
    with closing(sqlite3.connect(control_plane.database_url.removeprefix("sqlite:///"))) as database, database:
        database.execute("UPDATE events SET actor = 'api-key:somebody-else' WHERE id = ?", (changed,))
    code, said, _ = run("audit", "verify")
    assert (code, said.startswith(f"NOT intact: entry {changed} (client.invited, ")) == (1, True)
