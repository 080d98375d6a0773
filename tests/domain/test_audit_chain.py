"""Tampering with the audit log is found, and the first entry that does not fit is named."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedafd.domain.audit_chain import START, AuditEntry, ChainCheck, Head, entry_hash
from fedafd.domain.errors import DataError

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def log(count: int = 6, **data: Any) -> list[dict[str, Any]]:
    """A log in the form in which it is exported."""
    entries, previous = [], START
    for number in range(1, count + 1):
        at = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC) + timedelta(seconds=number)
        found = {"id": 2 * number, "at": at.isoformat(), "federation": "trial", "kind": "client.invited"}
        found |= {
            "actor": "api-key:ann",
            "address": "192.0.2.7",
            "data": {"client": f"site-{number}", **data},
            "hash": None,
        }
        previous = found["hash"] = entry_hash(previous, AuditEntry.of_json(found))
        entries.append(found)
    return entries


def misfit(entries: list[dict[str, Any]], *anchors: Head) -> str | None:
    check = ChainCheck(anchors)
    found = (check.misfit(AuditEntry.of_json(json.loads(json.dumps(each)))) for each in entries)
    return next((each for each in found if each), None) or check.missing_end()


def head(entry: dict[str, Any]) -> Head:
    return Head(id=entry["id"], hash=entry["hash"])


def test_an_untouched_log_fits_its_anchors() -> None:
    entries = log()
    assert misfit(entries, head(entries[5]), head(entries[1])) is None
    assert misfit([]) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", 7),
        ("at", "2026-01-02T03:04:08.000679+00:00"),
        ("federation", "other"),
        ("federation", None),
        ("kind", "client.revoked"),
        ("actor", "api-key:bob"),
        ("address", "192.0.2.8"),
        ("address", None),
        ("data", {"client": "site-4"}),
        ("data", {"client": "site-3", "federation": "trial"}),
        ("hash", "f" * 64),
        ("hash", None),
    ],
)
def test_a_changed_field_is_found_at_its_entry(field: str, value: Any) -> None:
    entries = log()
    entries[2][field] = value
    assert (misfit(entries) or "").startswith(f"entry {entries[2]['id']} (")


def test_an_entry_from_before_addresses_were_noted_keeps_its_hash_and_takes_no_address() -> None:
    entry = {"id": 2, "at": "2026-01-02T03:04:05.000678+00:00", "federation": "trial", "kind": "client.invited"}
    entry |= {"actor": "api-key:ann", "data": {"client": "site-1"}}
    entry["hash"] = "d634917721d7062b7547fc8dbcb7616e6f2d881c27265ccb875c12909084a8a9"
    assert misfit([entry]) is None
    assert misfit([entry | {"address": "192.0.2.7"}]) is not None


def test_what_is_removed_put_in_or_swapped_is_found_where_it_stood() -> None:
    entries = log()
    added = entries[2] | {"id": 7}
    for tampered, named in (
        (entries[1:], 4),
        (entries[:2] + entries[3:], 8),
        ([*entries[:3], added, *entries[3:]], 7),
        ([*entries[:2], entries[3], entries[2], *entries[4:]], 8),
        ([*entries[:3], entries[2], *entries[3:]], 6),
    ):
        assert (misfit(tampered) or "").startswith(f"entry {named} (")


def test_a_cut_end_and_a_log_made_anew_are_found_by_an_anchor() -> None:
    entries, anew = log(), log(forged=True)
    assert misfit(entries[:4]) is None
    assert "ends with entry 8" in (misfit(entries[:4], head(entries[5])) or "")
    assert "is empty" in (misfit([], head(entries[5])) or "")
    assert misfit(anew) is None
    assert (misfit(anew, head(entries[3])) or "").startswith("entry 8 (")
    assert (misfit(entries, Head(id=7, hash=entries[2]["hash"])) or "").startswith("entry 8 (")


def outside(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As the deletion of their federation leaves them."""
    return [each | {"federation": None, "data": each["data"] | {"federation": "trial"}} for each in entries]


def going_on(entries: list[dict[str, Any]], kind: str, column: str | None, **data: Any) -> list[dict[str, Any]]:
    """The log with one more entry."""
    added = entries[-1] | {"id": entries[-1]["id"] + 1, "kind": kind, "federation": column, "data": data}
    added["hash"] = entry_hash(entries[-1]["hash"], AuditEntry.of_json(added | {"hash": None}))
    return [*entries, added]


def test_the_deletion_of_a_federation_changes_no_hash() -> None:
    whole = going_on(log(), "federation.deleted", None, federation="trial")
    *before, deleted = whole
    for moved in (outside(before), before[:3] + outside(before[3:]), before):  # read before, during and after it
        assert misfit([*moved, deleted]) is None


def test_an_entry_outside_of_a_federation_that_was_not_deleted_since_is_found() -> None:
    entries = log()
    hidden = entries[:2] + outside(entries[2:3]) + entries[3:]
    assert "entry 6 (client.invited" in (misfit(hidden) or "") and "taken out of the federation 'trial'" in (
        misfit(hidden) or ""
    )
    again = going_on(going_on(entries, "federation.deleted", None, federation="trial"), "client.invited", "trial")
    assert misfit(outside(again[:6]) + again[6:]) is None
    assert "entry 14 (client.invited" in (misfit(outside(again[:6]) + again[6:7] + outside(again[7:])) or "")


def test_a_number_is_the_same_in_each_form_of_json() -> None:
    (entry,) = log(1, seconds=1000.0)
    for form in (1000, 1e3):
        assert misfit([entry | {"data": entry["data"] | {"seconds": form}}]) is None
    assert misfit([entry | {"data": entry["data"] | {"seconds": 1000.5}}]) is not None


@pytest.mark.parametrize("depth", [90, 150, 900])
def test_data_are_read_or_refused_however_deep_they_are(depth: int) -> None:
    """`audit verify` ended with a trace, and without a word about the entries before."""
    deep: Any = {"end": 1}
    for number in range(depth):
        deep = {"a": deep} if number % 2 else [deep]
    (entry,) = log(1)
    found = entry | {"data": {"deep": deep}}
    if depth < 100:
        assert "does not fit" in (misfit([found]) or "")
    else:
        with pytest.raises(DataError, match="data of 2 are nested more than 100 times"):
            AuditEntry.of_json(found)


@settings(max_examples=60, deadline=None)
@given(ANYTHING)
def test_whatever_is_no_entry_is_refused_with_words(found: Any) -> None:
    with pytest.raises(DataError):
        AuditEntry.of_json(found)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["id", "at", "federation", "kind", "actor", "data", "hash"]), ANYTHING)
def test_any_value_in_a_field_is_refused_or_hashed(field: str, value: Any) -> None:
    (entry,) = log(1)
    try:
        read = AuditEntry.of_json(entry | {field: value})
    except DataError:
        return
    assert len(entry_hash(START, read)) == 64


@pytest.mark.parametrize("text", ["", "7", "7:", "x:" + START, "7:" + "g" * 64, "7:" + START[1:], "-7:" + START])
def test_an_anchor_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="is not ID:HASH"):
        Head.parse(text)
    assert str(Head.parse(f" 7:{START}\n")) == f"7:{START}"
