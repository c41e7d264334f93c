"""The generate job on the scripted engine: rounds, settling, resuming, invariants. No Ray here."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.engine import Engine
from cluster.errors import JobError, RunError
from cluster.job import Run, Work
from cluster.ledger import Ledger
from cluster.progress import Screen
from cluster.sample import Message, Sample, seed, to_table
from cluster.store import Manifest, Store
from generation.contracts import SetFilter
from generation.dispatch import Done, Tick
from generation.filters.judge import Judge
from generation.filters.novelty import Novelty, rouge_l
from generation.job import Generate
from generation.methods.self_instruct import SelfInstruct
from generation.rounds import Progress, num_draws
from generation.worker import BoundAsk, Mill, RawShard, Rows, ShardReport, Snapshot, draws
from tests.fakes import ScriptedEngine
from tests.invariants import check_dataset, samples_of

TOPICS = ("age", "air", "bar", "end", "sea", "sun")
ENGLISH = [f"Write {n} lines about the {topic} of a town" for n, topic in enumerate(TOPICS)]
CHINESE = ["写一首关于春天的诗", "介绍一下你的家乡", "把这句话翻译成英文：你好"]
WORK = Work("generate-abc", "abc" * 11, {"samples": "seeds"})


def job(**settings: Any) -> Generate:
    return Generate.model_validate({"target": 12, "shard_size": 8, "filters": FILTERS, **settings})


FILTERS = [{"kind": "length"}, {"kind": "novelty"}, {"kind": "judge", "min_score": 2.5}]


def with_seeds(store: Store) -> Store:
    rows = [seed([Message("user", text), Message("assistant", "Well.")]) for text in ENGLISH + CHINESE]
    rows.append(seed([Message("user", "bad")], dropped="ingest: no answer"))
    shard = store.commit_shard("seeds", "shard-00000", to_table(rows))
    store.commit(Manifest("seeds", "samples", "ingest", "f", {}, {}, (shard,)))
    return store


def a_run(store: Store) -> Run:
    return Run("run-1", store, Ledger(store, "run-1"), Screen(quiet=True), None)


class Loop:
    """Makes the shards one after another in this process, backwards if told so."""

    engine_start_s = 0.0

    def __init__(self, run: Run, generate: Generate, *, backwards: bool = False) -> None:
        self.run, self.mill, self.step, self.made = run, generate.mill(run), -1 if backwards else 1, list[str]()

    def __call__(self, shards: Sequence[RawShard], snapshot: Snapshot, done: Done, tick: Tick) -> None:
        sets = [(step, step.memory()) for step in self.mill.filters if isinstance(step, SetFilter)]
        for sample in (*snapshot.seeds, *snapshot.made):
            for _, memory in sets:
                memory.add(sample)
        for shard in list(shards)[:: self.step]:
            rows = Rows(self.mill, ScriptedEngine(self.mill.engine), sets)
            table = to_table(asyncio.run(rows.of_shard(shard, snapshot)))
            self.run.store.commit_shard(WORK.output, str(shard), table)
            self.made.append(str(shard))
            report = ShardReport()
            report.add(rows.tally)
            done(shard, report)
            tick({})


def ground(store: Store, generate: Generate | None = None, **how: Any) -> dict[str, Any]:
    run, generate = a_run(store), generate or job()
    return generate.grind(run, WORK, Loop(run, generate, **how))


def contents(store: Store) -> dict[str, bytes]:
    names = [n for n in store.names(WORK.output) if n != "figures.json"]
    return {name: store.read_bytes(WORK.output, name) for name in names}


def test_the_dataset_has_exactly_the_target_and_every_invariant(store: Store) -> None:
    figures = ground(with_seeds(store), job(target=40))
    rows = check_dataset(store, WORK.output, "seeds")
    kept = [row for row in rows if row.dropped is None]
    assert figures["kept"] == len(kept) == 40
    assert figures["rows"] == len(rows) == figures["drafts"]
    dropped = {name: n for name, n in figures.items() if name.startswith("dropped by ")}
    assert sum(dropped.values()) == len(rows) - len(kept)
    assert any(name.startswith("dropped by judge") for name in dropped)
    assert all(row.scores.keys() >= {"judge", "novelty"} and row.tags["language"] in "enzh" for row in kept)
    assert {row.tags["language"] for row in kept} == {"en", "zh"}
    assert figures["reply_tokens"] == sum(row.origin.reply_tokens for row in rows if row.origin)


def test_machine_made_demonstrations_come_from_closed_rounds_only(store: Store) -> None:
    ground(with_seeds(store), job(rounds=3, target=40))
    rows = samples_of(store, WORK.output)
    made = {row.id: row for row in rows}
    places = {row.id: place for place, row in enumerate(rows)}
    parents = [(row, made[p]) for row in rows for p in row.parents if p in made]
    assert parents, "no machine-made demonstration was drawn"
    assert all(parent.dropped is None and places[parent.id] < places[row.id] for row, parent in parents)
    assert all(row.round == 1 + max(made[p].round if p in made else 0 for p in row.parents) for row in rows)


def test_kept_samples_are_novel_among_themselves_and_against_the_seeds(store: Store) -> None:
    ground(with_seeds(store), job(filters=[{"kind": "novelty", "max_similarity": 0.6}], target=15))
    kept = [row for row in samples_of(store, WORK.output) if row.dropped is None]
    texts = [*ENGLISH, *CHINESE, *(row.instruction for row in kept)]
    for place, row in enumerate(kept, len(texts) - len(kept)):
        nearest = max(rouge_l(row.instruction, other) for other in texts[:place])
        assert nearest <= 0.6
        assert row.scores["novelty"] == pytest.approx(1 - nearest, abs=1e-6)


def test_the_surplus_of_a_round_is_the_rows_with_the_largest_ids() -> None:
    rows = [Sample(id=i, messages=(Message("user", f"{i} {i * 2}"),)) for i in ("d", "a", "c", "b")]
    progress = Progress((), ())
    settled = progress.settle([rows[:2], rows[2:]], target=3)
    assert [[row.dropped for row in shard] for shard in settled] == [["target: surplus", None], [None, None]]
    assert [row.id for row in progress.kept] == ["a", "c", "b"]


def test_the_order_of_shards_changes_nothing(tmp_path: Path) -> None:
    stores = [with_seeds(Store(str(tmp_path / name))) for name in ("forward", "backward")]
    ground(stores[0])
    ground(stores[1], backwards=True)
    assert contents(stores[0]) == contents(stores[1])


class Interrupt(BaseException):
    """Stands for the kill of the driver."""


class FragileStore(Store):
    """A store whose process is killed before write number `writes`, counted over all files."""

    def __init__(self, uri: str, writes: int) -> None:
        super().__init__(uri)
        self.writes = writes

    def write_bytes(self, data: bytes, *names: str) -> None:
        self.writes -= 1
        if self.writes < 0:
            raise Interrupt
        super().write_bytes(data, *names)

    def delete(self, *names: str) -> None:
        self.writes -= 1
        if self.writes < 0:
            raise Interrupt
        super().delete(*names)


def test_killed_at_any_write_and_run_again_the_dataset_is_byte_equal(tmp_path: Path) -> None:
    whole = with_seeds(Store(str(tmp_path / "whole")))
    ground(whole)
    kills = 0
    while True:
        uri = str(tmp_path / f"killed-{kills}")
        store = with_seeds(Store(uri))
        try:
            ground(FragileStore(uri, kills))
        except Interrupt:
            kills += 1
        else:
            break
        if not store.complete(WORK.output):
            ground(store)
            assert contents(store) == contents(whole)
            check_dataset(store, WORK.output, "seeds")
    assert kills > 12


def test_killed_at_every_second_write_it_still_ends_equal(tmp_path: Path) -> None:
    whole = with_seeds(Store(str(tmp_path / "whole")))
    ground(whole)
    uri = str(tmp_path / "killed")
    store = with_seeds(Store(uri))
    attempts = 0
    while not store.complete(WORK.output):
        attempts += 1
        try:
            ground(FragileStore(uri, 2 + attempts % 3))
        except Interrupt:
            assert attempts < 200, "it never ends"
    assert attempts > 5
    names = [name for name in contents(store) if name.endswith(".arrow")]
    assert {n: contents(store)[n] for n in names} == {n: contents(whole)[n] for n in names}


def test_committed_shards_are_not_made_again(store: Store) -> None:
    generate, run = job(), a_run(with_seeds(store))
    first = Loop(killed_after(run, 1), generate)
    with pytest.raises(Interrupt):
        generate.grind(run, WORK, first)
    committed = set(store.committed(WORK.output, "raw-"))
    again = Loop(run, generate)
    generate.grind(run, WORK, again)
    assert committed
    assert not committed & set(again.made)


def killed_after(run: Run, shards: int) -> Run:
    assert run.store.local is not None
    return Run(run.id, FragileStore(str(run.store.local), 2 * shards), run.ledger, run.screen, run.logs)


def test_too_low_an_acceptance_ends_with_what_to_do_and_a_higher_limit_continues(store: Store) -> None:
    strict = [{"kind": "judge", "min_score": 3.5}]
    with pytest.raises(RunError, match=r"generate: \d+ of 12 samples kept .*judge: below threshold.*max_drafts"):
        ground(with_seeds(store), job(filters=strict, max_drafts=20))
    before = set(store.committed(WORK.output))
    assert before
    figures = ground(store, job(filters=strict, max_drafts=5000))
    assert figures["kept"] == 12
    assert job(max_drafts=20).fingerprint() == job(max_drafts=5000).fingerprint()


def test_no_kept_seed_is_refused(store: Store) -> None:
    shard = store.commit_shard("seeds", "shard-00000", to_table([seed([Message("user", "x")], dropped="ingest: bad")]))
    store.commit(Manifest("seeds", "samples", "ingest", "f", {}, {}, (shard,)))
    with pytest.raises(JobError, match="no kept row"):
        ground(store)


def test_a_dropped_row_costs_no_further_call(store: Store) -> None:
    ground(with_seeds(store), job(target=60))
    tokens = Counter[str]()
    for row in samples_of(store, WORK.output):
        assert row.origin is not None
        calls = row.origin.prompt_tokens // 50  # the scripted engine counts 50 for each prompt
        tokens[f"{calls} {row.dropped and row.dropped.partition(':')[0]}"] += 1
        assert calls == (3 if "judge" in row.scores else 2 if row.answer else calls)
        if row.dropped and row.dropped.startswith("self_instruct: instruction"):
            assert calls == 1
    assert any(name.startswith("1 ") for name in tokens) and any(name.startswith("2 ") for name in tokens)


def test_draws_share_parents_in_groups_and_follow_the_weights() -> None:
    pool = tuple(Sample(id=f"s{n}", messages=(Message("user", f"Write line number {n}"),)) for n in range(40))
    methods = (SelfInstruct(weight=3, group=4), SelfInstruct(weight=1, group=2, num_human=3))
    mill = Mill("r", Engine(), methods, (), 0)
    made = draws(mill, RawShard(0, 0, 100, 400), Snapshot(0, pool, ()))
    assert [draw.ordinal for draw in made] == list(range(100, 500))
    first = [draw for draw in made if draw.method is methods[0]]
    assert 250 < len(first) < 350
    assert all(draw.parents == first[4 * (n // 4)].parents for n, draw in enumerate(first))
    assert len({tuple(p.id for p in draw.parents) for draw in first}) > 50
    assert made == draws(mill, RawShard(0, 0, 100, 400), Snapshot(0, pool, ()))


def test_the_seed_of_a_request_follows_from_the_sample_and_the_call() -> None:
    engine = ScriptedEngine(Engine())
    question = [Message("user", "Say something")]

    def said(sample: str, calls: int) -> list[str]:
        ask = BoundAsk(engine, sample)
        return [asyncio.run(ask(question, max_tokens=9)).text for _ in range(calls)]

    assert said("a", 3) == said("a", 3)
    assert len({*said("a", 2), *said("b", 2)}) == 4


@pytest.mark.parametrize(
    ("target", "kept", "drawn", "left", "expected"),
    [
        (100, 0, 0, 1, 275),
        (100, 0, 0, 2, 138),
        (100, 50, 100, 1, 113),
        (100, 99, 200, 0, 3),
        (10, 0, 10_000, 0, 550),
        (96, 2, 132, 1, 264),
    ],
)
def test_the_draws_of_a_round_follow_the_acceptance(
    target: int, kept: int, drawn: int, left: int, expected: int
) -> None:
    assert num_draws(target, kept, drawn, left, 0.4) == expected


def test_check_names_what_is_wrong(tmp_path: Path) -> None:
    wrong = Generate(
        engine=Engine(model="builtin:none"),
        methods=(SelfInstruct(prompts={"zh": "写指令"}),),
        filters=(Judge(rubrics={"zh": "请打分"}),),
    )
    problems = "\n".join(wrong.check(tmp_path))
    assert "no such builtin model" in problems
    assert "methods[0].prompts: has no prompt for `en`" in problems
    assert "methods[0].prompts.zh: lacks {count}" in problems
    assert "filters[0].rubrics: has no prompt for `en`" in problems
    assert Generate().check(tmp_path) == []


def test_a_filter_stands_once() -> None:
    with pytest.raises(ValueError, match="novelty stands twice"):
        Generate(filters=(Novelty(), Novelty(max_similarity=0.5)))


def test_what_changes_no_data_changes_no_fingerprint() -> None:
    same = Generate(engine=Engine(actors=4, cpus=1, max_num_seqs=8), max_drafts=9)
    assert Generate().fingerprint() == same.fingerprint()
    assert Generate().fingerprint() != Generate(target=101).fingerprint()
    assert Generate().fingerprint() != Generate(filters=(Judge(min_score=2),)).fingerprint()


def test_plan_says_what_would_run_and_loads_nothing(store: Store) -> None:
    plan = Generate(target=100, engine=Engine(cpus=2)).plan(store, WORK)
    assert (plan.state, plan.samples, plan.shards, plan.actors, plan.cpus) == ("to do", 275, 5, 1, 2)
    assert plan.tokens > 100_000
    ground(with_seeds(store))
    assert job().plan(store, WORK).state == "done"
