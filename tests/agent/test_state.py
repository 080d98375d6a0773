"""What an agent keeps survives crashes at any point and is never shared by two agents."""

from __future__ import annotations

import errno
import json
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.read_only_folder import read_only

from fedafd.agent.ledger import Ledger, format_sent, read_sent
from fedafd.agent.state import Credential, PendingResult, StateDirectory
from fedafd.domain.errors import ConfigurationError, ConflictError, DataError, StateUnusableError
from fedafd.domain.kinds import ParticipantKind, UploadPurpose
from fedafd.domain.whole_files import remove_leftover

CREDENTIAL = Credential(
    federation_id="f",
    client_id="c" * 32,
    client_name="clinic-a",
    kind=ParticipantKind.IMAGE,
    secret="fedafd-client.s3cret",
)


def _pending(state: StateDirectory, number: int = 1, content: bytes = b"state") -> PendingResult:
    return state.save_pending(
        round_id=f"id-{number}",
        round_number=number,
        task_key="key",
        metrics={"federated/acc1": 50.0},
        num_private_samples=7,
        state=content,
        blobs={UploadPurpose.REPRESENTATIONS: b"reps"},
    )


def test_credential_comes_back_and_only_its_user_can_read_it(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "site")
    assert state.load_credential() is None
    state.save_credential(CREDENTIAL)
    assert StateDirectory(tmp_path / "site").load_credential() == CREDENTIAL
    assert stat.S_IMODE((tmp_path / "site" / "credential.json").stat().st_mode) == 0o600
    assert "s3cret" not in repr(CREDENTIAL)


