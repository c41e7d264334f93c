"""The generate job on the scripted engine: target, settling, costs, what is wrong and what is planned. No Ray here."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from gristmill.cluster.contract.errors import JobError, RunError
from gristmill.cluster.contract.sample import Message, Sample, from_table, seed, to_table
from gristmill.cluster.io.ingest import Source
from gristmill.cluster.models.engine import Engine
from gristmill.cluster.store.lease import making
from gristmill.cluster.store.store import Manifest, Store
from gristmill.generation.filters.judge.filter import Judge
from gristmill.generation.filters.novelty import Novelty, rouge_l
from gristmill.generation.job import Generate
from gristmill.generation.methods.self_instruct.method import SelfInstruct
from gristmill.generation.pipeline.settle import Progress
from tests.fake_objects import serving
from tests.generation.ground import CHINESE, ENGLISH, WORK, contents, ground, job, with_seeds
from tests.invariants import check_dataset, samples_of


def test_the_dataset_has_exactly_the_target_and_every_invariant(store: Store) -> None:
    figures = ground(with_seeds(store), job(target=40))
    rows = check_dataset(store, WORK.output, "seeds")
    kept = [row for row in rows if row.dropped is None]
    assert figures.kept == len(kept) == 40
    assert figures.rows == len(rows) == figures.drafts
    assert sum(figures.dropped.values()) == len(rows) - len(kept)
    assert any(reason.startswith("judge") for reason in figures.dropped)
    assert all(row.scores.keys() >= {"judge", "novelty"} and row.tags["language"] in "enzh" for row in kept)
    assert {row.tags["language"] for row in kept} == {"en", "zh"}
    assert figures.tokens == sum(row.origin.reply_tokens for row in rows if row.origin)


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
    assert not progress.target_met
    assert [row.dropped for row in progress.settle(rows[2:], 2)] == ["target: surplus", None]
    assert progress.target_met and (progress.kept, progress.rows, progress.draws) == (3, 4, 4)


def test_the_job_ends_with_the_first_shard_that_meets_the_target(store: Store) -> None:
    ground(with_seeds(store), job(target=20, shard_size=8))
    kept = [shard.kept for shard in store.manifest(WORK.output).shards]
    assert sum(kept) == 20
    assert kept[-1] > 0, "a shard was made for nothing"


def test_an_object_store_that_fails_often_holds_the_same_after_few_requests(tmp_path: Path) -> None:
    made = job(target=24)
    here = with_seeds(Store(str(tmp_path)))
    ground(here, made)
    with serving() as server:
        for failing in (0.0, 0.2):
            server.objects.clear()
            server.log.clear()
            server.failing = failing
            away = with_seeds(Store(server.uri))
            with making(away, WORK.output, say=pytest.fail) as held:
                ground(held, made)
            assert contents(away) == contents(here)
            if not failing:
                sent = server.log
                first, last = (
                    next(n for n, one in enumerate(sent) if word in one) for word in ("raw-", "figures.json")
                )
                assert (last - first) / len(here.manifest(WORK.output).shards) <= 10


def test_the_order_of_shards_changes_nothing(tmp_path: Path) -> None:
    stores = [with_seeds(Store(str(tmp_path / name))) for name in ("forward", "backward")]
    ground(stores[0])
    ground(stores[1], backwards=True)
    assert contents(stores[0]) == contents(stores[1])


def test_too_low_an_acceptance_ends_with_what_to_do_and_a_higher_limit_continues(store: Store) -> None:
    strict = [{"kind": "judge", "min_score": 3.5}]
    with pytest.raises(RunError, match=r"generate: \d+ of 12 samples kept .*judge: below threshold.*max_drafts"):
        ground(with_seeds(store), job(filters=strict, max_drafts=20))
    before = set(store.committed(WORK.output))
    assert before
    figures = ground(store, job(filters=strict, max_drafts=5000))
    assert figures.kept == 12
    assert job(max_drafts=20).fingerprint() == job(max_drafts=5000).fingerprint()


def test_no_kept_seed_is_refused(store: Store) -> None:
    shard = store.commit_shard("seeds", "shard-00000", to_table([seed([Message("user", "x")], dropped="ingest: bad")]))
    store.commit(Manifest("seeds", "samples", "ingest", "f", {}, {}, (shard,)))
    with pytest.raises(JobError, match="no kept row"):
        ground(store)


def test_a_parent_of_more_than_text_is_a_drop_with_its_name_and_no_call(store: Store) -> None:
    tools = seed([Message("user", "Rain?"), Message("assistant", "No.")], tools='[{"name": "weather"}]')
    image = seed([Message("user", "What?", parts='[{"type": "image"}]'), Message("assistant", "It.")])
    shard = store.commit_shard("seeds", "shard-00000", to_table([tools, image]))
    store.commit(Manifest("seeds", "samples", "ingest", "f", {}, {}, (shard,)))
    with pytest.raises(RunError, match="its parent has"):
        ground(store, job(methods=[{"kind": "evol_instruct"}], target=2, max_drafts=8))
    shards = store.committed(WORK.output).values()
    rows = [row for shard in shards for row in from_table(store.read_shard(WORK.output, shard))]
    assert {row.dropped for row in rows} == {
        "evol_instruct: its parent has tools, must be text alone",
        "evol_instruct: its parent has parts that are no text, must be text alone",
    }
    assert all(row.origin and not row.origin.prompt_tokens for row in rows)


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


def test_the_figures_say_what_a_kept_sample_cost(store: Store) -> None:
    engine = {"price": {"prompt": 1.0, "reply": 2.0}}
    figures = ground(with_seeds(store), job(engine=engine))
    made = samples_of(store, WORK.output)
    tokens = [sum(getattr(row.origin, name) for row in made) for name in ("prompt_tokens", "reply_tokens")]
    assert figures.cost == pytest.approx((tokens[0] + 2 * tokens[1]) / 1e6, abs=1e-4)
    assert figures.tokens_per_kept == pytest.approx(sum(tokens) / 12, abs=0.1)
    assert job().fingerprint() == job(engine=engine).fingerprint()
    assert ground(with_seeds(Store(str(store.local) + "-free"))).cost is None


def test_check_names_what_is_wrong(tmp_path: Path) -> None:
    wrong = Generate(
        engine=Engine(model="builtin:none"),
        methods=(SelfInstruct(engine="other"),),
    )
    problems = "\n".join(wrong.check(tmp_path))
    assert "no such builtin model" in problems
    assert "methods[0]: engine 'other' is unknown" in problems
    assert "methods[0]: self_instruct has nothing to draw from, must have generate.input" in problems
    given = Source(path=("x.jsonl",))
    assert Generate(input=given).check(tmp_path) == []
    assert "draws without end" in Generate(input=given, target="all").check(tmp_path)[0]


def test_main_is_the_generating_engine_and_no_other() -> None:
    assert list(job(engines={"judge": {}}).pipeline("run").engines) == ["main", "judge"]
    with pytest.raises(ValueError, match=r"'main' is the name of \[generate.engine\], must be another name"):
        Generate(engines={"main": Engine()})


def test_a_filter_stands_once() -> None:
    with pytest.raises(ValueError, match="novelty appears twice"):
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


def test_plan_of_all_inputs_counts_them_once_they_are_ingested(store: Store) -> None:
    generate = job(target="all", methods=[{"kind": "respond"}])
    before = generate.plan(store, WORK)
    assert before.samples == before.kept == 0
    assert before.notes[0].startswith("every input once")
    after = generate.plan(with_seeds(store), WORK)
    assert (after.samples, after.kept, after.notes[0][:17]) == (9, 4, "every input once,")
    unread = replace(WORK, inputs={**WORK.inputs, "documents": "ingest-documents"})
    assert generate.plan(store, unread).samples == 0, "the documents are what is walked through, not the seeds"


@pytest.mark.parametrize("kind", ["respond", "multi_turn", "annotate"])
def test_novelty_does_not_empty_a_job_on_the_instructions_of_its_inputs(store: Store, kind: str) -> None:
    method = {"kind": kind} | ({"labels": ["a", "b"], "calibrate": False} if kind == "annotate" else {})
    generate = job(methods=[method], filters=[{"kind": "novelty"}], target=6)
    assert ground(with_seeds(store), generate).kept == 6
    assert not any(row.scores.keys() & {"novelty"} for row in check_dataset(store, WORK.output, "seeds"))
    assert f"novelty: not for {kind}, whose instructions are the input's own" in generate.plan(store, WORK).notes


def test_novelty_still_judges_new_instructions_beside_those_of_the_inputs(store: Store) -> None:
    methods = [{"kind": "respond"}, {"kind": "self_instruct"}]
    ground(with_seeds(store), job(methods=methods, filters=[{"kind": "novelty", "max_similarity": 0.5}], target=30))
    rows = check_dataset(store, WORK.output, "seeds")
    near = [row for row in rows if (row.dropped or "").startswith("novelty: too near")]
    assert near and {row.method for row in near} == {"self_instruct"}
    new = [row for row in rows if row.method == "self_instruct" and row.dropped is None]
    assert new and all("novelty" in row.scores for row in new)
    assert {row.instruction for row in rows if row.method == "respond"} <= {*ENGLISH, *CHINESE}
