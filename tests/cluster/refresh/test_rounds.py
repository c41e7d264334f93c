"""Rounds of a line: what they work on, when they begin, what moves, and what is left when a tick is killed."""

import html
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.cli.main import main
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.jobs.recipe import load
from gristmill.cluster.refresh import line as pointers
from gristmill.cluster.refresh import registry
from gristmill.cluster.refresh.line import Tick, key_of, waits
from gristmill.cluster.refresh.registry import Line
from gristmill.cluster.refresh.rounds import refresh
from gristmill.cluster.refresh.settings import RefreshSettings
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.store import Store
from gristmill.training.evaluate.verdict import decided
from tests.cluster.refresh import machine
from tests.invariants import samples_of

WRITES_OF_A_ROUND = 4


def of(folder: Path) -> Line:
    return Line(Store(str(folder / "store")), machine.LINE)


def recipe(folder: Path) -> Path:
    return folder / f"{machine.LINE}.json"


def test_the_best_challengers_are_promoted_and_the_others_change_nothing(made: Path) -> None:
    rounds, aliases = of(made).rounds(), of(made).aliases()
    assert [one.state for one in rounds] == ["promoted", "inconclusive", "promoted"]
    first, second, third = rounds
    assert [one.start for one in rounds] == ["", first.challenger, first.challenger]
    assert (aliases.champion, aliases.previous) == (third.challenger, first.challenger)
    assert [one.writer for one in rounds] == [one.start for one in rounds]
    assert [one.depth for one in rounds] == [1, 2, 2]
    assert second.replayed and third.replayed != second.replayed and not first.replayed
    assert third.earlier == (first.rows, second.rows)


def test_the_champion_writes_and_is_what_the_challenger_is_trained_from(made: Path) -> None:
    line = of(made)
    first, second, _ = line.rounds()
    rows = samples_of(line.store, second.outputs["generate"])
    assert {row.origin.model for row in rows if row.origin} == {first.challenger}
    path = line.store.manifest(second.challenger).settings["model"]
    assert path == str((made / "store" / first.challenger / "merged").resolve())


def test_no_round_writes_a_row_of_an_earlier_round_again_and_people_are_in_each(made: Path) -> None:
    line = of(made)
    texts = [row.instruction for one in line.rounds() for row in samples_of(line.store, one.rows) if not row.dropped]
    assert len(set(texts)) == len(texts) >= 15
    for one in line.rounds():
        inputs = line.store.manifest(one.challenger).inputs
        assert inputs["mixture"] == one.inputs["generate.input"]
        assert inputs.get("replay", "") == one.replayed
        assert inputs["test"] == one.inputs["evaluate.suites.exam.input"]
    replayed = {row.id for row in samples_of(line.store, line.rounds()[2].replayed)}
    assert replayed == {row.id for n in (0, 1) for row in samples_of(line.store, line.rounds()[n].rows)
                        if not row.dropped}  # fmt: skip


def test_each_decision_follows_from_the_stored_items(made: Path) -> None:
    line = of(made)
    for one in line.rounds():
        record = line.decision(one.number)
        assert record is not None
        again = json.loads(json.dumps(asdict(decided(line.store, one.outputs["evaluate"]))))
        assert again == {name: record.evidence[name] for name in again}
        assert record.verdict == again["verdict"]
        for folder, files in record.digests.items():
            assert files == {shard.name: shard.digest for shard in line.store.manifest(folder).shards}
        assert {one.challenger, one.outputs["evaluate"], one.inputs["evaluate.suites.exam.input"]} <= {*record.digests}


