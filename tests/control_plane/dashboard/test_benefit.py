"""Does it help? Said by each site's own comparison and its error, and never by more than the site shared."""

from __future__ import annotations

import csv
import io
import math
from datetime import timedelta
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from tests.control_plane.dashboard.browsing import visitor
from tests.control_plane.rest import Rest

from fedafd.control_plane.dashboard.charts import HEIGHT, WIDTH, chart
from fedafd.control_plane.dashboard.figures import server_figure, site_figure, weight_figure
from fedafd.control_plane.dashboard.gains import Gain, site_gains, summary
from fedafd.domain.kinds import StageKind
from fedafd.domain.states import ParticipationState
from fedafd.persistence.client_repository import get_client
from fedafd.persistence.models import ClientRow, ModelVersionRow, ParticipationRow, utc_now
from fedafd.persistence.participation_repository import invite_cohort, list_participations, settle_participation
from fedafd.persistence.round_repository import get_round_by_number
from fedafd.persistence.stage_repository import add_stage, list_stages

TOLD = {
    "federated/acc1": 80.0, "local/acc1": 70.0, "global/acc1": 60.0, "alone/acc1": 78.0,
    "over_alone/difference": 2.0, "over_alone/standard_error": 1.0,
    "over_local/difference": 10.0, "over_local/standard_error": 1.0,
}  # fmt: skip


def part(metrics: dict[str, float] | None, name: str = "a") -> ParticipationRow:
    return ParticipationRow(client_id=name, metrics=metrics, bytes_up=10, bytes_down=5)


def client(name: str = "a", kind: str = "image") -> ClientRow:
    return ClientRow(id=name, name=name, kind=kind)


@pytest.mark.parametrize(
    ("mean", "error", "verdict"),
    [(2, 1, "better"), (-2, 1, "worse"), (0.5, 1, "same"), (-0.5, 1, "same"), (1, 1, "same"), (9, None, "")],
)
def test_better_is_by_more_than_a_standard_error(mean: float, error: float | None, verdict: str) -> None:
    assert Gain(mean, error).verdict == verdict


def test_a_site_is_compared_with_its_model_trained_alone_and_else_with_its_own_branch() -> None:
    (site,) = site_gains([client()], [(part({"federated/acc1": 1.0}), 1), (part(TOLD), 2), (part(None), 3)])
    assert site.last is not None
    assert (site.last.round_number, site.over, site.verdict, site.bytes_moved) == (2, "alone", "better", 45)
    without = {name: value for name, value in TOLD.items() if "alone" not in name}
    (site,) = site_gains([client()], [(part(without), 1)])
    assert (site.over, site.verdict) == ("local", "better")


def test_a_pair_sites_metric_is_rsum_and_what_it_did_not_share_is_not_there() -> None:
    (site,) = site_gains([client(kind="pair")], [(part({"federated/rsum": 300.0, "federated/i2t_r1": 9.0}), 1)])
    assert site.last is not None
    assert (site.metric, dict(site.last.values), site.verdict) == ("rsum", {"federated": 300.0}, "")


def test_the_sentence_counts_every_site_once() -> None:
    worse = TOLD | {"over_alone/difference": -5.0}
    clients = [client(name) for name in "abcd"]
    parts = [(part(TOLD, "a"), 1), (part(worse, "b"), 1), (part(TOLD | {"over_alone/difference": 0.0}, "c"), 1)]
    assert summary(site_gains(clients, parts)) == (
        "Of 3 sites that tell it helps 1, makes no difference beyond chance to 1, is worse for 1; 1 told no comparison"
    )
    one = [(part(TOLD, "a"), 1)]
    assert summary(site_gains([client("a")], one)) == "Of 1 site that tells it helps 1", "nothing is said of none"
    assert summary(site_gains(clients, [])).startswith("No site has told a comparison yet")