def test_damaged_credential_is_a_clear_error(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    (tmp_path / "credential.json").write_text('{"kind": "image"')
    with pytest.raises(ConfigurationError, match=r"credential.json.*enrol again"):
        state.load_credential()


@pytest.mark.parametrize("name", ["state/.1.part", "state/.1.part/shared.blob.folder", "models/1.part"])
def test_what_a_crash_left_on_a_file_system_that_is_read_only_now_is_told_as_that(tmp_path: Path, name: str) -> None:
    """Not as a file that exists: who outlasts a read-only folder would not know it by that."""
    leftover = tmp_path / name
    leftover.mkdir(parents=True)
    (leftover / "half").write_bytes(b"half")
    with read_only(tmp_path), pytest.raises(OSError) as raised:
        remove_leftover(leftover)
    assert raised.value.errno == errno.EROFS
    remove_leftover(leftover)
    assert not leftover.exists()
    remove_leftover(leftover)


def test_a_finished_training_is_kept_once_its_folder_can_be_written_again(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    leftover = tmp_path / "state" / ".1.part"
    leftover.mkdir(parents=True)
    (leftover / "half").write_bytes(b"half")
    with read_only(tmp_path), pytest.raises(OSError) as raised:
        _pending(state)
    assert raised.value.errno == errno.EROFS
    assert _pending(state).blobs()[UploadPurpose.REPRESENTATIONS].read_bytes() == b"reps"


def test_second_agent_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    first, second = StateDirectory(tmp_path), StateDirectory(tmp_path)
    first.lock()
    with pytest.raises(ConflictError, match="another agent is running"):
        second.lock()
    first.unlock()
    second.lock()
    second.unlock()


def test_pending_state_becomes_current_only_with_the_receipt(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    pending = _pending(state)
    assert state.current_state() is None
    assert state.load_pending() == pending
    assert {p: b.read_bytes() for p, b in pending.blobs().items()} == {UploadPurpose.REPRESENTATIONS: b"reps"}
    state.promote(pending)
    assert state.current_state() == (1, b"state")
    assert state.load_pending() is None
    second = _pending(state, 2, b"newer")
    assert state.current_state() == (1, b"state")
    state.promote(second)
    assert state.current_state() == (2, b"newer")
    third = _pending(state, 3, b"newest")
    state.promote(third)
    assert state.current_state() == (3, b"newest")
    # One older state stays, in case the newest is damaged.
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["round-2", "round-3"]
    # What was sent last stays as well, in case the store loses it.
    assert [path.parent.name for path in (tmp_path / "state").rglob("*.blob")] == ["round-3"]


def test_what_was_delivered_last_is_current_whatever_its_rounds_number(tmp_path: Path) -> None:
    """A federation that was restored from a backup, or made anew under its name, counts from an earlier number on; a
    hostile one says any number."""
    state = StateDirectory(tmp_path)
    for number in (11, 12, 2**31):
        state.promote(_pending(state, number, b"before"))
    for number in (1, 2, 3):
        state.promote(_pending(state, number, b"after %d" % number))
        again = StateDirectory(tmp_path)
        assert again.current_state() == (number, b"after %d" % number)
        assert again.current_round() == number
        delivered = again.delivered(f"id-{number}")
        assert delivered is not None and delivered.round_number == number
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["round-2", "round-3"]
    assert state.current_state(before="id-3") == (2, b"after 2")


def test_states_of_an_agent_that_noted_no_order_are_in_that_of_their_numbers(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    for number in (4, 5):
        state.promote(_pending(state, number, b"old %d" % number))
    for result in (tmp_path / "state").glob("*/result.json"):
        values = json.loads(result.read_text())
        del values["order"]
        result.write_text(json.dumps(values))
    assert state.current_state() == (5, b"old 5")
    state.promote(_pending(state, 1, b"new"))
    assert state.current_state() == (1, b"new")
    assert state.current_state(before="id-1") == (5, b"old 5")


def _flip_a_byte(tmp_path: Path, number: int) -> None:
    path = tmp_path / "state" / f"round-{number}" / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_flipped_byte_is_found_and_the_round_before_is_gone_on_from(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    for number in (1, 2):
        state.promote(_pending(state, number, f"state {number}".encode()))
    _flip_a_byte(tmp_path, 2)
    with capture_logs() as logs:
        assert state.current_state() == (1, b"state 1")
    assert [(entry["event"], entry["goes_on_from_round"]) for entry in logs] == [("agent.state_damaged", 1)]
    assert "SHA-256" in logs[0]["reason"]
    # The damaged one is of no more use: what stays beside the next state is whole.
    state.promote(_pending(state, 3, b"state 3"))
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["round-1", "round-3"]
    _flip_a_byte(tmp_path, 1)
    _flip_a_byte(tmp_path, 3)
    with pytest.raises(StateUnusableError, match=r"round-3.*round-1.*fedafd agent reset"):
        state.current_state()


def test_a_state_without_a_noted_hash_is_taken(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    state.promote(_pending(state))
    path = tmp_path / "state" / "round-1" / "result.json"
    values = json.loads(path.read_text())
    del values["state_sha256"]
    path.write_text(json.dumps(values))
    assert state.current_state() == (1, b"state")
    path.write_text("{")
    with pytest.raises(StateUnusableError, match="cannot be read"):
        state.current_state()


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"7", b'"x"', b'{"state_sha256": []}', b"\xff", b"{", None])
def test_whatever_stands_in_the_notes_of_a_round_the_one_before_is_gone_on_from(
    tmp_path: Path, content: bytes | None
) -> None:
    state = StateDirectory(tmp_path)
    for number in (1, 2):
        state.promote(_pending(state, number, f"state {number}".encode()))
    path = tmp_path / "state" / "round-2" / "result.json"
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    with capture_logs() as logs:
        assert state.current_state() == (1, b"state 1")
    assert "round-2" in logs[0]["reason"]
    if content != b'{"state_sha256": []}':
        assert "result.json" in logs[0]["reason"]


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{}", b"\xff", b"{", None])
def test_a_damaged_result_that_waits_for_its_receipt_is_told_and_forgotten(
    tmp_path: Path, content: bytes | None
) -> None:
    state = StateDirectory(tmp_path)
    state.promote(_pending(state, 1))
    path = _pending(state, 2).folder / "result.json"
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    with capture_logs() as logs:
        assert state.load_pending() is None
    assert [entry["event"] for entry in logs] == ["agent.result_damaged"]
    assert [each.name for each in (tmp_path / "state").iterdir()] == ["round-1"]


@pytest.mark.parametrize("name", ["state.safetensors", "representations.blob"])
def test_a_result_with_a_flipped_bit_is_not_delivered(tmp_path: Path, name: str) -> None:
    state = StateDirectory(tmp_path)
    path = _pending(state).folder / name
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with capture_logs() as logs:
        assert state.load_pending() is None
    assert name in logs[0]["reason"]


def test_what_was_delivered_for_a_round_can_be_sent_again_until_the_next_one(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    first = _pending(state)
    assert state.delivered(first.round_id) is None
    state.promote(first)
    again = state.delivered(first.round_id)
    assert again is not None
    assert (again.waits, again.blobs()[UploadPurpose.REPRESENTATIONS].read_bytes()) == (False, b"reps")
    assert state.delivered("another round") is None
    assert not state.note_uploads(again, ("u1",)).waits
    # A round that is trained once more goes on from the state before it.
    assert state.current_state(before=first.round_id) is None
    again.blobs()[UploadPurpose.REPRESENTATIONS].write_bytes(b"repz")
    assert state.delivered(first.round_id) is None


def test_a_state_set_aside_is_kept_beside_and_forgotten(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    assert state.set_state_aside("old") is None
    for folder in ("state-old", "state-old-2"):
        state.promote(_pending(state, 4))
        _pending(state, 5)
        assert state.set_state_aside("old") == tmp_path / folder
        assert state.current_state() is None
        assert state.load_pending() is None
        assert (tmp_path / folder / "round-4" / "state.safetensors").read_bytes() == b"state"


def test_discarded_result_leaves_the_current_state_alone(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    state.promote(_pending(state))
    _pending(state, 2, b"never delivered")
    state.discard_pending()
    assert state.current_state() == (1, b"state")
    assert state.load_pending() is None


def test_upload_ids_survive_a_restart(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    state.note_uploads(_pending(state), ("u1", "u2"))
    again = StateDirectory(tmp_path).load_pending()
    assert again is not None
    assert again.upload_ids == ("u1", "u2")


def test_half_written_results_are_swept_at_the_next_start(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    (tmp_path / "state" / ".3.part").mkdir()
    (tmp_path / ".credential.json.1.part").write_text("half")
    state.lock()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent.lock", "state"]
    assert state.load_pending() is None
    state.unlock()


def test_directory_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "site").write_text("")
    with pytest.raises(ConfigurationError, match=r"state_dir .*site: cannot be used"):
        StateDirectory(tmp_path / "site")


def test_ledger_tells_what_left_in_order(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.record("representations", sha256="a" * 64, size_bytes=10, round_number=1)
    ledger.record("metrics", sha256="b" * 64, size_bytes=2, round_number=1, detail="{}")
    entries = list(read_sent(tmp_path))
    assert [(e.what, e.bytes, e.round, e.detail) for e in entries] == [
        ("representations", 10, 1, ""),
        ("metrics", 2, 1, "{}"),
    ]
    table = format_sent(iter(entries)).splitlines()
    assert table[0].startswith("when (UTC)")
    assert "representations" in table[1]
    assert len(json.loads((tmp_path / "sent.jsonl").read_text().splitlines()[0])) == 6


@pytest.mark.parametrize("rest", [b'{"at": "2026-01-01T0', b"\0" * 5000, b"\xff\xfe", b'{"at": "now"}'])
def test_an_entry_that_a_power_cut_left_unfinished_is_passed_over_and_replaced(tmp_path: Path, rest: bytes) -> None:
    ledger, path = Ledger(tmp_path), tmp_path / "sent.jsonl"
    ledger.record("metrics", sha256="a" * 64, size_bytes=2, round_number=1)
    with path.open("ab") as file:
        file.write(rest)
    assert [entry.round for entry in read_sent(tmp_path)] == [1]
    ledger.record("metrics", sha256="b" * 64, size_bytes=2, round_number=2)
    assert [entry.round for entry in read_sent(tmp_path)] == [1, 2]
    assert path.read_bytes().count(b"\n") == 2


def test_an_entry_that_lacks_its_newline_alone_counts_and_stays(tmp_path: Path) -> None:
    ledger, path = Ledger(tmp_path), tmp_path / "sent.jsonl"
    for number in (1, 2):
        ledger.record("privacy", sha256="", size_bytes=0, round_number=number)
        path.write_bytes(path.read_bytes()[:-1])
        assert [entry.round for entry in read_sent(tmp_path)][-1] == number
    assert len(list(read_sent(tmp_path))) == 2


def test_a_file_that_is_no_ledger_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sent.jsonl").write_bytes(b"x" * (1 << 21))
    with pytest.raises(DataError, match="is this a ledger"):
        Ledger(tmp_path).record("metrics", sha256="a" * 64, size_bytes=2, round_number=1)
    assert (tmp_path / "sent.jsonl").stat().st_size == 1 << 21


def test_ledger_of_no_agent_is_a_clear_error(tmp_path: Path) -> None:
    assert list(read_sent(tmp_path)) == []
    with pytest.raises(DataError, match="no such folder"):
        list(read_sent(tmp_path / "nowhere"))
    (tmp_path / "sent.jsonl").write_text("nonsense\n")
    with pytest.raises(DataError, match="line 1"):
        list(read_sent(tmp_path))