def test_the_report_has_every_round_with_its_decision(line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollback", machine.LINE, "--store", str(line / "store"), "--reason", "rude <b>answers</b>"]) == 0
    assert main(["report", machine.LINE, "--store", str(line / "store")]) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    text = path.read_text(encoding="utf-8")
    for one in of(line).rounds():
        assert f"round {one.number}, {one.state}" in text and one.challenger in text
        decision = of(line).decision(one.number)
        assert decision is not None and all(html.escape(reason) in text for reason in decision.evidence["reasons"])
    assert "0.025 of 0.05" in text, "three rounds are one and a half horizons of two"
    assert "rude &lt;b&gt;answers" in text and "<b>answers" not in text


class Killed(BaseException):
    """What a process that is killed does not survive."""


def kill(monkeypatch: pytest.MonkeyPatch, number: int, *, after: bool) -> None:
    """Raise at the write of a record with this number, before it or after it."""
    write, seen = Line.write, [0]

    def counted(line: Line, record: Any) -> None:
        seen[0] += 1
        if seen[0] != number:
            write(line, record)
            return
        if after:
            write(line, record)
        raise Killed

    monkeypatch.setattr(Line, "write", counted)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(1, WRITES_OF_A_ROUND + 1))
def test_a_tick_that_is_killed_at_a_write_ends_in_the_same_bytes(line: Path, number: int, after: bool) -> None:
    wanted = machine.contents(str(line / "store"))
    third = ["rounds/0003.json", "decisions/0003.json"]
    for name in third:
        (line / "store/lines/mill" / name).unlink()
    now = of(line).rounds()
    of(line).write(registry.Aliases(now[0].challenger, "", now[1].challenger, 2))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill(patch, number, after=after)
        machine.tick(recipe(line), 3)
    assert machine.tick(recipe(line), 3) == 0
    assert machine.contents(str(line / "store")) == wanted
    assert machine.tick(recipe(line), 3) == 0, "the same key once more"
    assert machine.contents(str(line / "store")) == wanted


def test_a_tick_writes_four_records(line: Path) -> None:
    written: list[str] = []
    write = Line.write

    def noted(self: Line, one: Any) -> None:
        written.append(type(one).__name__)
        write(self, one)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Line, "write", noted)
        assert machine.tick(recipe(line), 4) == 0
    assert written == ["Round", "Decision", "Aliases", "Round"]
    assert len(written) == WRITES_OF_A_ROUND


def test_a_rollback_makes_the_model_before_champion_and_its_rows_are_not_used_again(line: Path) -> None:
    machine.grade(line, 0.9, 0.9, 1.0, 0.5)
    assert machine.tick(recipe(line), 4) == 0
    first, _, third, fourth = of(line).rounds()
    assert fourth.writer == third.challenger
    assert main(["rollback", machine.LINE, "--store", str(line / "store"), "--reason", "rude answers"]) == 0
    aliases, [done] = of(line).aliases(), of(line).rollbacks()
    assert (aliases.champion, aliases.previous) == (first.challenger, "")
    bad = sorted(row.id for row in samples_of(of(line).store, fourth.rows) if not row.dropped)
    assert bad and {*done.quarantined} == {fourth.rows} and {*bad} <= {*done.quarantined[fourth.rows]}
    assert machine.tick(recipe(line), 5) == 0
    fifth = of(line).rounds()[-1]
    assert fifth.start == fifth.writer == first.challenger
    assert fourth.rows not in fifth.earlier
    assert not {*bad} & {row.id for row in samples_of(of(line).store, fifth.replayed)}
    assert main(["rollback", machine.LINE, "--store", str(line / "store")]) == 0
    assert of(line).aliases().champion == ""
    assert main(["rollback", machine.LINE, "--store", str(line / "store")]) == 2, "nothing is before the base model"


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_rollback_that_is_killed_is_finished_by_the_next_tick(line: Path, number: int, after: bool) -> None:
    begun = pointers.begin(of(line), load(recipe(line)), Tick("week-4"))
    assert isinstance(begun, registry.Round)
    of(line).write(begun)
    command = ["rollback", machine.LINE, "--store", str(line / "store")]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill(patch, number, after=after)
        main(command)
    if number > 1 or after:
        found = refresh(load(recipe(line)), Screen(quiet=True), key="week-3")
        assert (found.state, found.champion) == ("waiting", of(line).rounds()[0].challenger)
        assert [one.state for one in of(line).rounds()][3:] == ["abandoned"]
    else:
        assert not of(line).rollbacks()
        assert of(line).aliases().champion == of(line).rounds()[2].challenger