values = st.floats(-1e6, 1e6, allow_nan=False)
points = st.lists(st.tuples(st.integers(1, 10**6), values, st.none() | st.floats(0, 1e5)), max_size=8)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(st.dictionaries(st.sampled_from("abc"), points))
def test_everything_that_is_drawn_lies_on_the_paper(series: dict[str, Any]) -> None:
    drawn = chart(series)
    assert (drawn is None) is (not any(series.values()))
    if drawn is None:
        return
    assert 2 <= len(drawn.y_ticks) <= 12
    for dot in (dot for dots in drawn.dots.values() for dot in dots):
        assert 0 <= dot.x <= WIDTH
        for y in (dot.y, dot.low, dot.high):
            assert y is None or -0.2 <= y <= HEIGHT


def test_many_rounds_are_one_line_with_dots_that_stand_apart() -> None:
    drawn = chart({"a": [(number, float(number), 1.0) for number in range(1, 201)]})
    assert drawn is not None
    assert drawn.lines["a"].count(",") == 200
    assert len(drawn.dots["a"]) == 40
    assert drawn.dots["a"][-1].label == "round 200: 200.0 ± 1.0"


def test_amounts_are_drawn_from_zero() -> None:
    drawn = chart({"a": [(1, 3.001, None), (2, 3.002, None)]}, from_zero=True)
    assert drawn is not None
    assert [words for _, words in drawn.y_ticks] == ["0", "1", "2", "3", "4"]


def test_what_is_no_number_is_not_drawn() -> None:
    assert chart({"a": [(1, math.nan, None), (2, math.inf, None)]}) is None


async def deliver(rest: Rest, number: int, metrics: dict[str, float]) -> None:
    async with rest.context.database.transaction() as session:
        row = await get_round_by_number(session, "trial", number)
        row.started_at = utc_now() - timedelta(minutes=3)
        row.finished_at = utc_now()
        await add_stage(session, row.id, StageKind.PREPARE, {})
        for stage in await list_stages(session, row.id):
            stage.finished_at = row.started_at + timedelta(minutes=1)
        await invite_cohort(session, row.id, [await get_client(session, "trial", "north")])
        ((found, _),) = await list_participations(session, row.id)
        values = {"metrics": metrics, "num_private_samples": 40}
        assert await settle_participation(session, found.id, ParticipationState.DELIVERED, **values)
        found.bytes_up, found.bytes_down = 2_000_000, 5_000_000
        found.contributions = {
            "image": {"weight": 0.5, "similarity": None, "agreement": None, "left_out": False},
            "text": {"weight": 0.125, "similarity": 0.2, "agreement": -0.031, "left_out": False},
        }


