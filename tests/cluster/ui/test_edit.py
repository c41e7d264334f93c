"""Decisions become a new dataset, row by row as they were meant, and the old one stays as it is."""

from dataclasses import replace
from pathlib import Path

import pytest

from gristmill.cluster.contract.errors import BusyError, JobError, StoreError
from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.io.ingest import Source, ingest
from gristmill.cluster.store.ledger import lock
from gristmill.cluster.store.store import Store
from gristmill.cluster.ui.decisions import FOLDER, Decision, Decisions, Verdict
from gristmill.cluster.ui.edit import edited, save
from tests.cluster.ui.conftest import ROWS
from tests.invariants import check_dataset


def decided(row: int, verdict: Verdict, **more: object) -> Decision:
    return Decision(ROWS[row].id, row, verdict, "Mei", **more)  # type: ignore[arg-type]


DECISIONS = {
    0: decided(0, "edited", texts=("列举四条河流", "长江、黄河、珠江、淮河")),
    1: decided(1, "rejected", note="not a task"),
    2: decided(2, "accepted"),
    3: decided(3, "rejected"),
    4: decided(4, "accepted"),
}


def test_a_dataset_of_decisions(filled: Store) -> None:
    before = {path: path.read_bytes() for path in filled.folder("generate-1").iterdir()}
    name = save(filled, "generate-1", DECISIONS)
    rows = check_dataset(filled, name, "ingest-1")
    tags = {"decided_by": "Mei", "decision": "accepted"}
    new = rows[1]
    assert rows == [
        replace(ROWS[0], dropped=f"person: replaced by {new.id}", tags={"topic": "地理", **tags, "decision": "edited"}),
        new,
        replace(ROWS[1], dropped="person: rejected",
                tags={"topic": "<b>code</b>", **tags, "decision": "rejected", "decision_note": "not a task"}),
        replace(ROWS[2], tags={"topic": "geography", **tags}),
        replace(ROWS[3], tags={**tags, "decision": "rejected"}),
        replace(ROWS[4], dropped=None, tags={**tags, "dropped_before": ROWS[4].dropped or ""}),
        *ROWS[5:],
    ]  # fmt: skip
    assert new.messages == (Message("user", "列举四条河流"), Message("assistant", "长江、黄河、珠江、淮河"))
    assert (new.parents, new.method, new.dropped) == ((ROWS[0].id,), "edit", None)
    assert new.scores == {"weight": 2.0}, "the other scores are those of the old text"
    assert new.tags == {"topic": "地理", **tags, "decision": "edited"}
    assert new.origin is not None and new.origin.model == "person"
    manifest = filled.manifest(name)
    assert (manifest.job, manifest.inputs) == ("edit", {"samples": "generate-1"})
    assert manifest.metadata == {"accepted": "2", "rejected": "2", "edited": "1", "decided_by": "Mei"}
    assert {path: path.read_bytes() for path in filled.folder("generate-1").iterdir()} == before


def test_the_same_decisions_are_the_same_dataset_and_others_another(filled: Store) -> None:
    name = save(filled, "generate-1", DECISIONS)
    shard = filled.folder(name) / "shard-00000.arrow"
    first = shard.stat().st_mtime_ns
    assert save(filled, "generate-1", dict(reversed(DECISIONS.items()))) == name
    assert shard.stat().st_mtime_ns == first
    other = save(filled, "generate-1", {0: DECISIONS[0]})
    assert other != name
    assert check_dataset(filled, other, "ingest-1")[1].id == check_dataset(filled, name, "ingest-1")[1].id


def test_a_dataset_of_decisions_is_an_input_and_can_be_decided_about_again(filled: Store) -> None:
    name = save(filled, "generate-1", DECISIONS)
    taken = ingest(filled, Source.model_validate(f"{filled.at(name)}/shard-*.arrow"))
    came = check_dataset(filled, taken)
    kept = [row for row in check_dataset(filled, name, "ingest-1") if not row.dropped]
    assert [row.messages for row in came if not row.dropped] == [row.messages for row in kept]
    assert {row.tags.get("decision") for row in came} == {"accepted", "rejected", "edited", None}
    again = save(filled, name, {0: Decision(ROWS[0].id, 0, "accepted", "Jo")})
    first = check_dataset(filled, again, name, "ingest-1")[0]
    assert (first.dropped, first.tags["decided_by"]) == (None, "Jo")
    assert first.tags["dropped_before"].startswith("person: replaced by ")


def test_an_edit_makes_a_kept_row_of_a_dropped_one(filled: Store) -> None:
    name = save(filled, "generate-1", {3: decided(3, "edited", texts=("Name a river in Saxony", "Elbe"))})
    old, new = check_dataset(filled, name, "ingest-1")[3:5]
    assert old.dropped == ROWS[3].dropped, "the first reason is kept"
    assert (new.dropped, new.parents, new.instruction) == (None, (old.id,), "Name a river in Saxony")


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (("only one",), "1 texts, must be one for each of its 2 turns"),
        (("Name", "Elbe"), "is as before"),
        (("Name", " \n"), "turn 2 is empty"),
        (("Name", None), "turn 2 is empty"),
    ],
)
def test_an_edit_that_is_none_is_refused(texts: tuple[str | None, ...], said: str) -> None:
    with pytest.raises(JobError, match=said):
        edited(ROWS[3], texts)


def test_only_turns_of_text_can_be_edited() -> None:
    with pytest.raises(JobError, match="turn 2 has parts that are no text"):
        edited(ROWS[6], ("Weather?", "Rain"))
    turns = edited(ROWS[6], ("Weather in Köln?", None))
    assert (turns[0].content, turns[1]) == ("Weather in Köln?", ROWS[6].messages[1])
    parts = Sample("a", (Message("user", "see", parts='[{"type":"text","length":3}]'),))
    with pytest.raises(JobError, match="turn 1 has parts"):
        edited(parts, ("look",))


def test_decisions_that_do_not_fit_the_dataset_leave_no_dataset(filled: Store) -> None:
    with pytest.raises(JobError, match="has no decisions"):
        save(filled, "generate-1", {})
    with pytest.raises(StoreError, match="is not the sample of its row"):
        save(filled, "generate-1", {0: replace(DECISIONS[1], row=0)})
    assert not [name for name in filled.names() if filled.complete(name) and name.startswith("edit-")]


def test_decisions_are_on_disk_and_the_last_one_holds(filled: Store) -> None:
    first = Decisions(filled, "generate-1")
    first.put(DECISIONS[1])
    first.put(DECISIONS[0])
    first.put(decided(1, "accepted"))
    first.withdraw(0)
    first.withdraw(6)
    first.close()
    path = Path(filled.at(FOLDER, "generate-1", "ledger.jsonl"))
    assert path.read_text().count("\n") == 4
    with path.open("a") as out:
        out.write(
            '{"time": 1, "event": "decided", "row": "x"}\n{"time": 1, "event": "decided", "row": 5, "samp'
        )  # a kill
    second = Decisions(filled, "generate-1")
    assert second.all() == {1: decided(1, "accepted")}
    second.put(DECISIONS[2])
    second.close()
    assert Decisions(filled, "generate-1").all() == {1: decided(1, "accepted"), 2: DECISIONS[2]}


def test_one_process_at_a_time_decides(filled: Store) -> None:
    decisions = Decisions(filled, "generate-1")
    with (
        lock(filled, f"{FOLDER}/generate-1"),
        pytest.raises(BusyError, match="another `gristmill ui` decides about it"),
    ):
        decisions.put(DECISIONS[0])
    decisions.put(DECISIONS[0])
    decisions.close()