def test_the_open_round_is_continued_as_it_began_or_abandoned(line: Path) -> None:
    begun = pointers.begin(of(line), load(recipe(line)), Tick("week-4"))
    assert isinstance(begun, registry.Round)
    of(line).write(begun)
    machine.add_seeds(line, "late seed")
    assert machine.tick(recipe(line), 5) == 0
    done = of(line).rounds()[-1]
    assert (done.number, done.key, done.inputs, done.tables) == (4, "week-4", begun.inputs, begun.tables)
    begun = pointers.begin(of(line), load(recipe(line)), Tick("week-5"))
    assert isinstance(begun, registry.Round)
    assert begun.inputs != done.inputs, "the late seed is in the next round"
    of(line).write(begun)
    assert machine.tick(recipe(line), 6, "--abandon") == 0
    assert of(line).rounds()[-1].state == "abandoned"
    assert of(line).aliases().champion == done.start
    assert machine.tick(recipe(line), 6, "--abandon") == 2, "no round is open"


def test_time_new_rows_and_alarms_decide_whether_a_round_begins(line: Path) -> None:
    raw = json.loads(recipe(line).read_text())
    raw["jobs"]["refresh"] = {"every_days": 7, "min_new": {"generate.input": 2}}
    recipe(line).write_text(json.dumps(raw))
    waiting = load(recipe(line))
    quiet = Screen(quiet=True)
    found = refresh(waiting, quiet, clock=lambda: 7e8)
    assert (found.state, found.why) == ("waiting", "generate.input has 0 new rows of 2")
    machine.add_seeds(line, "one more")
    assert refresh(waiting, quiet, clock=lambda: 7e8).why == "generate.input has 1 new rows of 2"
    machine.add_seeds(line, "two more")
    assert refresh(waiting, quiet, clock=lambda: 7e8).round == 4
    found = refresh(waiting, quiet, clock=lambda: 7e8 + 3600)
    assert found.why == "round 4 began in this slot of time; the next begins 1992-03-12 00:00 UTC"
    found = refresh(waiting, quiet, alarm="drift of topics", clock=lambda: 7e8 + 86400 * 7)
    assert (found.round, of(line).rounds()[-1].alarm) == (5, "drift of topics")


