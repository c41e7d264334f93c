"""Forgetting: the line gets the bytes of one that never had the row, and the row is nowhere in the store."""

import json
import shutil
from pathlib import Path

import pytest

from gristmill.cluster.cli.main import main
from gristmill.cluster.refresh import forget, replay
from gristmill.cluster.refresh.registry import Line
from gristmill.cluster.store.store import Store
from tests.cluster.refresh import machine
from tests.cluster.refresh.test_rounds import Killed, kill
from tests.invariants import samples_of

SECRET = "the grave of Ada"


def play(folder: Path, base: str, *, secret: bool) -> Path:
    """Four ticks, of which the second one first reads a seed, and a rollback after the third."""
    machine.grade(folder, 0.9, 0.2, 1.0, 0.9)
    path = machine.recipe(folder, base)
    assert machine.tick(path, 1) == 0
    machine.add_seeds(folder, "mill", *([SECRET] if secret else []), "quay")
    for number in (2, 3):
        assert machine.tick(path, number) == 0
    assert main(["rollback", machine.LINE, "--store", str(folder / "store"), "--reason", "rude"]) == 0
    assert machine.tick(path, 4) == 0
    return path


def holds(folder: Path, text: str) -> list[str]:
    """The files of a folder in which a text is, also compressed in a shard."""
    store = Store(str(folder))
    rows = [name for name in store.names() if store.complete(name) and store.manifest(name).kind == "samples"
            and any(text in turn.text for row in samples_of(store, name) for turn in row.messages)]  # fmt: skip
    return rows + [str(p) for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


@pytest.mark.flow
@pytest.mark.parametrize(
    "number", [3, pytest.param(0, marks=pytest.mark.long), pytest.param(7, marks=pytest.mark.long)]
)
def test_a_line_that_forgets_a_row_is_one_that_never_had_it(
    tmp_path: Path, base: str, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "line"
    folder.mkdir()
    play(folder, base, secret=False)
    wanted = machine.contents(str(folder / "store"))
    shutil.rmtree(folder)
    folder.mkdir()
    path = play(folder, base, secret=True)
    line = Line(Store(str(folder / "store")), machine.LINE)
    second = line.rounds()[1].inputs["generate.input"]
    [name] = [row.id for row in samples_of(line.store, second) if SECRET in row.instruction]
    assert holds(folder / "store", SECRET)
    assert machine.contents(str(folder / "store")) != wanted

    assert main(["forget", machine.LINE, name, "--store", str(folder / "store")]) == 0
    assert "rounds 2 to 4 are to be done again without 1 rows" in capsys.readouterr().out
    assert main(["forget", machine.LINE, name, "--store", str(folder / "store")]) == 2, "one after the other"
    if number:  # killed at this write of a record
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            kill(patch, number, after=False)
            machine.tick(path, 5)
    assert machine.tick(path, 5) == 0
    assert "1 rows are forgotten, rounds 2 to 4 are done again" in capsys.readouterr().out
    assert not holds(folder / "store", SECRET)
    found = machine.contents(str(folder / "store"))
    wanted = {name: one for name, one in wanted.items() if not name.startswith("ingest-")}  # named after a file
    assert {name: found[name] for name in wanted} == wanted
    assert not {name for name in found if not name.startswith("ingest-")} - wanted.keys()


def test_a_plan_that_was_written_and_not_applied_is_applied_by_the_next_tick(line: Path) -> None:
    held = Line(Store(str(line / "store")), machine.LINE)
    name = next(replay.ids_of(held.store, held.rounds()[0].inputs["generate.input"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forget, "settle", lambda line: None)
        forget.forget(held, [name])
    assert len(held.rounds()) == 3
    assert machine.tick(line / f"{machine.LINE}.json", 9) == 0
    assert [one.key for one in held.rounds()] == ["week-1", "week-2", "week-3"]
    assert all(name not in {*replay.ids_of(held.store, one.inputs["generate.input"])} for one in held.rounds())
    assert forget.pending(held) is None


def test_a_row_that_no_round_has_read_is_refused(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forget", machine.LINE, "0" * 32, "--store", str(made / "store")]) == 2
    assert f"no round has read the row {'0' * 32}" in capsys.readouterr().err
    assert json.loads((made / "store/lines/mill/aliases.json").read_text())["round"] == 3
