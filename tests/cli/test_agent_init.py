"""`fedafd agent init` sees what a folder holds and writes an agent.yaml that loads it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.datasets import makers
from typer.testing import CliRunner

from fedafd.agent.agent_file import agent_file
from fedafd.agent.proposal import DataProposal
from fedafd.cli.main import app
from fedafd.datasets import ClientData, load_client_data
from fedafd.domain.config import TaskConfig, read_agent_config
from fedafd.domain.errors import FedafdError
from fedafd.domain.kinds import ClientKind


def init(*arguments: str, answers: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(app, ["agent", "init", *arguments], input=answers)
    if isinstance(result.exception, FedafdError):
        return 2, str(result.exception)
    return result.exit_code, result.output


def texts(folder: Path) -> Path:
    folder.mkdir()
    for split in ("train", "val", "test"):
        pq.write_table(
            pa.table({"text": [f"{split} {n}" for n in range(8)], "label": ["x", "y"] * 4}), folder / f"{split}.parquet"
        )
    return folder


def findings(folder: Path) -> Path:
    """Pictures, and a table in the form of a well-known set of X-rays."""
    (folder / "images").mkdir(parents=True)
    lines = ["Image Index,Finding Labels,Patient Age"]
    for n in range(20):
        (folder / "images" / f"{n}.png").write_bytes(makers.picture(n))
        lines.append(f"{n}.png,{('Mass|Nodule', 'Mass', 'Hernia', 'Nodule')[n % 4]},{n}")
    (folder / "Data_Entry.csv").write_text("\n".join(lines))
    return folder


def comments(folder: Path) -> Path:
    """Texts, and a column of 0 and 1 for each label."""
    folder.mkdir()
    rows = [f'{n},"a comment, of {n} words",{n % 2},{n % 3 % 2}' for n in range(30)]
    (folder / "train.csv").write_text("\n".join(["id,comment_text,rude,loud", *rows]))
    return folder


@pytest.mark.parametrize(
    ("make", "adapter", "kind"),
    [
        (lambda folder: makers.image_folder(folder, splits=True), "image-folder", "image"),
        (lambda folder: makers.image_folder(folder, splits=False, per_class=12), "image-folder", "image"),
        (makers.ag_news, "ag-news", "text"),
        (makers.cifar_npz, "cifar100", "image"),
        (makers.cifar_official, "cifar100", "image"),
        (makers.karpathy, "flickr", "pair"),
        (texts, "parquet", "text"),
        (findings, "table", "image"),
        (comments, "table", "text"),
    ],
)
def test_a_folder_is_recognised_and_what_is_written_loads_it(
    tmp_path: Path, make: Callable[[Path], Path], adapter: str, kind: str
) -> None:
    folder = make(tmp_path / "data")
    output = tmp_path / "agent.yaml"
    code, text = init(str(folder), "--aggregator", "fed.example.org:7443", "--output", str(output), "-y")
    assert code == 0, text
    config = read_agent_config(output)
    assert (config.data.adapter, config.kind.value) == (adapter, kind)
    assert config.data.path == folder
    assert len(load_client_data(config.data.adapter, config.data.path, config.kind, config.data.options).train) > 0
    assert "fedafd agent check" in text
    assert config.task == (TaskConfig(name="multi-label") if adapter == "table" else None)


def test_a_folder_around_the_data_is_looked_into(tmp_path: Path) -> None:
    makers.image_folder(tmp_path / "download" / "archive" / "set", splits=True)
    output = tmp_path / "agent.yaml"
    assert init(str(tmp_path / "download"), "--aggregator", "a:1", "--output", str(output), "-y")[0] == 0
    assert read_agent_config(output).data.path == tmp_path / "download" / "archive" / "set"


def test_questions_are_asked_where_flags_say_nothing(tmp_path: Path) -> None:
    folder = makers.image_folder(tmp_path / "data", splits=True)
    output = tmp_path / "agent.yaml"
    answers = f"{folder}\ny\nfed.example.org:7443\nca.pem\n"
    code, text = init("--output", str(output), answers=answers)
    assert code == 0, text
    config = read_agent_config(output)
    assert config.aggregator == "fed.example.org:7443"
    assert config.tls is not None
    assert config.tls.authorities is not None
    assert config.tls.authorities.name == "ca.pem"


def test_a_file_is_not_overwritten_unless_told_to(tmp_path: Path) -> None:
    folder = makers.image_folder(tmp_path / "data", splits=True)
    output = tmp_path / "agent.yaml"
    output.write_text("mine")
    arguments = (str(folder), "--aggregator", "a:1", "--output", str(output), "-y")
    code, text = init(*arguments)
    assert (code, output.read_text()) == (2, "mine")
    assert "--force" in text
    assert init(*arguments, "--force")[0] == 0


def test_nothing_is_written_for_data_that_do_not_load(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "report.docx").write_text("")
    output = tmp_path / "agent.yaml"
    code, text = init(str(tmp_path / "data"), "--aggregator", "a:1", "--output", str(output), "-y")
    assert code != 0
    assert "report.docx" in text
    assert not output.exists()


def test_options_of_the_adapter_are_taken_and_checked(tmp_path: Path) -> None:
    output = tmp_path / "agent.yaml"
    arguments = ("--adapter", "shapes", "--kind", "text", "--aggregator", "a:1", "--output", str(output), "-y")
    assert init(*arguments, "--option", "num_train=21")[0] == 0
    config = read_agent_config(output)
    assert config.data.options == {"num_train": 21}
    code, text = init(*arguments, "--force", "--option", "num_trian=21")
    assert code != 0
    assert "num_trian" in text


def test_without_questions_the_aggregator_must_be_given(tmp_path: Path) -> None:
    folder = makers.image_folder(tmp_path / "data", splits=True)
    code, text = init(str(folder), "--output", str(tmp_path / "agent.yaml"), "-y")
    assert code == 2
    assert "--aggregator" in text


@cache
def few_shapes() -> ClientData:
    return load_client_data("shapes", None, ClientKind.IMAGE, {"num_train": 4, "num_val": 1, "num_test": 1})


@settings(max_examples=80, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1), st.text(min_size=1, max_size=8))
def test_any_name_survives_the_file(name: str, value: str) -> None:
    proposal = DataProposal(
        adapter="image-folder",
        kind=ClientKind.IMAGE,
        path=Path("/data") / name,
        options={"annotations": value, "limit": 3},
        data=few_shapes(),
    )
    text, config = agent_file(
        proposal,
        aggregator="host:7443",
        state_dir=f"/state/{name}",
        authorities=Path("/tls") / name,
    )
    assert config.data.path == Path("/data") / name
    assert config.state_dir == Path(f"/state/{name}")
    assert config.data.options == {"annotations": value, "limit": 3}
    assert all(isinstance(key, str) for key in yaml.safe_load(text))


@pytest.mark.parametrize("answers", ["", "{folder}\n", "{folder}\ny\n", "{folder}\ny\na:1\n"])
def test_an_input_that_ends_writes_nothing_and_says_what_to_do(tmp_path: Path, answers: str) -> None:
    folder = makers.image_folder(tmp_path / "data", splits=True)
    output = tmp_path / "agent.yaml"
    code, text = init("--output", str(output), answers=answers.format(folder=folder))
    assert code == 2
    assert "the input ended" in text and "--yes" in text
    assert not output.exists()


def test_ctrl_c_at_a_question_ends_with_130_and_no_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedafd.cli.main", "agent", "init"]
    pipe = subprocess.PIPE
    # What runs in the background of a shell ignores Ctrl-C, and what it starts would, too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(6) == b"Folder"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert b"Traceback" not in process.stderr.read()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words"), [("data", "is a folder"), ("no/such.yaml", "no folder"), ("pipe", "a pipe"), ("x" * 300, "too")]
)
def test_a_place_that_cannot_be_written_is_refused_before_a_question(tmp_path: Path, name: str, words: str) -> None:
    makers.image_folder(tmp_path / "data", splits=True)
    os.mkfifo(tmp_path / "pipe")
    code, text = init("--output", str(tmp_path / name), "--force")
    assert code == 2
    assert words in text and "Folder of your data" not in text


def test_labels_in_lists_are_seen_and_make_the_task_multi_label(tmp_path: Path) -> None:
    folder, output = tmp_path / "data", tmp_path / "agent.yaml"
    folder.mkdir()
    for split in ("train", "val", "test"):
        table = pa.table({"text": [f"{split} {n}" for n in range(3)], "label": [["a", "b"], [], ["b"]]})
        pq.write_table(table, folder / f"{split}.parquet")
    code, text = init(str(folder), "--aggregator", "a:1", "--output", str(output), "-y")
    assert (code, "labels, several a sample: 2 (a, b)" in text) == (0, True)
    assert read_agent_config(output).task == TaskConfig(name="multi-label")