def test_slots_of_time_do_not_overlap() -> None:
    settings = RefreshSettings(every_days=7)
    slots = [key_of(settings, day * 86400.0) for day in range(21)]
    assert [slots.count(slot) for slot in dict.fromkeys(slots)] == [7, 7, 7]
    assert key_of(RefreshSettings(every_days=0), 1.0) == ""
    assert waits(settings, [], Tick("slot-1"), 0.0) == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"refresh": None}, "refresh: absent, must be a section"),
        ({"select": None}, "select: absent, must be a section"),
        ({"evaluate.gate": None}, "evaluate.gate: absent, must be the rule"),
        ({"generate.engine": {"endpoint": "http://localhost:1/v1"}}, "so the champion cannot write"),
        ({"refresh.min_new": {"generate.documents": 1}}, "'generate.documents' is no input of the recipe"),
        ({"refresh": {"replay": 0.9, "max_synthetic": 0.5}}, "must be below max_synthetic"),
    ],
)
def test_what_a_line_lacks_is_said_before_anything_starts(
    made: Path, change: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = json.loads(recipe(made).read_text())
    for key, value in change.items():
        pointers.put(raw["jobs"], key, value)
        if value is None:
            *parts, last = key.split(".")
            del pointers.get(raw["jobs"], ".".join(parts), raw["jobs"])[last]
    other = made / f"other-{len(said)}.json"
    other.write_text(json.dumps({**raw, "name": "other"}), encoding="utf-8")
    assert main(["refresh", str(other)]) == 2
    assert said in capsys.readouterr().err
    assert not of(made).store.exists("lines", "other", "rounds")


def test_the_writer_is_the_newest_model_whose_rows_are_not_too_deep(made: Path) -> None:
    line = of(made)
    rounds, champion = line.rounds(), line.aliases().champion
    assert registry.depth_of(rounds, champion) == 2
    writers = {most: pointers._writer(rounds, champion, RefreshSettings(max_depth=most)) for most in (1, 2, 3)}
    assert writers == {1: "", 2: rounds[0].challenger, 3: champion}
    assert pointers._writer(rounds, champion, RefreshSettings(writer="recipe")) == ""


@pytest.mark.parametrize(
    ("suite", "gate", "anchored"),
    [
        ({"role": "target"}, {}, False),  # it must be better, so no losses can add up
        ({"role": "retention"}, {}, True),
        ({"role": "target"}, {"margins": {"exam": -0.01}}, True),
        ({"role": "retention"}, {"margins": {"exam": 0.0}}, False),
        ({"role": "retention"}, {"anchor": "models/first"}, False),
    ],
)
def test_a_challenger_that_may_lose_a_little_is_also_compared_with_the_base_model(
    made: Path, base: str, suite: dict[str, Any], gate: dict[str, Any], *, anchored: bool
) -> None:
    line, given = of(made), load(recipe(made))
    first, second, _ = line.rounds()
    for one, wanted in ((first, False), (second, anchored)):  # the first champion is the base model
        tables = pointers.copied(one.tables)
        tables["evaluate"]["suites"]["exam"] |= suite
        tables["evaluate"]["gate"] |= gate
        found = pointers.recipe_of_round(line, replace(one, tables=tables), given)["evaluate"]
        assert found.get("against", []) == ([base] if wanted else [])
        assert found["gate"].get("anchor", "") == (base if wanted else gate.get("anchor", ""))


def driver(folder: Path, number: int, *more: str) -> "subprocess.Popen[str]":
    words = [
        sys.executable,
        "-m",
        "tests.cluster.refresh.machine",
        "refresh",
        str(recipe(folder)),
        "--key",
        f"week-{number}",
    ]
    return subprocess.Popen([*words, *more], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


@pytest.fixture
def processes() -> Iterator[list["subprocess.Popen[str]"]]:
    found: list[subprocess.Popen[str]] = []
    yield found
    for process in found:
        process.kill()
        process.communicate()


@pytest.mark.flow
def test_of_two_drivers_one_works_and_a_killed_one_does_no_harm(
    line: Path, processes: list["subprocess.Popen[str]"]
) -> None:
    (line / "train.wait").touch()
    processes.append(driver(line, 4))
    while not (line / "train.waits").exists():
        assert processes[0].poll() is None
        time.sleep(0.05)
    processes += [driver(line, 4), driver(line, 4, "--wait")]
    _, said = processes[1].communicate(timeout=300)
    assert processes[1].returncode == 75, said
    assert "another process works on this line" in said
    processes[0].send_signal(signal.SIGKILL)
    processes[0].wait(timeout=300)
    (line / "train.wait").unlink()
    _, said = processes[2].communicate(timeout=300)
    assert processes[2].returncode == 0, said
    assert [one.key for one in of(line).rounds()] == ["week-1", "week-2", "week-3", "week-4"]
    assert of(line).rounds()[-1].state != "open"


@pytest.mark.flow
def test_a_tick_with_nothing_to_do_loads_no_ray(made: Path) -> None:
    code = (
        "import sys; from gristmill.cluster.cli.main import main;"
        f"code = main(['refresh', {str(recipe(made))!r}, '--key', 'week-2']);"
        "sys.exit(code or 9 * bool({'ray', 'torch', 'vllm'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "nothing to do, round 2 has the key week-2" in done.stdout


def test_a_line_that_does_not_exist_is_named(made: Path) -> None:
    with pytest.raises(JobError, match=r"no line of .*\(mill\)"):
        registry.line_of(Store(str(made / "store")), "mil")
    shutil.rmtree(made / "store/lines/other", ignore_errors=True)
