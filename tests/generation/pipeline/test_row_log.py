"""The log of finished rows: what it holds, what damage does to it, and what a killed job asks again. No Ray here."""

import asyncio
import math
from collections import Counter
from pathlib import Path

import pytest

from gristmill.cluster.contract.sample import Message, Origin, Sample, ToolCall
from gristmill.cluster.models.engine import Engine, Reply, Request
from gristmill.cluster.store.store import Store
from gristmill.generation.engines.actors import OpenEngine
from gristmill.generation.pipeline.plan import RawShard
from gristmill.generation.pipeline.row_log import FOLDER, RowLog, read
from tests.fakes import ScriptedEngine
from tests.generation.ground import WORK, Loop, a_run, contents, job, with_seeds
from tests.generation.pipeline.test_resume import Interrupt
from tests.invariants import check_dataset


def row(number: int) -> Sample:
    call = ToolCall("call-1", "look", '{"a":  1}')
    turns = (Message("user", f"第{number}行\u2028\n"), Message("assistant", None, "thought", (call,)))
    origin = Origin("run", "step", "model", number, 7, 9, "stop")
    scores = {"b": 0.1 + number, "a": math.inf, "c": 3.0}
    return Sample(f"id-{number}", turns, ("p",), "m", 2, scores, {"z": "", "y": "ü"}, None, origin, '[{"x": 1}]')


def write(store: Store, *numbers: int) -> list[Path]:
    async def all_() -> None:
        async with RowLog(store, "out", 7) as log:
            for number in numbers:
                log.append(f"id-{number}", number / 3, [row(number), row(number + 100).drop("test: no")])

    asyncio.run(all_())
    return sorted((store.folder("out") / FOLDER).iterdir())


def test_rows_come_back_as_they_were(store: Store) -> None:
    write(store, 1, 2)
    write(store, 3)
    found = RowLog(store, "out", 7).found
    assert set(found) == {"id-1", "id-2", "id-3"}
    for number in (1, 2, 3):
        assert found[f"id-{number}"] == (
            f"id-{number}", number / 3, (row(number), row(number + 100).drop("test: no")),
        )  # fmt: skip
        assert list(found[f"id-{number}"].rows[0].scores) == ["b", "a", "c"]
    assert RowLog(store, "out", 70).found == {}


def test_a_log_cut_at_any_byte_gives_the_whole_lines_before_and_takes_further_ones(store: Store) -> None:
    (path,) = write(store, 1, 2)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        assert [draw.id for draw in read(path)] == ["id-1"] * (cut >= first)
    write(store, 5)
    assert "id-5" in RowLog(store, "out", 7).found


def test_a_line_that_was_altered_does_not_count(store: Store) -> None:
    (path,) = write(store, 1, 2)
    whole = path.read_bytes()
    for place in range(0, whole.index(b"\n"), 11):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert [draw.id for draw in read(path)] in (["id-2"], []), "a new line end may take the next line with it"
    path.write_bytes(b'8c736521 null\n3d08bb77 {"a": 1}\n\n\xff\xfe\n' + whole)
    assert [draw.id for draw in read(path)] == ["id-1", "id-2"]


class Staggered(ScriptedEngine):
    """Answers in an order that depends on the seeds, and is killed at a request. It counts what it is asked."""

    def __init__(self, settings: Engine, kill_at: int, asked: "Counter[Request]") -> None:
        super().__init__(settings)
        self._kill_at, self._counts = kill_at, asked

    async def ask(self, request: Request) -> Reply:
        self._counts[request] += 1
        if self._counts.total() == self._kill_at:
            raise Interrupt
        for _ in range(2 ** (getattr(request, "seed", 0) % 8)):
            await asyncio.sleep(0)
        return await super().ask(request)


def staggered(kill_at: int, asked: "Counter[Request]") -> OpenEngine:
    return lambda settings: Staggered(settings, kill_at, asked)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_killed_job_makes_only_the_unfinished_rows_again(tmp_path: Path, share: float) -> None:
    generate = job(target=12, shard_size=64)
    whole, killed = (with_seeds(Store(str(tmp_path / name))) for name in ("whole", "killed"))
    once = Counter[Request]()
    run = a_run(whole)
    generate.drive(run, WORK, Loop(run, generate, opens=staggered(0, once)))
    twice, kill_at = Counter[Request](), int(share * once.total())
    run = a_run(killed)
    with pytest.raises(Interrupt):
        generate.drive(run, WORK, Loop(run, generate, opens=staggered(kill_at, twice)))
    folder = killed.folder(f"{WORK.output}/{FOLDER}")
    finished, asked = [draw for path in folder.iterdir() for draw in read(path)], twice.total()
    generate.drive(run, WORK, Loop(run, generate, opens=staggered(0, twice)))
    assert contents(killed) == contents(whole)
    check_dataset(killed, WORK.output, "seeds")
    assert not killed.exists(WORK.output, FOLDER)
    assert finished, "no row was finished when it was killed"
    seeds = {draw.rows[0].origin.seed for draw in finished if draw.rows[0].origin}
    assert all(count == 1 for request, count in twice.items() if getattr(request, "seed", None) in seeds)
    assert twice.total() - once.total() <= asked - len(finished), "each finished row had asked at least once"


def test_a_full_disk_is_one_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from gristmill.cluster.contract.errors import StoreError

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match=r"jsonl: cannot be written \(No space left on device\), must be writable"):
        write(store, 1)


def test_the_parts_of_a_cut_shard_use_the_log_of_the_whole(store: Store) -> None:
    generate, run, asked = job(shard_size=16), a_run(with_seeds(store)), Counter[Request]()
    loop = Loop(run, generate, opens=staggered(30, asked))
    shard = RawShard(0, 0, 0, 0, 16)
    with pytest.raises(Interrupt), asyncio.Runner() as runner:
        runner.run(loop.maker.make(shard, ()))
    logged = RowLog(store, WORK.output, 0).found
    seeds = {draw.rows[0].origin.seed for draw in logged.values() if draw.rows[0].origin}
    again = Counter[Request]()
    loop = Loop(run, generate, opens=staggered(0, again))
    with asyncio.Runner() as runner:
        for part in shard.halves():
            runner.run(loop.maker.make(part, ()))
    assert seeds and not {request for request in again if getattr(request, "seed", None) in seeds}
    parts = store.committed(WORK.output, prefix="raw-00000.")
    assert sum(part.rows for part in parts.values()) >= 16
    assert store.exists(WORK.output, FOLDER), "the log stays until the whole shard is joined"
