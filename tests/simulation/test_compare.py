"""`fedafd simulate compare`: pairs of two outputs by scenario, seed and strategy, and never of other data unasked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.simulation.test_simulate import TINY
from tests.simulation.test_summary import result
from typer.testing import CliRunner

from fedafd.cli.main import app
from fedafd.domain.errors import ConfigurationError
from fedafd.simulation.compare import compare
from fedafd.simulation.experiment import ExperimentConfig, RunKey
from fedafd.simulation.html_page import html_page

DATA = {"public set": {"fingerprint": "a" * 16, "samples": {"train": 8, "val": 4, "test": 4}}}


def keep(
    output: Path,
    strategy: str,
    seed: int,
    image: float,
    *,
    data: dict[str, Any] = DATA,
    scenario: str = "iid",
    **made: Any,
) -> None:
    key = RunKey(scenario=scenario, strategy=strategy, seed=seed)
    values = TINY | {"strategies": [strategy], "scenarios": {scenario: {"scheme": "iid"}}} | made
    experiment = ExperimentConfig.model_validate(values)
    (output / key.folder).mkdir(parents=True)
    content = result(strategy, seed, image=image, pairs=60.0) | {"scenario": scenario}
    (output / key.folder / "result.json").write_text(json.dumps(content))
    record = {**key.model_dump(), "configuration": experiment.described(key), "data": data}
    (output / key.folder / "run.json").write_text(json.dumps(record))


@pytest.fixture
def outputs(tmp_path: Path) -> tuple[Path, Path]:
    """The second has two rounds more, and its image clients are better by 1, 2 and 3."""
    first, second = tmp_path / "first", tmp_path / "second"
    for seed in range(3):
        keep(first, "fedafd", seed, 20.0 + seed)
        keep(second, "fedafd", seed, 21.0 + 2 * seed, rounds=4)
    keep(first, "local", 0, 19.0)
    return first, second


def test_differences_are_second_minus_first_over_the_seeds(outputs: tuple[Path, Path]) -> None:
    found = compare(*outputs)
    (image,) = [d for d in found.differences["fedafd"] if d.measure == "image acc1"]
    assert image.mean == pytest.approx(2.0)
    assert image.seeds == 3
    # Student's t with two degrees of freedom; the deviation of 1, 2, 3 is 1.
    assert image.high - image.mean == pytest.approx(4.30265 / 3**0.5, abs=1e-4)
    assert found.settings == {"rounds": ("2", "4")}
    assert found.alone == [f"iid / local / seed 0 of {outputs[0]}"]


def test_a_copy_of_a_run_that_somebody_keeps_beside_it_is_not_compared(outputs: tuple[Path, Path]) -> None:
    folder = outputs[1] / RunKey(scenario="iid", strategy="fedafd", seed=0).folder
    before = compare(*outputs)
    kept = shutil.copytree(folder, folder.with_name("seed-0.bak")) / "result.json"
    kept.write_text(json.dumps(result("fedafd", 0, image=99.0, pairs=99.0) | {"scenario": "iid"}))
    assert compare(*outputs) == before


def test_the_command_prints_tables_and_writes_json(outputs: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    done = CliRunner().invoke(app, ["simulate", "compare", *map(str, outputs), "--json", str(file)])
    assert done.exit_code == 0, done.output
    told = " ".join(done.output.split())
    assert "rounds: 2 in the first, 4 in the second" in told
    assert "+2.0 [-0.5, +4.5]" in told
    assert "Clients of fedafd that are lower in the second: 0 of 6." in told
    written = json.loads(file.read_text())
    (image,) = [each for each in written["differences"] if each["measure"] == "image acc1"]
    assert (image["first"], image["second"], image["shown"]) == (21.0, 23.0, "not shown")


def test_a_strategy_is_compared_with_another_ones_runs(outputs: tuple[Path, Path]) -> None:
    found = compare(*outputs, strategy="fedafd", against="local")
    assert list(found.rows) == ["fedafd against local"]
    (image,) = [d for d in found.differences["fedafd against local"] if d.measure == "image acc1"]
    assert (image.mean, image.seeds) == (2.0, 1)
    assert "(one seed)" in found.markdown()
    assert "With one seed there is no interval: nothing is shown." in found.markdown()
    assert found.to_dict()["differences"][0]["low"] is None


def test_who_is_lower_is_told_with_how_many_are_so_beyond_noise(outputs: tuple[Path, Path]) -> None:
    for output, values in zip(outputs, ([25.0, 20.0, 15.0], [24.0, 19.5, 14.0]), strict=True):
        for seed in range(3):
            path = output / f"runs/iid/fedafd/seed-{seed}/result.json"
            content = json.loads(path.read_text())
            content["clients"]["image-0"]["metrics"]["federated/acc1"] = sum(values) / 3
            content["clients"]["image-0"]["scores"] = {"federated": values}
            path.write_text(json.dumps(content))
    found = compare(*outputs)
    assert "3 of 6, most of all iid, seed 0, image-0 by 0.8; 3 of them by more than one standard error over test" in (
        found.markdown()
    )
    errors = found.to_dict()["clients_standard_errors"]["fedafd"]
    assert errors["iid, seed 0, image-0"] == pytest.approx(1 / 6)
    assert errors["iid, seed 0, pair-0"] is None


def test_over_all_scenarios_only_seeds_that_ran_in_each_count(outputs: tuple[Path, Path]) -> None:
    for seed in range(2):
        keep(outputs[0], "fedafd", seed, 30.0, scenario="skewed")
        keep(outputs[1], "fedafd", seed, 31.0, scenario="skewed")
    assert "better" not in compare(*outputs).markdown().split("### fedafd, all")[1].split("Clients of")[0]
    (over_all,) = [
        each
        for each in compare(*outputs).to_dict()["differences"]
        if (each["scenario"], each["measure"]) == ("all", "image acc1")
    ]
    assert over_all["seeds"] == 2
    assert over_all["second"] - over_all["first"] == pytest.approx(over_all["mean"]) == 1.25


def test_what_is_shown_is_said_in_words(tmp_path: Path) -> None:
    for seed in range(3):
        keep(tmp_path / "first", "fedafd", seed, 20.0)
        keep(tmp_path / "second", "fedafd", seed, 23.0 + 0.1 * seed)
    text = compare(tmp_path / "first", tmp_path / "second").markdown()
    assert "| image acc1 | 20.0 | 23.1 | +3.1 [+2.9, +3.3] | better |" in text
    assert "| pair rsum | 60.0 | 60.0 | +0.0 [+0.0, +0.0] |  |" in text


def test_runs_of_other_data_are_refused_unless_asked_for(tmp_path: Path) -> None:
    other = {"public set": DATA["public set"] | {"fingerprint": "b" * 16}}
    keep(tmp_path / "first", "fedafd", 0, 20.0)
    keep(tmp_path / "second", "fedafd", 0, 21.0, data=other)
    with pytest.raises(
        ConfigurationError, match="made from other data .public set: 8/4/4 samples with fingerprint aaaa"
    ):
        compare(tmp_path / "first", tmp_path / "second")
    found = compare(tmp_path / "first", tmp_path / "second", other_data=True)
    assert "Data that differ:" in found.markdown()


def test_outputs_without_runs_or_without_pairs_are_refused(outputs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no finished run"):
        compare(outputs[0], tmp_path / "nowhere")
    with pytest.raises(
        ConfigurationError, match="the first has strategies fedafd, local, the second fedafd; --strategy"
    ):
        compare(*outputs, strategy="creamfl")


def test_the_page_holds_its_plots_and_no_foreign_html(tmp_path: Path) -> None:
    plot = tmp_path / "curves-<iid>.png"
    plot.write_bytes(b"\x89PNG")
    page = html_page("<b>mine</b>", "### t\n\n| a | b |\n|---|---|\n| <script>x</script> | 1 |\n", [plot])
    assert "<script" not in page
    assert "<b>mine" not in page
    assert "<td>1</td>" in page
    assert 'src="data:image/png;base64,iVBORw==' in page
    assert "http" not in page


def test_an_output_is_not_compared_with_itself_unless_two_of_its_strategies_are(outputs: tuple[Path, Path]) -> None:
    first = outputs[0]
    for strategy, against in ((None, None), ("fedafd", None), (None, "fedafd"), ("fedafd", "fedafd")):
        with pytest.raises(ConfigurationError, match="one and the same output.*--strategy ONE --against OTHER"):
            compare(first, first / ".." / first.name, strategy=strategy, against=against)
    assert list(compare(first, first, strategy="fedafd", against="local").rows) == ["fedafd against local"]


def test_figures_that_are_all_the_same_are_told(outputs: tuple[Path, Path], tmp_path: Path) -> None:
    words = "All figures are the same in both"
    shutil.copytree(outputs[0], tmp_path / "copy")
    assert words in compare(outputs[0], tmp_path / "copy").markdown()
    assert words not in compare(*outputs).markdown()