async def test_the_page_and_the_file_tell_what_sites_shared(rest: Rest) -> None:
    await rest.federation()
    await rest.enrol("north")
    viewer = await visitor(rest, "viewer")
    page = await viewer.page("/federations/trial/benefit")
    assert "No site has told a comparison yet" in page
    assert "No model version yet" in page
    await rest.publish(3)
    for number in (1, 2):
        await deliver(rest, number, TOLD)
    page = await viewer.page("/federations/trial/benefit")
    assert "50 % image</span>" in page
    assert "12 % text, -0.03</span>" in page
    assert "it helps 1" in page
    assert "+2.0 ± 1.0" in page
    assert page.count('<circle class="dot alone"') == 2
    assert "The last 2 rounds took 6 min and moved 14.0 MB" in page
    assert '<td class="number">14.0 MB</td><td class="number">4 min</td>' in page, "a site works from its invitation on"
    assert 'dot federated worse"' not in page
    answer = await viewer.http.get("/federations/trial/benefit.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == 2 * (len(TOLD) + 2 * 4)
    told = {row["metric"]: row["value"] for row in rows if row["round"] == "2"}
    assert {name: float(value) for name, value in told.items() if "ensemble" not in name} == TOLD
    assert (told["ensemble_weight/image"], told["ensemble_similarity/image"]) == ("0.5", "")
    assert (told["ensemble_weight/text"], told["ensemble_agreement/text"]) == ("0.125", "-0.031")
    assert {(row["site"], row["kind"], row["samples"]) for row in rows} == {("north", "text", "40")}
    await rest.enrol("south")
    assert len((await viewer.http.get("/federations/trial/benefit.csv?site=north")).text.splitlines()) == len(rows) + 1
    assert len((await viewer.http.get("/federations/trial/benefit.csv?site=south")).text.splitlines()) == 1
    assert (await viewer.http.get("/federations/trial/benefit.csv?site=nobody")).status_code == 404
    answer = await viewer.http.get("/federations/trial/benefit/versions.csv")
    grown = [(each["version"], each["from_version"], each["metric"], each["value"]) for each in read(answer.text)]
    assert grown == [("1", "", "rsum", "1.0"), ("2", "1", "rsum", "2.0"), ("3", "2", "rsum", "3.0")]
    answer = await viewer.http.get("/federations/trial/benefit/rounds.csv")
    costs = [(each["round"], each["delivered"], each["bytes_up"], each["bytes_down"]) for each in read(answer.text)]
    assert costs == [("2", "1", "2000000", "5000000"), ("1", "1", "2000000", "5000000")]


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_round_that_does_not_help_a_site_is_red_and_says_over_what() -> None:
    worse = TOLD | {"over_alone/difference": -5.0}
    (site,) = site_gains([client()], [(part(TOLD), 1), (part(worse), 2)])
    figure = site_figure(site)
    assert figure is not None
    assert [(dot.worse, "worse than trained alone" in dot.label) for dot in figure.drawn.dots["federated"]] == [
        (False, False),
        (True, True),
    ]
    assert not any(dot.worse for dot in figure.drawn.dots["alone"])
    assert figure.red


@pytest.mark.parametrize(("value", "is_red"), [(99.0, False), (97.0, True), (103.0, False)])
def test_a_version_is_red_where_it_is_below_its_parent_by_more_than_its_error(value: float, is_red: bool) -> None:
    first = ModelVersionRow(version=1, metrics={"rsum": 100.0, "rsum_standard_error": 2.0})
    second = ModelVersionRow(version=2, parent_version=1, metrics={"rsum": value, "rsum_standard_error": 2.0})
    figure = server_figure([first, second], "rsum")
    assert figure is not None
    assert [dot.worse for dot in figure.drawn.dots["federated"]] == [False, is_red]
    assert [dot.high is not None for dot in figure.drawn.dots["federated"]] == [True, True]
    assert server_figure([], "rsum") is None


def test_what_a_site_counts_for_is_drawn_by_modality_and_red_where_it_was_left_out() -> None:
    first, second = part(None), part(TOLD)
    told = {"similarity": 0.5, "agreement": None}
    first.contributions = {"image": {"weight": 0.25, "left_out": False} | told}
    second.contributions = {name: {"weight": 0.0, "left_out": name == "text"} | told for name in ("image", "text")}
    (site,) = site_gains([client(kind="pair")], [(first, 1), (second, 2)])
    figure = weight_figure(site)
    assert figure is not None
    assert [dot.label for dot in figure.drawn.dots["federated"]] == ["round 1: 25.0", "round 2: 0.0"]
    assert [(dot.label, dot.worse) for dot in figure.drawn.dots["local"]] == [("round 2: 0.0, left out", True)]
    (other,) = site_gains([client()], [(part(TOLD), 1)])
    assert weight_figure(other) is None


def test_a_marked_round_is_drawn_among_many() -> None:
    drawn = chart({"a": [(number, float(number), None) for number in range(1, 201)]}, {"a": {2: "worse"}})
    assert drawn is not None
    assert [dot.label for dot in drawn.dots["a"] if dot.worse] == ["round 2: 2.0, worse"]
