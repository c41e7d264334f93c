"""The generate job on the scripted engine: rounds, settling, resuming, invariants. No Ray here."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from cluster.encoder import Embedding
from cluster.engine import Engine, Reply
from cluster.errors import JobError, RunError
from cluster.ingest import Source
from cluster.job import Run, Work
from cluster.ledger import Ledger
from cluster.progress import Screen
from cluster.sample import Message, Sample, seed, to_table
from cluster.store import Manifest, Store
from generation.contracts import Draft, Method, Snapshot, Walk
from generation.filters.judge import Judge
from generation.filters.novelty import Novelty, rouge_l
from generation.job import Generate
from generation.methods.self_instruct import SelfInstruct
from generation.mill.dispatch import Done, Feed, Tick
from generation.mill.rounds import Progress
from generation.mill.rows import BoundAsk, Means, Spent
from generation.mill.shards import Mill, RawShard, Schedule, draws
from generation.mill.worker import Maker
from tests.fakes import ScriptedEngine, open_hashing_encoder
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
    """Makes what the feed gives one shard after another in this process, the last first if told so."""

    engine_start_s = 0.0

    def __init__(self, run: Run, generate: Generate, *, backwards: bool = False) -> None:
        self.run, self.made, self.backwards = run, list[str](), backwards
        mill, place = generate.mill(run.id), generate.place(run.store, WORK, None)
        engines = {name: ScriptedEngine(engine) for name, engine in mill.engines.items()}
        self.maker = Maker(mill, place, engines, open_hashing_encoder)

    def __call__(self, feed: Feed, done: Done, tick: Tick) -> None:
        with asyncio.Runner() as runner:
            while given := list(iter(feed, None)):
                for shard, settled in reversed(given) if self.backwards else given:
                    report = runner.run(self.maker.make(shard, settled))
                    self.made.append(str(shard))
                    tick({})
                    if done(shard, report):
                        return


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
    ground(with_seeds(store), job(rounds=12, target=40))
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
        assert row.scores["novelty"] == pytest.approx(1 - max(nearest, 0.5), abs=1e-6)


def test_the_surplus_of_the_last_shard_is_the_rows_with_the_largest_ids() -> None:
    rows = [Sample(id=i, messages=(Message("user", f"{i} {i * 2}"),)) for i in ("d", "a", "c", "b")]
    progress = Progress(3, ())
    assert [row.dropped for row in progress.settle(rows[:2], 2)] == [None, None]
    assert not progress.met
    assert [row.dropped for row in progress.settle(rows[2:], 2)] == ["target: surplus", None]
    assert progress.met and (progress.kept, progress.rows, progress.draws) == (3, 4, 4)


def test_the_job_ends_with_the_first_shard_that_meets_the_target(store: Store) -> None:
    ground(with_seeds(store), job(target=20, shard_size=8))
    kept = [shard.kept for shard in store.manifest(WORK.output).shards]
    assert sum(kept) == 20
    assert kept[-1] > 0, "a shard was made for nothing"


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
    assert attempts >= 5
    names = [name for name in contents(store) if name.endswith(".arrow")]
    assert {n: contents(store)[n] for n in names} == {n: contents(whole)[n] for n in names}


def test_committed_shards_are_not_made_again(store: Store) -> None:
    generate, run = job(), a_run(with_seeds(store))
    first = Loop(killed_after(run, 1), generate)
    with pytest.raises(Interrupt):
        generate.grind(run, WORK, first)
    committed = {name.replace("shard", "raw") for name in store.committed(WORK.output)}
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


POOL = tuple(Sample(id=f"s{n}", messages=(Message("user", f"Write line number {n}"),)) for n in range(40))


def test_draws_share_parents_in_groups() -> None:
    mill = Mill("r", {"": Engine()}, (SelfInstruct(group=4),), (), Embedding(), 0)
    made = list(draws(mill, RawShard(0, 0, 0, 100, 400), Snapshot(0, POOL)))
    assert [draw.ordinal for draw in made] == list(range(100, 500))
    assert all(draw.parents == made[4 * (n // 4)].parents for n, draw in enumerate(made))
    assert len({tuple(p.id for p in draw.parents) for draw in made}) > 90
    assert made == list(draws(mill, RawShard(0, 0, 0, 100, 400), Snapshot(0, POOL)))
    assert made[50:60] == list(draws(mill, RawShard(9, 0, 0, 150, 10), Snapshot(0, POOL)))


def test_shards_follow_the_weights_at_every_length() -> None:
    shards = list(islice(Schedule([3.0, 1.0], size=10, round_shards=4), 400))
    for length in range(1, 400):
        taken = [shard.draws for shard in shards[:length] if shard.method == 0]
        assert abs(sum(taken) - 7.5 * length) <= 10
    for method in (0, 1):
        own = [shard for shard in shards if shard.method == method]
        assert [shard.first for shard in own] == [10 * n for n in range(len(own))]
    assert [shard.place for shard in shards] == list(range(400))


def test_a_round_sees_what_was_settled_until_the_one_before_the_last() -> None:
    schedule = Schedule([1.0], size=10, round_shards=4)
    assert [schedule.settled_before(round_) for round_ in range(5)] == [0, 0, 4, 8, 12]


def test_each_input_is_drawn_once_when_all_are_asked_for() -> None:
    shards = list(Schedule([1.0, 1.0], size=8, round_shards=2, limits=[20, 5]))
    drawn = {m: [o for s in shards if s.method == m for o in range(s.first, s.first + s.draws)] for m in (0, 1)}
    assert drawn == {0: list(range(20)), 1: list(range(5))}


class Echo(Walk):
    """Says each input again; fails on one of them."""

    kind: str = "echo"

    async def expand(self, parents: Sequence[Sample], ask: Any, rng: Any) -> list[Draft]:
        text = parents[0].instruction
        if "sea" in text:
            raise ValueError(text)
        return [Draft((Message("user", f"Again: {text}"), Message("assistant", "Yes.")))]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_all_inputs_once_and_a_step_that_raises_is_a_dropped_row(store: Store) -> None:
    generate = job(target="all", filters=[]).model_copy(update={"methods": (Echo(),)})
    figures = ground(with_seeds(store), generate)
    rows = check_dataset(store, WORK.output, "seeds")
    assert sorted(row.parents[0] for row in rows) == sorted(row.id for row in samples_of(store, "seeds")[:-1])
    assert [row.dropped for row in rows if row.dropped] == ["echo: failed: ValueError"]
    assert (figures["rows"], figures["kept"]) == (9, 8)


class Twins(Method):
    """Makes three drafts and keeps the one with the longest answer."""

    kind: str = "twins"

    async def expand(self, parents: Sequence[Sample], ask: Any, rng: Any) -> list[Draft]:
        return [Draft((Message("user", f"{parents[0].instruction}? {rng.random()}"),)) for _ in range(3)]

    def choose(self, rows: Sequence[Sample]) -> Sequence[Sample]:
        best = max(rows, key=lambda row: len(row.answer))
        return [row if row is best else row.drop("twins: not the best") for row in rows]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_a_method_chooses_among_the_rows_of_a_draw(store: Store) -> None:
    generate = job(target=5, filters=[]).model_copy(update={"methods": (Twins(),)})
    ground(with_seeds(store), generate)
    rows = check_dataset(store, WORK.output, "seeds")
    assert len(rows) % 3 == 0
    for n in range(0, len(rows), 3):
        chosen = [row for row in rows[n : n + 3] if row.dropped in (None, "target: surplus")]
        assert len(chosen) <= 1
    assert sum(row.dropped == "twins: not the best" for row in rows) >= len(rows) // 2


def ask_of(sample: str) -> BoundAsk:
    mill = Mill("r", {"": Engine()}, (SelfInstruct(),), (), Embedding(), 0)
    return BoundAsk(Means(mill, {"": ScriptedEngine(Engine())}, never), Spent(sample))


async def never(texts: Sequence[str]) -> Any:
    raise AssertionError(texts)


def test_the_seed_of_a_request_follows_from_the_sample_and_the_call() -> None:
    question = [Message("user", "Say something")]

    def said(sample: str, calls: int) -> list[str]:
        ask = ask_of(sample)
        return [asyncio.run(ask(question, max_tokens=9)).text for _ in range(calls)]

    assert said("a", 3) == said("a", 3)
    assert len({*said("a", 2), *said("b", 2)}) == 4


def test_a_shared_request_is_asked_once_and_the_first_pays() -> None:
    first, second = ask_of("a"), ask_of("b")
    second = replace(second, means=first.means)
    question = [Message("user", "Say something")]

    async def both() -> list[Reply]:
        return list(
            await asyncio.gather(*(ask.shared(question, max_tokens=9, temperature=1.0) for ask in (first, second)))
        )

    replies = asyncio.run(both())
    assert replies[0] == replies[1]
    assert first.spent.tally.reply_tokens > 0 == second.spent.tally.reply_tokens
    engine = first.means.engines[""]
    assert isinstance(engine, ScriptedEngine) and engine.asked == 1


def test_the_figures_say_what_a_kept_sample_cost(store: Store) -> None:
    engine = {"price": {"prompt": 1.0, "reply": 2.0}}
    figures = ground(with_seeds(store), job(engine=engine))
    made = samples_of(store, WORK.output)
    tokens = [sum(getattr(row.origin, name) for row in made) for name in ("prompt_tokens", "reply_tokens")]
    assert figures["cost"] == pytest.approx((tokens[0] + 2 * tokens[1]) / 1e6, abs=1e-4)
    assert figures["tokens_per_kept"] == pytest.approx(sum(tokens) / 12, abs=0.1)
    assert job().fingerprint() == job(engine=engine).fingerprint()
    assert "cost" not in ground(with_seeds(Store(str(store.local) + "-free")))


def test_check_names_what_is_wrong(tmp_path: Path) -> None:
    wrong = Generate(
        engine=Engine(model="builtin:none"),
        methods=(SelfInstruct(prompts={"zh": "写指令"}, engine="other"),),
        filters=(Judge(rubrics={"zh": "请打分"}),),
    )
    problems = "\n".join(wrong.check(tmp_path))
    assert "no such builtin model" in problems
    assert "methods[0].prompts: has no prompt for `en`" in problems
    assert "methods[0].prompts.zh: lacks {count}" in problems
    assert "filters[0].rubrics: has no prompt for `en`" in problems
    assert "methods[0]: engine 'other' is unknown" in problems
    assert "methods[0]: self_instruct has nothing to draw from, must have generate.input" in problems
    given = Source(path=("x.jsonl",))
    assert Generate(input=given).check(tmp_path) == []
    assert "draws without end" in Generate(input=given, target="all").check(tmp_path)[0]


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
