"""`gristmill forget LINE ID…`: the line becomes one that never had these rows.

The rounds from the first one that could read a row are done again, with the same keys and settings, and without the
row. So are their decisions and the rollbacks after them. What the rounds of before have made is deleted at the end.
The result has the same bytes as a line that never had the row, if the engines repeat themselves.

    <store>/lines/<line>/forget.json   what is still to be done again; absent if nothing is
                         forget.txt    the folders that have the rows, or were made from them; not all are of the line
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import from_table
from gristmill.cluster.io.ingest import STORED
from gristmill.cluster.jobs import clean
from gristmill.cluster.jobs.state import RUNS
from gristmill.cluster.refresh import quarantine, replay
from gristmill.cluster.refresh.line import Opening
from gristmill.cluster.refresh.lineage import descendants
from gristmill.cluster.refresh.registry import (
    DECISIONS,
    ROLLBACKS,
    ROUNDS,
    Aliases,
    Line,
    Rollback,
    Round,
    file_of,
    holding,
    line_of,
    settled,
)
from gristmill.cluster.store.store import Store
from gristmill.cluster.text.terminal import visible

PLAN, HOLDERS = "forget.json", "forget.txt"


@dataclass(frozen=True)
class Redo:
    """A round that is done again."""

    opening: dict[str, Any]
    """The fields of its `Opening`, without the forgotten rows."""
    abandoned: bool
    """Whether it was ended without a decision."""


@dataclass(frozen=True)
class Plan:
    """What is to be done again."""

    ids: list[str]
    """Ids of the rows to forget."""
    first: int
    """The first round that is done again."""
    rounds: list[Redo]
    rollbacks: list[tuple[int, int, str]]
    """Of each rollback that is done again: the round after which it was, the round of the model, and the reason."""
    runs: list[str]
    """The runs of before."""
    aliases: Aliases
    """The aliases before the first of these rounds."""
    applied: bool = False
    """Whether the records of before are deleted."""


def run(arguments: argparse.Namespace) -> int:
    """Carry out the verb `forget`, and return the exit code."""
    store = Store(arguments.store)
    line_of(store, arguments.line)
    with holding(store, arguments.line) as line:
        plan = forget(line, arguments.id)
    last = plan.first + len(plan.rounds) - 1
    said = f"{line.name}: rounds {plan.first} to {last} are to be done again without {len(plan.ids)} rows"
    sys.stdout.write(visible(f"{said}; `gristmill refresh` with the recipe of the line does it\n"))
    sys.stdout.write("remove the rows from your files too, or the next round reads them again\n")
    return 0


def forget(line: Line, ids: Sequence[str]) -> Plan:
    """Delete the records of the rounds that could read these rows, and return what is to be done again.

    The caller holds the lease of the line.

    Raises:
        JobError: if no input of a round has one of the rows, an input would have no row without them, or the line is
            still forgetting others.
    """
    quarantine.settle(line)
    if pending(line):
        raise JobError(f"{line.name}: is still forgetting other rows, must have ended; run `gristmill refresh` first")
    gone, rounds = set(ids), line.rounds()
    has = {
        name: gone & {*replay.ids_of(line.store, name)} for name in {n for one in rounds for n in one.inputs.values()}
    }
    unknown = sorted(gone - {name for found in has.values() for name in found})
    if unknown:
        raise JobError(f"{line.name}: no round has read the row {unknown[0]}, must be the id of a row of its inputs")
    first = next(one.number for one in rounds if any(has[name] for name in one.inputs.values()))
    again = rounds[first - 1 :]
    without = {name: _without(line.store, name, gone) if found else name for name, found in has.items()}
    by_model = {one.challenger: one.number for one in rounds if one.state == "promoted"}
    watched = {one.after for one in line.rollbacks() if one.reason.startswith(quarantine.CANARY)}  # decided again
    later = [one for one in line.rollbacks() if one.after >= first and one.after not in watched]
    plan = Plan(
        ids=sorted(gone),
        first=first,
        rounds=[Redo(_reopened(one, without), one.state == "abandoned" and one.number not in watched) for one in again],
        rollbacks=[(one.after, by_model[one.model], one.reason) for one in later],
        runs=[one.run for one in again if one.run],
        aliases=_aliases_before(line, rounds, first),
    )
    holders = "".join(f"{name}\n" for name in sorted(_holders(line.store, plan.ids)))
    line.store.write_bytes(holders.encode(), line.folder, HOLDERS)
    _write(line, plan)
    return settle(line) or plan


def pending(line: Line) -> Plan | None:
    """Return what is still to be done again, or None."""
    return line.store.read_as(Plan, line.folder, PLAN) if line.store.exists(line.folder, PLAN) else None


def settle(line: Line) -> Plan | None:
    """Delete the records of before if that was not done yet, and return what is still to be done again."""
    plan = pending(line)
    if plan is None or plan.applied:
        return plan
    for one in line.rounds()[plan.first - 1 :]:
        for kind in (DECISIONS, ROUNDS):
            line.store.delete(f"{line.folder}/{kind}", file_of(one.number))
    for past in line.rollbacks():
        if past.after >= plan.first:
            line.store.delete(f"{line.folder}/{ROLLBACKS}", file_of(past.number))
    line.write(plan.aliases)
    plan = replace(plan, applied=True)
    _write(line, plan)
    return plan


def next_opening(line: Line, plan: Plan) -> Opening | None:
    """Return what the next round begins with; None if all are done again.

    Rollbacks that came after the last round are done again first.
    """
    rounds = line.rounds()
    number = len(rounds)
    for after, of, reason in plan.rollbacks:
        if after == number and line.aliases().champion == rounds[of - 1].challenger != "":
            quarantine.rollback(line, reason)
    place = number + 1 - plan.first
    if place >= len(plan.rounds):
        return None
    return Opening(**plan.rounds[place].opening)


def finish(line: Line, plan: Plan) -> list[str]:
    """Delete what the rounds of before have made, and return the folders of others that still have the rows."""
    store, now = line.store, {one.run for one in line.rounds()}
    holders = set(store.read_bytes(line.folder, HOLDERS).decode().split())
    for name in plan.runs:
        if name not in now:
            store.delete_folder(f"{RUNS}/{name}")
    for found in clean.unneeded(store):
        if found.folder.removeprefix(clean.INDEX) in holders and not found.files:
            clean.delete(store, found)
    left = sorted(name for name in holders if store.exists(name))
    store.delete(line.folder, PLAN, HOLDERS)
    return left


def _holders(store: Store, ids: Sequence[str]) -> set[str]:
    """Return the datasets with these rows or descendants of them, and all folders that were made from these."""
    manifests = {manifest.name: manifest for manifest in store.entries()[0]}
    found = set(descendants(store, ids))
    while more := {n for n, one in manifests.items() if n not in found and not found.isdisjoint(one.inputs.values())}:
        found |= more
    return found


def _without(store: Store, dataset: str, gone: set[str]) -> str:
    if gone.issuperset(replay.ids_of(store, dataset)):
        raise JobError(f"{dataset}: has no other row, must have one; the line cannot do its rounds again without it")
    return replay.kept(store, (row for table in store.scan(dataset) for row in from_table(table) if row.id not in gone))


def _reopened(one: Round, without: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of the opening of a round with other datasets."""
    inputs = {key: without[name] for key, name in one.inputs.items()}
    return asdict(Opening(one.key, one.alarm, inputs, one.settings, _replaced(one.tables, without)))


def _replaced(value: Any, without: Mapping[str, str]) -> Any:  # noqa: ANN401 - any JSON value
    """Return a JSON value in which pointers to datasets lead to the others."""
    if isinstance(value, Mapping):
        return {key: _replaced(inner, without) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, without) for inner in value]
    if isinstance(value, str) and value.startswith(STORED):
        return f"{STORED}{without.get(value.removeprefix(STORED), value.removeprefix(STORED))}"
    return value


def _aliases_before(line: Line, rounds: Sequence[Round], first: int) -> Aliases:
    """Return the aliases as they were before a round began."""
    now = Aliases()
    past: list[Rollback] = line.rollbacks()
    for one in rounds[: first - 1]:
        now = settled(now, one)
        for taken in (each for each in past if each.after == one.number):
            now = quarantine.taken_back(now, rounds[: one.number], taken)
    return now


def _write(line: Line, plan: Plan) -> None:
    line.store.write_json(asdict(plan), line.folder, PLAN)
