"""Before an agent enrols it has looked at every sample: what cannot be trained on is refused, and no token is spent."""

from __future__ import annotations

import asyncio
import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs
from tests.datasets.makers import image_folder, karpathy, picture

from fedafd.agent import own_data
from fedafd.agent.ledger import read_sent
from fedafd.agent.main import ExitCode, run
from fedafd.agent.own_data import load_own_data
from fedafd.agent.start import StartStoppedError, prepare
from fedafd.agent.state import Credential, StateDirectory
from fedafd.domain.config import AgentConfig, parse_agent_config
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ParticipantKind, UploadPurpose
from fedafd.learning.checkpoint import Checkpoint

NOBODY = "127.0.0.1:1"
"""An agent that got as far as enrolling would wait there for ever."""


def site(tmp_path: Path, data: dict[str, Any], kind: str = "image", **changes: Any) -> AgentConfig:
    values = {"aggregator": NOBODY, "kind": kind, "state_dir": str(tmp_path / "state"), "data": data}
    return parse_agent_config(values | changes)


def folder_site(tmp_path: Path, **data: Any) -> AgentConfig:
    return site(tmp_path, {"adapter": "image-folder", "path": str(tmp_path / "data"), **data})


def broken_picture(tmp_path: Path) -> AgentConfig:
    image_folder(tmp_path / "data", splits=True)
    (tmp_path / "data" / "train" / "cat" / "3.png").write_bytes(picture()[:50])
    return folder_site(tmp_path)


def broken_test_picture(tmp_path: Path) -> AgentConfig:
    image_folder(tmp_path / "data", splits=True)
    (tmp_path / "data" / "test" / "dog" / "0.png").write_bytes(b"")
    return folder_site(tmp_path)


def texts(tmp_path: Path, rows: int) -> AgentConfig:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "classes.txt").write_text("a\nb\n")
    for split, count in (("train", rows), ("val", 2), ("test", 2)):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([str(n % 2 + 1), f"title {split} {n}", "text"] for n in range(count))
    return site(tmp_path, {"adapter": "ag-news", "path": str(folder)}, "text")


def no_training_row(tmp_path: Path) -> AgentConfig:
    return texts(tmp_path, 0)


def one_training_sample(tmp_path: Path) -> AgentConfig:
    return site(tmp_path, {"adapter": "shapes", "options": {"num_train": 1}})


def one_class(tmp_path: Path) -> AgentConfig:
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "val", "test"):
        pq.write_table(
            pa.table({"text": [f"{split} {n}" for n in range(4)], "label": ["x"] * 4}), folder / f"{split}.parquet"
        )
    return site(tmp_path, {"adapter": "parquet", "path": str(folder)}, "text")


def nothing_left(tmp_path: Path) -> AgentConfig:
    """All of train repeats in test, and repeats are to be dropped."""
    image_folder(tmp_path / "data", splits=True)
    return folder_site(tmp_path, drop_repeats=True)


def no_gpu(tmp_path: Path) -> AgentConfig:
    return site(tmp_path, {"adapter": "shapes"}, device="cuda:97")


@pytest.mark.parametrize(
    ("made", "code", "words"),
    [
        (broken_picture, ExitCode.DATA, "1 sample cannot be read"),
        (broken_test_picture, ExitCode.DATA, "1 sample cannot be read"),
        (no_training_row, ExitCode.DATA, ""),
        (one_training_sample, ExitCode.DATA, "1 training sample"),
        (one_class, ExitCode.DATA, ""),
        (nothing_left, ExitCode.DATA, "no training sample"),
        (no_gpu, ExitCode.CONFIGURATION, "device: cuda:97 is asked for"),
    ],
)
def test_what_cannot_train_is_refused_before_anything_leaves(
    tmp_path: Path, made: Callable[[Path], AgentConfig], code: ExitCode, words: str
) -> None:
    config = made(tmp_path)
    with capture_logs() as logs:
        assert run(config, token="fedafd-enrol.good") is code
    (end,) = [each for each in logs if each["event"] == "agent.ended"]
    assert words in end["reason"]
    assert list(read_sent(config.state_dir)) == []


def load(config: AgentConfig) -> own_data.OwnData:
    config.state_dir.mkdir(exist_ok=True)
    return load_own_data(config, config.state_dir)


def good(tmp_path: Path, **data: Any) -> AgentConfig:
    folder = image_folder(tmp_path / "data", splits=True)
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        path.write_bytes(picture(number))
    return folder_site(tmp_path, **data)


def test_a_restart_does_not_look_again_until_a_file_changes(tmp_path: Path) -> None:
    config = good(tmp_path)
    first = load(config)
    again = load(config)
    assert (first.looked, again.looked) == (True, False)
    assert again.report == first.report
    assert again.fingerprint == first.fingerprint
    path = tmp_path / "data" / "train" / "cat" / "0.png"
    path.write_bytes(picture(900))
    assert load(config).looked
    assert not load(config).looked
    before = path.stat()
    path.write_bytes(bytes(before.st_size))  # of equal length: the time of change tells
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(DataError, match="cannot be read"):
        load(config)


def test_other_options_are_another_look(tmp_path: Path) -> None:
    config = good(tmp_path)
    load(config)
    split = config.data.model_copy(update={"drop_repeats": True})
    assert load(config.model_copy(update={"data": split})).looked


