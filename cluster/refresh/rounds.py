"""`gristmill refresh recipe.toml`: one tick of a line. It begins a round that is due, or continues the open one.

    begin → generate → select → train → evaluate → decide → promote | keep → end

A round is an ordinary run of the recipe, in which pointers to the champion and to datasets are put. So its jobs have
their fingerprints, leases and resume. The records of a line are written in one order: the round, its decision, the
aliases, and the round again when it has ended. A tick that was killed in between is finished by the next one, and each
write has the same bytes as the first time.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from gristmill import __version__
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.jobs.job import SAMPLE_JOBS, Work
from gristmill.cluster.jobs.recipe import Recipe, load
from gristmill.cluster.jobs.run import execute
from gristmill.cluster.refresh import canary, forget, mlflow, quarantine, replay, report, wear
from gristmill.cluster.refresh import line as pointers
from gristmill.cluster.refresh.line import Tick
from gristmill.cluster.refresh.registry import STATES, Decision, Line, Round, State, holding, settled
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.lease import Say
from gristmill.cluster.store.store import Store
from gristmill.cluster.text.terminal import visible

DECIDED = "decision"
"""Name of the decision among the figures of the job that evaluates."""
EVALUATE, TRAIN = "evaluate", "train"
APART = "near copy of a test row"
"""Reason for which a row near an item of a suite is not trained on."""


@dataclass(frozen=True)
class Outcome:
    """What a tick has done."""

    line: str
    round: int
    """The round that it began or continued; 0 if it did nothing."""
    state: str
    """State of that round, or `waiting` if no round began."""
    why: str
    """What the line waits for, or the reasons of the decision."""
    champion: str
    """The model that is champion now; empty for the base model."""


def run(arguments: argparse.Namespace) -> int:
    """Carry out the verb `refresh`, and return the exit code."""
    screen = Screen(quiet=arguments.quiet or arguments.json)
    recipe = load(arguments.recipe, arguments.set)
    found = refresh(
        recipe, screen, key=arguments.key, alarm=arguments.alarm, wait=arguments.wait, abandon=arguments.abandon
    )
    if arguments.json:
        sys.stdout.write(json.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(visible("\n".join(lines(found))) + "\n")
    return 0


def lines(found: Outcome) -> list[str]:
    """Return what a tick has done, for people."""
    if found.state == "waiting":
        return [f"{found.line}: nothing to do, {found.why}"]
    why = f": {found.why}" if found.why else ""
    return [
        f"{found.line}: round {found.round} is {found.state}{why}",
        f"{found.line}: the champion is {found.champion or 'the base model'}",
    ]


def refresh(
    recipe: Recipe,
    screen: Screen,
    *,
    key: str = "",
    alarm: str = "",
    wait: bool = False,
    abandon: bool = False,
    clock: Callable[[], float] = time.time,
) -> Outcome:
    """Do one tick of a line.

    Args:
        recipe: the recipe of the line.
        screen: the terminal.
        key: key of the tick; by default the slot of time.
        alarm: why a round must begin without new rows; empty if none must.
        wait: whether to wait until no other process works on the line.
        abandon: whether to end the open round without a decision.
        clock: returns the time in seconds since 1970.

    Raises:
        JobError: if the recipe lacks something, or there is no round to abandon.
        BusyError: if another process works on the line.
        GristmillError: if a job fails. The round stays open, and the next tick continues it.
    """
    lacking = list(pointers.problems(recipe))
    if lacking:
        raise JobError("\n".join(f"{recipe.path}: {line}" for line in lacking))
    assert recipe.refresh is not None
    say: Say | None = screen.say if wait else None
    with holding(Store(recipe.store), recipe.name, say) as line:
        quarantine.settle(line)
        if forget.settle(line):
            return _redo(line, recipe, screen)
        last = next(reversed(line.rounds()), None)
        if last is not None and last.state == "open":
            return _end(line, last, "abandoned") if abandon else _run(line, last, recipe, screen)
        if abandon:
            raise JobError(f"--abandon: {recipe.name} has no open round, must have one to abandon")
        now = clock()
        tick = Tick(key or pointers.key_of(recipe.refresh, now), alarm)
        why = pointers.waits(recipe.refresh, line.rounds(), tick, now)
        begun = why or pointers.begin(line, recipe, tick)
        if isinstance(begun, str):
            return Outcome(line.name, 0, "waiting", begun, line.aliases().champion)
        line.write(begun)
        return _run(line, begun, recipe, screen)


def _redo(line: Line, recipe: Recipe, screen: Screen) -> Outcome:
    """Do the rounds again that read forgotten rows, and delete what they had made."""
    plan = forget.pending(line)
    assert plan is not None
    while True:
        last = line.rounds()[-1] if line.rounds() else None
        if last is not None and last.state == "open":
            abandoned = plan.rounds[last.number - plan.first].abandoned
            _ = _end(line, last, "abandoned") if abandoned else _run(line, last, recipe, screen)
        opening = forget.next_opening(line, plan)
        if opening is None:
            break
        line.write(pointers.opened(line, opening))
    left = forget.finish(line, plan)
    also = f"; other runs still have them or what was made from them: {', '.join(left)}" if left else ""
    why = f"{len(plan.ids)} rows are forgotten, rounds {plan.first} to {len(line.rounds())} are done again{also}"
    return Outcome(line.name, len(line.rounds()), line.rounds()[-1].state, why, line.aliases().champion)


def _run(line: Line, one: Round, recipe: Recipe, screen: Screen) -> Outcome:
    """Run an open round to its end."""
    screen.say(f"{line.name}: round {one.number}, from {one.start or 'the base model'}")
    found = line.decision(one.number)
    whole = load(pointers.recipe_of_round(line, one, recipe))
    works = whole.works()
    outputs = {name: work.output for name, work in works.items()}
    if found is None:
        reasons = _canary(line, one, whole, works, screen)
        if reasons:
            done = quarantine.rollback(line, f"{quarantine.CANARY}{'; '.join(reasons)}")
            report.write(line)
            mlflow.mirror(line)
            return Outcome(line.name, one.number, "abandoned", f"rolled back, {done.reason}", done.to)
        execute(whole, works, list(works), screen)
    samples = next((outputs[name] for name in reversed(SAMPLE_JOBS) if name in outputs), "")
    one = replace(
        one, run=whole.run_id(works), outputs=outputs, rows=samples, challenger=outputs[TRAIN],
    )  # fmt: skip
    if found is None:
        found = _decided(line, one)
        line.write(found)
    for warning in (*_worn(line, one, found), *canary.trends(line.store, [*_before(line, one), one])):
        screen.say(f"{line.name}: {warning}")
    return _end(line, one, STATES[found.verdict], "; ".join(found.evidence["reasons"]))


def _before(line: Line, one: Round) -> list[Round]:
    return line.rounds()[: one.number - 1]


def _canary(line: Line, one: Round, whole: Recipe, works: Mapping[str, Work], screen: Screen) -> tuple[str, ...]:
    """Make the new rows of a round, and return why its champion must not go on writing."""
    if not one.settings.get("canary") or canary.GENERATE not in works:
        return ()
    execute(whole, works, [canary.GENERATE], screen)
    return canary.alarms(line.store, _before(line, one), one, works[canary.GENERATE].output)


def _worn(line: Line, one: Round, found: Decision) -> Iterator[str]:
    """Yield a line for each suite that was decided on too often."""
    suites = {key.removeprefix(pointers.SUITES).partition(".")[0]: dataset for key, dataset in one.inputs.items()
              if key.startswith(pointers.SUITES)}  # fmt: skip
    decisions = [decided for number in range(1, one.number + 1) if (decided := line.decision(number)) is not None]
    return wear.worn(decisions, suites, found.evidence["level"])


def _end(line: Line, one: Round, state: State, why: str = "") -> Outcome:
    """Move the aliases after a round, write its end, and return what was done."""
    closed = replace(one, state=state)
    aliases = settled(line.aliases(), closed)
    line.write(aliases)
    line.write(closed)
    report.write(line)
    mlflow.mirror(line)
    return Outcome(line.name, one.number, state, why, aliases.champion)


def _decided(line: Line, one: Round) -> Decision:
    """Return the decision on the challenger of a round, whose jobs have ended."""
    store = line.store
    evaluation = one.outputs[EVALUATE]
    evidence: Mapping[str, Any] | None = store.figures(evaluation).get(DECIDED)
    if evidence is None:
        raise JobError(f"{evaluation}: has no decision, must have one; add [evaluate.gate] to the recipe")
    digests = {
        name: {shard.name: shard.digest for shard in store.manifest(name).shards if shard.name != pointers.JOURNAL}
        for name in (evaluation, one.challenger, one.start, *_suites(store, evaluation))
        if name
    }
    trained = store.figures(one.challenger).get("drop_reasons", {})
    apart = replay.reasons(store, one.rows, "decontaminate") if one.rows else {}
    return Decision(
        round=one.number,
        verdict=str(evidence["verdict"]),
        champion=one.start,
        challenger=one.challenger,
        rule=pointers.get(one.tables, pointers.GATE),
        evidence=dict(evidence),
        digests=digests,
        kept_apart={**apart, APART: int(trained.get(APART, 0))},
        version=__version__,
    )


def _suites(store: Store, evaluation: str) -> list[str]:
    """Return the datasets of the items of an evaluation, without repeats."""
    return sorted({name for role, name in store.manifest(evaluation).inputs.items() if role.startswith("suites.")})
