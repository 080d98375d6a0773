"""One process at a time: a claim holds until it is let go of, and a file system without locks is named as such."""

from __future__ import annotations

import errno
import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedafd.domain.claims import claim, claimed, in_turn, is_claimed
from fedafd.domain.errors import ConfigurationError, ConflictError

HOLDER = """
import sys, time
from pathlib import Path
from fedafd.domain.claims import claim
held = claim(Path(sys.argv[1]), "taken")
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_claim_is_refused_in_the_words_given_and_the_next_one_holds(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not is_claimed(lock)
    with claimed(lock, "another runs here"):
        assert is_claimed(lock)
        with pytest.raises(ConflictError, match="another runs here"):
            claim(lock, "another runs here")
    assert not is_claimed(lock)
    with in_turn(lock):
        assert is_claimed(lock)
    assert lock.stat().st_mode & 0o777 == 0o600


def test_a_process_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_claimed(lock)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert not is_claimed(lock)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_to_be_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def none(*_: object) -> None:
        raise OSError(code, "no locks here")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(ConfigurationError, match="no file locks"):
        claim(tmp_path / "lock", "another runs here")
    with pytest.raises(ConfigurationError, match="no file locks"), in_turn(tmp_path / "lock"):
        pass
    (tmp_path / "lock").touch()
    assert not is_claimed(tmp_path / "lock")
