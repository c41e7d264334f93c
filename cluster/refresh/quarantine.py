"""`gristmill rollback LINE`: the champion before takes its place again, and the rows of the bad model are put apart.

The rollback is written first, with the ids of all rows that it puts apart. Then the open round ends, which began with
the bad model, and the aliases move. A rollback that was killed in between is finished by the next one, or by the next
tick of the line.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow.compute as pc

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.refresh import mlflow, replay, report
from gristmill.cluster.refresh.lineage import descendants
from gristmill.cluster.refresh.registry import Aliases, Line, Rollback, Round, champion_before, holding, line_of
from gristmill.cluster.store.store import Store
from gristmill.cluster.text.terminal import visible

CANARY = "canary: "
"""Beginning of the reason of a rollback that the rows of a round have caused."""


def run(arguments: argparse.Namespace) -> int:
    """Carry out the verb `rollback`, and return the exit code."""
    store = Store(arguments.store)
    line_of(store, arguments.line)
    with holding(store, arguments.line) as line:
        done = rollback(line, arguments.reason)
        report.write(line)
        mlflow.mirror(line)
    count = sum(map(len, done.quarantined.values()))
    sys.stdout.write(visible(f"{line.name}: the champion is {done.to or 'the base model'} again, after {done.model}\n"))
    sys.stdout.write(f"{count} rows that it wrote, and their descendants, are not trained on again\n")
    return 0


def rollback(line: Line, reason: str = "") -> Rollback:
    """Move the alias `champion` back to the model before, and return what was done.

    The caller holds the lease of the line.

    Raises:
        JobError: if the base model is the champion.
    """
    pending = settle(line)
    if pending:
        return pending
    champion, rounds = line.aliases().champion, line.rounds()
    if not champion:
        raise JobError(f"{line.name}: the base model is the champion, must be a model of a round to go back from it")
    done = Rollback(
        number=len(line.rollbacks()) + 1,
        model=champion,
        to=champion_before(rounds, champion),
        reason=reason,
        after=len(rounds),
        quarantined=written_by(line.store, champion, replay.written(rounds)),
    )
    line.write(done)
    settle(line)
    return done


def settle(line: Line) -> Rollback | None:
    """Finish the last rollback if it was killed, and return it; else return None."""
    now = line.aliases()
    done = next(reversed(line.rollbacks()), None)
    if done is None or done.number <= now.rollback:
        return None
    rounds = line.rounds()
    for one in rounds:
        if one.state == "open":
            line.write(replace(one, state="abandoned"))
    line.write(taken_back(now, rounds, done))
    return done


def taken_back(now: Aliases, rounds: Sequence[Round], done: Rollback) -> Aliases:
    """Return the aliases after a rollback. `rounds` are those before it."""
    before = champion_before(rounds, done.to)
    return replace(now, champion=done.to, previous=before, rollback=done.number, round=len(rounds))


def written_by(store: Store, model: str, datasets: Sequence[str]) -> dict[str, list[str]]:
    """Return the ids of the rows of these datasets that a model wrote, and of those made from them, by dataset."""
    own = {name for dataset in datasets for name in _of_model(store, dataset, model)}
    found = descendants(store, own) if own else {}
    return {name: found[name] for name in datasets if name in found}


def _of_model(store: Store, dataset: str, model: str) -> Iterator[str]:
    """Yield the ids of the kept rows of a dataset that a model wrote."""
    for table in store.scan(dataset, ["id", "origin", "dropped"]):
        rows = table.filter(pc.is_null(table["dropped"]))
        theirs = pc.equal(pc.struct_field(rows["origin"], "model"), model)
        yield from rows["id"].filter(theirs).to_pylist()
