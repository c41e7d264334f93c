"""What the bar of the generate job says while rows are made: true, moving, and nothing counted twice."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.jobs.job import Run
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.store import Store
from gristmill.generation.job import Generate
from gristmill.generation.pipeline.dispatch import Done, Feed, Tick
from tests.generation.ground import WORK, Loop, a_run, ground, job, with_seeds
from tests.generation.pipeline.test_resume import FragileStore, Interrupt


class SideBySide(Loop):
    """Makes all that the feed gives side by side, and shows stats at each turn, those of a turn before among them."""

    def __call__(self, feed: Feed, done: Done, tick: Tick) -> None:
        tick({})  # the engine starts
        asyncio.run(self.make_all(feed, done, tick))

    async def make_all(self, feed: Feed, done: Done, tick: Tick) -> None:
        tokens, stale = 0, dict[str, float]()
        while given := list(iter(feed, None)):
            tasks = {asyncio.create_task(self.maker.make(*piece)): piece[0] for piece in given}
            while tasks:
                ended = [task for task in tasks if task.done()]
                met = [done(tasks.pop(task), task.result()) for task in ended]
                if ended:
                    tick(stale)  # the report came before fresh stats
                stale = {**self.maker.counts(), "running": 4, "waiting": 2, "reply_tokens": tokens}
                tick(stale)
                if any(met):
                    for task in tasks:
                        task.cancel()
                    return
                tokens += 9
                await asyncio.sleep(0.002)


def lines_of(capsys: pytest.CaptureFixture[str], store: Store, generate: Generate) -> list[str]:
    run = a_run(store)
    shown = Run(run.id, store, run.ledger, Screen(every_s=0), None)
    generate.drive(shown, WORK, SideBySide(shown, generate))
    return capsys.readouterr().err.splitlines()


def numbers(pattern: str, lines: list[str]) -> list[int]:
    return [int(found[1].replace(",", "")) for line in lines if (found := re.search(pattern, line))]


def test_the_bar_counts_tokens_before_a_row_is_done_and_rows_afterwards(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = lines_of(capsys, with_seeds(store), job(target=40, shard_size=16))
    assert lines[0].startswith("generate: 0/40, starting the engine (")
    early = [line for line in lines if "under way" in line]
    pattern = (
        r"generate: 0/40, 64 drafts under way, [\d,]+ tokens, [\d,]+ tokens/s, 4 running, 2 waiting, time left not"
    )
    assert [line for line in early if not re.match(pattern, line)] == []
    tokens = numbers(r"([\d,]+) tokens,", early)
    assert tokens and tokens == sorted(tokens) and tokens[-1] > 0
    assert re.match(r"generate: 40/40, 40 of \d+ drafts kept \(\d+%\) \(", lines[-1])
    rows = numbers(r"of (\d+) drafts kept", lines)
    assert rows == sorted(rows), "a shard was counted twice, or not at all, when its report came"


def test_a_job_of_all_inputs_moves_by_rows_of_a_known_total(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    whole: dict[str, Any] = {"target": "all", "methods": [{"kind": "respond"}], "filters": [], "shard_size": 8}
    lines = lines_of(capsys, with_seeds(store), job(**whole))
    counts = [re.match(r"generate: (\d+)/(\d+), \S", line) for line in lines]
    assert all(counts), lines
    pairs = [(int(found[1]), int(found[2])) for found in counts if found]
    assert [done for done, _ in pairs] == sorted(done for done, _ in pairs)
    assert {total for _, total in pairs} == {pairs[-1][0]}


def test_rows_of_an_earlier_execution_do_not_count_for_the_pace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, generate = str(tmp_path / "store"), job(target=40, shard_size=16)
    store = with_seeds(Store(uri))
    with pytest.raises(Interrupt):
        ground(FragileStore(uri, 9), generate)
    lines = lines_of(capsys, store, generate)
    first = re.match(r"generate: (\d+)/40, \1 of \d+ drafts kept \(\d+%\), starting the engine", lines[0])
    assert first and int(first[1]) > 3
    assert "rows/s" not in lines[1] and "time left not known yet" in lines[1]
    assert not re.search(r"-\d", "".join(lines)), "no rate and no time is negative"
