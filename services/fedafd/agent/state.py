"""What an agent keeps between rounds and restarts: its credential, its personalized state, a result not yet delivered.

Layout of the state directory (readable by the agent's user only):

    agent.lock              held while an agent runs; two agents never share a directory
    credential.json         who this client is, its secret, key and certificate (mode 0600)
    authority.pem           whom the aggregator is trusted by, where the invitation's token named it (see line.py)
    state/round-<n>/        personalized state after the last delivered round, and after the one before it
                            and, where its model was shared, the hashes of what is in it (see shared_model.py)
    state/round-<n>.pending/  result of a finished training whose receipt has not come yet
    state/history/          what each delivered round's model got on the site's own samples (see history.py)
    state/baseline/         the same model trained alone, if the site wants it (see baseline_folder.py)
    model -> models/...     the personalized model after the last delivered round (see site_model.py)
    artifacts/<sha256>      what was downloaded (see cache.py)
    data/                   what the last look at the private data found (see own_data.py)
    session.json            which process is this client's agent (see session.py)
    sent.jsonl              what left the site (see ledger.py)
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from fedafd.agent.files import disk_full_is_clear, sync_file, sync_folder, write_atomically
from fedafd.agent.training import ModelWriter
from fedafd.domain.claims import claim
from fedafd.domain.errors import ConfigurationError, ConflictError, IdentityInUseError, StateUnusableError
from fedafd.domain.hashing import file_sha256, sha256_of
from fedafd.domain.kinds import ParticipantKind, UploadPurpose
from fedafd.domain.state_cases import AFRESH
from fedafd.domain.whole_files import remove_leftover
from fedafd.telemetry.logging import get_logger

__all__ = [
    "CREDENTIAL_FILE",
    "DELIVERED_MODEL_FILE",
    "MODEL_SOURCE_FILE",
    "PARTS_FILE",
    "SCORES_FILE",
    "STATE_FILE",
    "Credential",
    "PendingResult",
    "StateDirectory",
]

CREDENTIAL_FILE = "credential.json"
_ROUND = re.compile(r"^round-(\d+)(\.pending)?$")
STATE_FILE, MODEL_SOURCE_FILE, SCORES_FILE = "state.safetensors", "model_source.json", "scores.npz"
DELIVERED_MODEL_FILE, PARTS_FILE = "delivered_model.json", f"{UploadPurpose.PERSONALIZED_MODEL.value}.parts"
_RESULT_FILE, _ORDER = "result.json", "order"
_CHANGED = "its SHA-256 is not the one that was noted when it was written: the file was changed or damaged"
_log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Credential:
    """Who this client is. `secret` is what every call carries, and `key` signs each; neither is ever logged.

    `key` is a ClientKey's PEM, empty for an agent from before there were keys; `certificate` is what the federation's
    authority says of it, empty until it was given.
    """

    federation_id: str
    client_id: str
    client_name: str
    kind: ParticipantKind
    secret: str = field(repr=False)
    key: str = field(default="", repr=False)
    certificate: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class PendingResult:
    """A finished training whose delivery is not confirmed yet.

    `task_key` identifies the task completely, so that the result is used for that very task or not at all.
    """

    round_id: str
    round_number: int
    task_key: str
    metrics: dict[str, float]
    num_private_samples: int
    folder: Path
    upload_ids: tuple[str, ...] = ()

    @property
    def waits(self) -> bool:
        """False: it was delivered before, and is asked for once more."""
        return self.folder.suffix == ".pending"

    def blobs(self) -> dict[UploadPurpose, Path]:
        """The files to deliver, by purpose; the representations are always there."""
        paths = {purpose: self.folder / f"{purpose.value}.blob" for purpose in UploadPurpose}
        return {purpose: path for purpose, path in paths.items() if path.exists()}


class StateDirectory:
    """One agent's state directory.

    Raises ConfigurationError where the directory cannot be used, IdentityInUseError where another agent uses it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._claim: FileLock | None = None
        self._damaged: set[int] = set()
        try:
            (root / "state").mkdir(parents=True, exist_ok=True)
            root.chmod(0o700)
        except OSError as error:
            raise ConfigurationError(
                f"state_dir {root}: cannot be used: {error.strerror}; choose another folder"
            ) from error

    def lock(self) -> None:
        """Claim the directory until the process ends."""
        taken = f"state_dir {self.root}: another agent is running on it; stop that one or choose another folder"
        try:
            self._claim = claim(self.root / "agent.lock", taken)
        except ConflictError as error:
            raise IdentityInUseError(str(error)) from None
        self._sweep()

    def unlock(self) -> None:
        """Give the directory back."""
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def load_credential(self) -> Credential | None:
        """The credential of an earlier enrolment, or None."""
        path = self.root / CREDENTIAL_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return Credential(**values | {"kind": ParticipantKind(values["kind"])})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise ConfigurationError(
                f"{path}: not a usable credential ({error}); remove it and enrol again with a new token"
            ) from error

    def save_credential(self, credential: Credential) -> None:
        """Keep the credential, readable by this user only."""
        write_atomically(self.root / CREDENTIAL_FILE, json.dumps(asdict(credential), indent=1).encode(), mode=0o600)

    def current_state(self, *, before: str = "") -> tuple[int, bytes] | None:
        """Round number and personalized state after the last delivered round; None before the first.

        `before` is the id of a round that is done once more: its own state does not count. Where a file is damaged,
        those of the round before. Raises StateUnusableError where that one is, too.
        """
        damaged = []
        for number, folder in reversed(self._delivered()):
            if before and _round_id(folder) == before:
                continue
            state, wrong = _read_whole(folder)
            if state is None:
                self._damaged.add(number)
                damaged.append(wrong)
                continue
            if damaged:
                _log.error("agent.state_damaged", reason="; ".join(damaged), goes_on_from_round=number)
            return number, state
        if damaged:
            raise StateUnusableError(f"no saved state is whole: {'; '.join(damaged)}; {AFRESH}")
        return None

    def current_round(self) -> int | None:
        """The last delivered round; None before the first."""
        return next((number for number, _ in reversed(self._delivered())), None)

    def current_folder(self) -> tuple[int, Path] | None:
        """Round number and folder of the last delivered round, which holds STATE_FILE; None before the first."""
        return next(reversed(self._delivered()), None)

    def save_pending(
        self,
        *,
        round_id: str,
        round_number: int,
        task_key: str,
        metrics: dict[str, float],
        num_private_samples: int,
        state: bytes,
        blobs: dict[UploadPurpose, bytes],
        shared_model: ModelWriter | None = None,
        model_source: Mapping[str, Any] | None = None,
        scores: bytes | None = None,
    ) -> PendingResult:
        """Keep a finished training, all of it or nothing. Replaces an older pending result.

        `shared_model` writes one more blob, as it may be too large for the memory.
        `model_source`: what the model folder is made of beside the state (site_model.py). `scores`: KeptScores.
        """
        self.discard_pending()
        part = self.root / "state" / f".{round_number}.part"
        remove_leftover(part)
        values: dict[str, Any] = {
            "round_id": round_id,
            "round_number": round_number,
            "task_key": task_key,
            "metrics": metrics,
            "num_private_samples": num_private_samples,
            "state_sha256": sha256_of(state),
            "blob_sha256": {purpose.value: sha256_of(blob) for purpose, blob in blobs.items()},
            "upload_ids": [],
        }
        with disk_full_is_clear(self.root):
            part.mkdir()
            write_atomically(part / STATE_FILE, state)
            for purpose, blob in blobs.items():
                write_atomically(part / f"{purpose.value}.blob", blob)
            if shared_model is not None:
                model = part / f"{UploadPurpose.PERSONALIZED_MODEL.value}.blob"
                shared_model(part / STATE_FILE, model)
                sync_file(model)
                values["blob_sha256"][UploadPurpose.PERSONALIZED_MODEL.value] = file_sha256(model)
            if model_source is not None:
                write_atomically(part / MODEL_SOURCE_FILE, json.dumps(model_source).encode())
            if scores is not None:
                write_atomically(part / SCORES_FILE, scores)
            write_atomically(part / _RESULT_FILE, json.dumps(values, indent=1).encode())
            part.rename(self._folder(round_number, pending=True))
        sync_folder(self.root / "state")
        return _read_pending(self._folder(round_number, pending=True))

    def load_pending(self) -> PendingResult | None:
        """The result that waits for its receipt, or None. A damaged one is told and forgotten: it is trained anew."""
        rounds = self._rounds(pending=True)
        if not rounds:
            return None
        try:
            return _checked(_read_pending(rounds[max(rounds)]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.error("agent.result_damaged", folder=str(rounds[max(rounds)]), reason=_reason(error))
            self.discard_pending()
            return None

    def delivered(self, round_id: str) -> PendingResult | None:
        """The result that was delivered last, if it was for that round, and is whole; its blobs are still here."""
        current = self.current_folder()
        if current is None or _round_id(current[1]) != round_id:
            return None
        try:
            result = _checked(_read_pending(current[1]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.error("agent.result_damaged", folder=str(current[1]), reason=_reason(error))
            return None
        return result if UploadPurpose.REPRESENTATIONS in result.blobs() else None

    def note_uploads(self, pending: PendingResult, upload_ids: tuple[str, ...]) -> PendingResult:
        """Remember what is about to be committed, so that the commit can be repeated after a crash."""
        path = pending.folder / _RESULT_FILE
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        write_atomically(path, json.dumps(values | {"upload_ids": list(upload_ids)}, indent=1).encode())
        return _read_pending(pending.folder)

    def promote(self, pending: PendingResult) -> None:
        """The receipt came: the pending state becomes the current one; of older ones the last stays.

        What was sent stays until the next round's, except for the model: an aggregator may have lost it.
        """
        target = self._folder(pending.round_number, pending=False)
        older = [(number, folder) for number, folder in self._delivered() if folder != target]
        order = 1 + max((_order(folder, number) for number, folder in older), default=0)
        noted = _read_result(pending.folder) | {_ORDER: order}
        write_atomically(pending.folder / _RESULT_FILE, json.dumps(noted, indent=1).encode())
        shutil.rmtree(target, ignore_errors=True)
        pending.folder.rename(target)
        sync_folder(self.root / "state")
        for name in (f"{UploadPurpose.PERSONALIZED_MODEL.value}.blob", PARTS_FILE):
            (target / name).unlink(missing_ok=True)
        stays = next((number for number, _ in reversed(older) if number not in self._damaged), None)
        for number, folder in older:
            if number != stays:
                shutil.rmtree(folder, ignore_errors=True)
            for blob in folder.glob("*.blob"):
                blob.unlink()

    def discard_pending(self, *, but_committed: bool = False) -> None:
        """Forget results that will never be delivered; with `but_committed` not those that perhaps were."""
        for folder in self._rounds(pending=True).values():
            if but_committed and _is_committed(folder):
                continue
            shutil.rmtree(folder, ignore_errors=True)

    def set_state_aside(self, label: str) -> Path | None:
        """Move all personalized state to a folder beside it, named after `label`; None if there is none.

        The next round starts afresh.
        """
        if not any((self.root / "state").iterdir()):
            return None
        names = (f"state-{label}{suffix}" for suffix in ("", *(f"-{number}" for number in range(2, 1000))))
        target = next(self.root / name for name in names if not (self.root / name).exists())
        (self.root / "state").rename(target)
        (self.root / "state").mkdir()
        sync_folder(self.root)
        return target

    def _folder(self, number: int, *, pending: bool) -> Path:
        return self.root / "state" / (f"round-{number}.pending" if pending else f"round-{number}")

    def _delivered(self) -> list[tuple[int, Path]]:
        """Number and folder of the delivered rounds, in the order of their delivery: a federation that was restored or
        made anew counts its rounds from an earlier number on."""
        return sorted(self._rounds(pending=False).items(), key=lambda entry: (_order(entry[1], entry[0]), entry[0]))

    def _rounds(self, *, pending: bool) -> dict[int, Path]:
        matches = {path: _ROUND.match(path.name) for path in (self.root / "state").iterdir()}
        return {int(m.group(1)): path for path, m in matches.items() if m and bool(m.group(2)) == pending}

    def _sweep(self) -> None:
        for leftover in [*self.root.glob(".*.part"), *(self.root / "state").glob(".*.part")]:
            with suppress(OSError):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _read_whole(folder: Path) -> tuple[bytes | None, str]:
    """The state in a folder, and which file is damaged and how, if it cannot be used."""
    path, noted = folder / STATE_FILE, folder / _RESULT_FILE
    try:
        state = path.read_bytes()
    except OSError as error:
        return None, f"{path}: cannot be read: {_reason(error)}"
    try:
        # States of before have none.
        expected = _read_result(folder).get("state_sha256")
    except (OSError, ValueError) as error:
        return None, f"{noted}: cannot be read: {_reason(error)}"
    if expected not in (None, sha256_of(state)):
        return None, f"{path}: {_CHANGED}"
    return state, ""


def _read_result(folder: Path) -> dict[str, Any]:
    values = json.loads((folder / _RESULT_FILE).read_bytes())
    if not isinstance(values, dict):
        raise ValueError(f"holds {type(values).__name__}, and must hold keys and values")
    return values


def _noted(folder: Path, name: str, otherwise: Any) -> Any:
    """What is noted of a round under a name; `otherwise` where nothing is, or the notes cannot be read."""
    try:
        return _read_result(folder).get(name, otherwise)
    except (OSError, ValueError):
        return otherwise


def _order(folder: Path, number: int) -> int:
    """Of a delivered round among the others; those of before are in the order of their numbers."""
    noted = _noted(folder, _ORDER, number)
    return noted if type(noted) is int else number


def _is_committed(folder: Path) -> bool:
    return bool(_noted(folder, "upload_ids", False))


def _round_id(folder: Path) -> str:
    return str(_noted(folder, "round_id", ""))


def _reason(error: Exception) -> str:
    """An error of a file whose name is told beside it."""
    return getattr(error, "strerror", None) or str(error)


def _checked(result: PendingResult) -> PendingResult:
    """The result, if its files have the hashes that were noted when they were written. Raises ValueError, OSError."""
    noted = _read_result(result.folder)
    # Results of before have none.
    hashes = {f"{purpose}.blob": sha256 for purpose, sha256 in noted.get("blob_sha256", {}).items()}
    if result.waits:
        hashes[STATE_FILE] = noted.get("state_sha256")
    else:
        hashes.pop(f"{UploadPurpose.PERSONALIZED_MODEL.value}.blob", None)
    for name, sha256 in hashes.items():
        if sha256 is not None and file_sha256(result.folder / name) != sha256:
            raise ValueError(f"{result.folder / name}: {_CHANGED}")
    return result


def _read_pending(folder: Path) -> PendingResult:
    values = _read_result(folder)
    for beside in ("state_sha256", "blob_sha256", _ORDER):
        values.pop(beside, None)
    return PendingResult(folder=folder, **values | {"upload_ids": tuple(values["upload_ids"])})