def test_files_that_an_option_leads_to_count_too(tmp_path: Path) -> None:
    karpathy(tmp_path / "data", images="folder")
    (tmp_path / "data" / "images").rename(tmp_path / "elsewhere")
    data = {"adapter": "flickr", "path": str(tmp_path / "data"), "options": {"images": str(tmp_path / "elsewhere")}}
    config = site(tmp_path, data, "pair")
    before = own_data.stamp_of(config)
    assert own_data.stamp_of(config) == before
    next((tmp_path / "elsewhere").iterdir()).write_bytes(picture(77))
    assert own_data.stamp_of(config) != before


@pytest.mark.parametrize("spoilt", ["look.json", "look.npz"])
def test_a_spoilt_record_is_made_again(tmp_path: Path, spoilt: str) -> None:
    config = good(tmp_path)
    load(config)
    (config.state_dir / "data" / spoilt).write_bytes(b"{}")
    assert load(config).looked
    assert not load(config).looked


def test_a_link_that_leads_back_does_not_hold_up_the_start(tmp_path: Path) -> None:
    config = good(tmp_path)
    (tmp_path / "data" / "train" / "loop").symlink_to(tmp_path / "data", target_is_directory=True)
    assert own_data.stamp_of(config) == own_data.stamp_of(config)


def test_repeats_are_dropped_from_training_only_when_asked_for_and_also_after_a_restart(tmp_path: Path) -> None:
    config = good(tmp_path)
    same = (tmp_path / "data" / "train" / "cat" / "0.png").read_bytes()
    (tmp_path / "data" / "test" / "cat" / "0.png").write_bytes(same)
    kept = load(config)
    assert len(kept.data.train) == 12
    dropping = folder_site(tmp_path, drop_repeats=True)
    for _ in range(2):
        found = load(dropping)
        assert len(found.data.train) == 11
        assert not any(np.array_equal(image, kept.data.train.images[0]) for image in found.data.train.images)  # type: ignore[union-attr]
        assert found.report["counts"]["train"] == 11
        assert found.report["repeats"]["dropped"] == 1
        assert len(found.data.test) == 12


def started(config: AgentConfig) -> list[dict[str, Any]]:
    with capture_logs() as logs:
        asyncio.run(prepare(config, StateDirectory(config.state_dir), asyncio.Event(), token="t"))
    return [dict(each) for each in logs]


def finish_round(config: AgentConfig, number: int) -> None:
    state = StateDirectory(config.state_dir)
    pending = state.save_pending(
        round_id="r",
        round_number=number,
        task_key="k",
        metrics={},
        num_private_samples=1,
        state=Checkpoint(meta={"labels": ["cat", "dog"], "encoders": {}}).to_bytes(),
        blobs={UploadPurpose.REPRESENTATIONS: b"b"},
    )
    state.promote(pending)


def test_a_start_says_what_changed_since_the_last_start(tmp_path: Path) -> None:
    config = good(tmp_path)
    assert not any(each["event"] == "agent.data_changed" for each in started(config))
    assert not any(each["event"] == "agent.data_changed" for each in started(config))
    finish_round(config, 7)
    (tmp_path / "data" / "train" / "cat" / "0.png").unlink()
    for number in range(3):
        (tmp_path / "data" / "train" / "dog" / f"new{number}.png").write_bytes(picture(500 + number))
    (change,) = [each for each in started(config) if each["event"] == "agent.data_changed"]
    assert change["reason"] == "your data changed since the agent's last start: 3 added, 1 removed in train"
    assert not any(each["event"] == "agent.data_changed" for each in started(config))
    (tmp_path / "data" / "train" / "dog" / "0.png").unlink()
    (change,) = [each for each in started(config) if each["event"] == "agent.data_changed"]
    assert change["reason"].endswith(": 0 added, 1 removed in train")


def test_the_log_of_a_start_holds_counts_and_no_name(tmp_path: Path) -> None:
    config = good(tmp_path)
    (checked,) = [each for each in started(config) if each["event"] == "agent.data_checked"]
    assert (checked["train"], checked["val"], checked["test"], checked["classes"]) == (12, 12, 12, 2)
    assert not any(name in repr(checked) for name in ("cat", "dog", str(tmp_path)))


def test_an_agent_that_is_stopped_while_it_looks_ends_at_once(tmp_path: Path) -> None:
    config = good(tmp_path)

    async def main() -> None:
        stop = asyncio.Event()
        stop.set()
        await prepare(config, StateDirectory(config.state_dir), stop, token="t")

    with pytest.raises(StartStoppedError):
        asyncio.run(main())


def test_an_agent_without_token_or_of_another_kind_is_told_before_it_reads_its_data(tmp_path: Path) -> None:
    config = folder_site(tmp_path)  # without data: reading them would be another error
    with capture_logs() as logs:
        assert run(config) is ExitCode.CONFIGURATION
    assert "not enrolled yet" in logs[-1]["reason"]
    credential = Credential(
        federation_id="f", client_id="c", client_name="clinic", kind=ParticipantKind.TEXT, secret="s"
    )
    StateDirectory(config.state_dir).save_credential(credential)
    with capture_logs() as logs:
        assert run(config) is ExitCode.CONFIGURATION
    assert "text client 'clinic'" in logs[-1]["reason"]


def test_words_that_the_vocabulary_lacks_are_told_at_start_without_naming_them(tmp_path: Path) -> None:
    config = texts(tmp_path, 20)
    rows = [f"{n % 2 + 1},unheard{n} of{n} words{n},here{n}" for n in range(8)]
    (tmp_path / "data" / "test.csv").write_text("\n".join(rows) + "\n")
    (told,) = [each for each in started(config) if each["event"] == "agent.words"]
    assert told["log_level"] == "warning"
    assert "unknown words in the other splits: 85 %" in told["reason"]
    assert "unheard" not in told["reason"]
    assert not [each for each in started(config) if each["event"] == "agent.words"]
