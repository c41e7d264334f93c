"""Rounds with the real training of a small model, whose driver dies at drawn places: the same bytes come out."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.refresh.registry import Line
from gristmill.cluster.store.store import Store
from tests.cluster.refresh import machine
from tests.cluster.refresh.test_rounds import Killed
from tests.invariants import samples_of

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("ray_session")]
ROUNDS = 2
KILLS = 3


@pytest.fixture(autouse=True)
def jobs() -> None:
    """Replaces the fixture that puts a quick training in place of the real one."""


def play(folder: Path, base: str, kills: list[int]) -> int:
    """Do the rounds; die at the given writes into the store, and go on. Return the number of writes."""
    path = machine.recipe(folder, base)
    with (folder / "seeds.jsonl").open("a", encoding="utf-8") as out:  # an item of the suite among the seeds
        out.write(json.dumps({"instruction": "Which number is 3 and 21?", "output": "24"}) + "\n")
    write, seen = Store.write_bytes, [0]

    def counted(store: Store, data: Any, *names: str) -> None:
        seen[0] += 1
        if seen[0] in kills:
            raise Killed
        write(store, data, *names)

    with pytest.MonkeyPatch.context() as patch:
        machine.install(patch.setattr, trains=True)
        patch.setattr(Store, "write_bytes", counted)
        for number in range(1, ROUNDS + 1):
            while True:
                try:
                    assert machine.tick(path, number) == 0
                    break
                except Killed:
                    continue
    return seen[0]


def test_a_line_with_real_training_has_the_bytes_of_an_unbroken_one(tmp_path: Path, tiny: str) -> None:
    folder = tmp_path / "line"
    folder.mkdir()
    writes = play(folder, tiny, [])
    line = Line(Store(str(folder / "store")), machine.LINE)
    assert [one.number for one in line.rounds()] == [1, 2]
    for one in line.rounds():
        decision = line.decision(one.number)
        assert decision is not None
        assert decision.kept_apart["near copy of a test row"] == 1, "the seed that is an item is not trained on"
        assert line.store.exists(one.challenger, "merged", "model.safetensors")
        check_rows(line.store, one.rows)
    wanted = machine.contents(str(folder / "store"))
    shutil.rmtree(folder)
    folder.mkdir()
    kills = sorted(random.Random(14).sample(range(2, writes), KILLS))
    assert play(folder, tiny, kills) > writes, f"no kill at {kills}"
    assert machine.contents(str(folder / "store")) == wanted


def check_rows(store: Store, name: str) -> None:
    """No row is lost or doubled."""
    rows = samples_of(store, name)
    assert len({row.id for row in rows}) == len(rows) == store.manifest(name).rows
