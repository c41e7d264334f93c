"""Lines of rounds: killed at drawn places they have the bytes of unbroken ones, and a year of them takes minutes.

    python -m tests.proof.lines                         six rounds of real training with 10 kills, and a year of ticks
    python -m tests.proof.lines --rounds 2 --kills 2 --weeks 0

The scripted engine writes, the model is a llama of two layers, and its training is the real one. Values of items
follow from its weights, so that every weight decides. The driver is a process that gets SIGKILL at drawn writes into
the store. The year has the quick training of `tests.cluster.refresh.machine`. The result is in `benchmarks/lines.json`.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from gristmill.cluster.refresh.registry import Line
from gristmill.cluster.runtime.session import session
from gristmill.cluster.store.store import Store
from gristmill.training.evaluate.verdict import decided
from tests.cluster.refresh import machine
from tests.invariants import samples_of
from tests.paths import ROOT

RESULT = ROOT / "benchmarks" / "lines.json"
WHOLE = (6, 10, 52)
"""Rounds, kills and weeks of the whole, whose result is kept."""
LONGEST_S = 1800
"""Seconds after which a driver counts as hung."""


def driver(folder: Path, rounds: int, *, kill_at: int, trains: bool) -> int:
    """Do all rounds in this process, and return the number of writes; SIGKILL comes before the write `kill_at`."""
    write, seen = Store.write_bytes, [0]

    def counted(store: Store, data: Any, *names: str) -> None:
        seen[0] += 1
        if seen[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        write(store, data, *names)

    machine.install(trains=trains)
    setattr(Store, "write_bytes", counted)  # noqa: B010 - mypy knows no other way
    path = folder / f"{machine.LINE}.json"
    for number in range(1, rounds + 1):
        code = machine.tick(path, number)
        if code:
            return -code
    return seen[0]


def start(folder: Path, rounds: int, kill_at: int) -> int | None:
    """Run a driver in a process; return the number of its writes, or None if it was killed."""
    words = ["--driver", str(folder), "--rounds", str(rounds), "--kill-at", str(kill_at)]
    log = folder.parent / "driver.log"
    with log.open("ab") as out:
        done = subprocess.run(
            [sys.executable, "-m", "tests.proof.lines", *words],
            check=False, stdout=out, stderr=out, cwd=ROOT, timeout=LONGEST_S,
        )  # fmt: skip
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, f"a driver ended with {done.returncode}; see {log}"
    return int(json.loads((folder / "writes.json").read_text()))


def prepared(root: Path, base: str) -> Path:
    """Write recipe, seeds and suite into an empty folder, always at the same path."""
    folder = root / "line"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    machine.recipe(folder, base)
    return folder


def check(store: Store) -> dict[str, int]:
    """Assert that each decision follows from the stored items and no row is doubled; return the states."""
    line = Line(store, machine.LINE)
    for one in line.rounds():
        record = line.decision(one.number)
        again = decided(store, one.outputs["evaluate"])
        assert record is not None and record.verdict == again.verdict
        rows = samples_of(store, one.rows)
        assert len({row.id for row in rows}) == len(rows) == store.manifest(one.rows).rows
    texts = [row.instruction for one in line.rounds() for row in samples_of(store, one.rows) if row.dropped is None]
    assert len(set(texts)) == len(texts), "a row comes twice in the line"
    return dict(Counter(one.state for one in line.rounds()))


def killed(root: Path, base: str, rounds: int, kills: int, seed: int) -> dict[str, Any]:
    """Compare a line that is killed again and again with an unbroken one."""
    began = time.monotonic()
    folder = prepared(root, base)
    writes = start(folder, rounds, 0)
    assert writes is not None
    unbroken_s = time.monotonic() - began
    states, wanted = check(Store(str(folder / "store"))), machine.contents(str(folder / "store"))
    folder = prepared(root, base)
    places = [random.Random(f"{seed}-{n}").randrange(2, max(3, writes // kills * 2)) for n in range(kills)]
    hit, began = 0, time.monotonic()
    for place in places:
        hit += start(folder, rounds, place) is None
    assert start(folder, rounds, 0) is not None
    found = machine.contents(str(folder / "store"))
    differ = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    assert not differ, f"{len(differ)} files differ: {differ[:5]}"
    return {
        "rounds": rounds, "states": states, "writes": writes, "kills": hit, "files_compared": len(wanted),
        "files_that_differ": 0, "unbroken_s": round(unbroken_s), "killed_s": round(time.monotonic() - began),
    }  # fmt: skip


def year(root: Path, base: str, weeks: int) -> dict[str, Any]:
    """Do a tick a week, and a second one in each week that does nothing."""
    folder = prepared(root, base)
    machine.install()
    path = folder / f"{machine.LINE}.json"
    rng = random.Random(weeks)
    machine.grade(folder, *(0.5 + 0.5 * n / weeks * (rng.random() < 0.5) for n in range(1, weeks + 1)))
    rounds_s: list[float] = []
    idle_s: list[float] = []
    for week in range(1, weeks + 1):
        machine.add_seeds(folder, f"topic of week {week}")
        for spent in (rounds_s, idle_s):
            began = time.monotonic()
            assert machine.tick(path, week) == 0
            spent.append(time.monotonic() - began)
    store = Store(str(folder / "store"))
    line = Line(store, machine.LINE)
    assert len(line.rounds()) == weeks
    return {
        "weeks": weeks, "states": check(store), "seconds": round(sum(rounds_s)), "first_round_s": round(rounds_s[0], 2),
        "last_round_s": round(rounds_s[-1], 2), "idle_tick_s": round(max(idle_s), 3),
        "depth_of_champion": max(one.trained_depth for one in line.rounds()),
        "bytes": sum(entry.bytes for entry in store.walk("")),
    }  # fmt: skip


def main() -> None:
    """Run what the arguments ask for."""
    ask = argparse.ArgumentParser()
    ask.add_argument("--rounds", type=int, default=6)
    ask.add_argument("--kills", type=int, default=10)
    ask.add_argument("--weeks", type=int, default=52)
    ask.add_argument("--seed", type=int, default=14)
    ask.add_argument("--driver", type=Path)
    ask.add_argument("--kill-at", type=int, default=0)
    given = ask.parse_args()
    if given.driver:
        with session(None, 2, 0, dashboard=True):
            writes = driver(given.driver, given.rounds, kill_at=given.kill_at, trains=True)
        assert writes > 0, f"a tick ended with exit code {-writes}"
        (given.driver / "writes.json").write_text(json.dumps(writes))
        return
    result: dict[str, Any] = {"settings": {name: getattr(given, name) for name in ("rounds", "kills", "weeks", "seed")}}
    with tempfile.TemporaryDirectory(prefix="gristmill-lines-") as name:
        base = machine.base_model(Path(name, "base"))
        if given.rounds:
            result["killed"] = killed(Path(name), base, given.rounds, given.kills, given.seed)
        if given.weeks:
            result["year"] = year(Path(name), base, given.weeks)
    text = json.dumps(result, indent=1) + "\n"
    sys.stdout.write(text)
    if (given.rounds, given.kills, given.weeks) == WHOLE:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
