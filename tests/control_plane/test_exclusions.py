"""An operator leaves a client out from a round on, with the reason written down, and takes it back."""

from __future__ import annotations

from typing import Any

from tests.control_plane.rest import Rest

from fedafd.domain.states import RoundState
from fedafd.persistence.models import utc_now
from fedafd.persistence.round_repository import add_rounds

CLIENT = "/federations/trial/clients/north"


async def prepared(rest: Rest, *states: RoundState) -> None:
    """Rounds in these states, of which all but queued ones were started."""
    async with rest.context.database.transaction() as session:
        rows = await add_rounds(session, "trial", {"name": "trial"}, "0" * 64, len(states))
        for row, state in zip(rows, states, strict=True):
            row.state, row.started_at = state.value, None if state is RoundState.QUEUED else utc_now()


async def exclude(rest: Rest, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = await rest.http.put(f"{CLIENT}/exclusion", json={"reason": "its rows are a copy"} | body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_client_is_left_out_from_the_first_round_that_invited_nobody(rest: Rest) -> None:
    await rest.federation()
    await rest.enrol("north")
    assert (await exclude(rest))["excluded_from_round"] == 1
    await prepared(rest, RoundState.COMPLETED, RoundState.COLLECTING, RoundState.QUEUED)
    found = await exclude(rest, reason="again, \x1b[31mred")
    assert (found["excluded_from_round"], found["state"]) == (3, "enrolled")
    assert "\x1b" not in found["exclusion_reason"]
    assert (await exclude(rest, from_round=9))["excluded_from_round"] == 9
    assert "exclude it from round 3 on" in (await exclude(rest, 409, from_round=2))["detail"]
    for body in ({"reason": ""}, {"reason": " \t"}, {"reason": None}, {"from_round": 0}, {"why": "x"}):
        await exclude(rest, 422, **body)


async def test_a_round_that_is_being_prepared_has_invited_nobody(rest: Rest) -> None:
    await rest.federation()
    await rest.enrol("north")
    await prepared(rest, RoundState.PREPARING, RoundState.QUEUED)
    assert (await exclude(rest))["excluded_from_round"] == 1


async def test_who_is_readmitted_has_no_exclusion_and_both_are_in_the_audit_log(rest: Rest) -> None:
    await rest.federation()
    await rest.enrol("north")
    assert (await rest.http.delete(f"{CLIENT}/exclusion")).status_code == 409
    await exclude(rest, from_round=4)
    back = (await rest.http.delete(f"{CLIENT}/exclusion")).json()
    assert (back["excluded_from_round"], back["exclusion_reason"]) == (None, None)
    events = (await rest.http.get("/federations/trial/events")).json()["items"]
    told = [(e["kind"], e["data"]) for e in events if e["kind"] in ("client.excluded", "client.readmitted")]
    assert told == [
        ("client.excluded", {"client": "north", "from_round": 4, "reason": "its rows are a copy"}),
        ("client.readmitted", {"client": "north"}),
    ]


async def test_a_client_that_does_not_exist_is_told_so(rest: Rest) -> None:
    await rest.federation()
    assert (await rest.http.put(f"{CLIENT}/exclusion", json={"reason": "x"})).status_code == 404
