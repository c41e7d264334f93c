"""The split is stable, the packing is made once, and bins come back as they were written."""

from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from gristmill.cluster.contract.errors import JobError, RunError
from gristmill.cluster.contract.sample import Message, Sample, from_table, seed, to_table
from gristmill.cluster.io.ingest import Source
from gristmill.cluster.store.store import Manifest, Shard, Store
from gristmill.training.data import chat, packing, tokens
from gristmill.training.data import prepare as data
from gristmill.training.data.families import families, split
from gristmill.training.data.forecast import forecast
from gristmill.training.job import Train
from gristmill.training.optim.schedule import global_batch, num_steps
from tests.generation.ground import WORK, ground, job, with_seeds
from tests.test_pinned import METHODS
from tests.training.conftest import chats, dataset


def test_only_kept_rows_with_an_assistant_turn_are_used() -> None:
    rows = [*chats(3), chats(4)[3].drop("length: short"), seed([Message("user", "alone")])]
    fit, drops = tokens.usable(to_table(rows))
    assert fit.sum() == 3
    assert drops == {"no assistant turn": 1}


def test_what_must_not_be_learnt_is_counted_by_its_reason() -> None:
    row = chats(1)[0]
    silent = tuple(turn._replace(train=False) for turn in row.messages)
    rows = [
        row,
        replace(row, scores={"preference": 1.0, "weight": 1.0}),
        replace(row, scores={"preference": 0.0}),
        replace(row, scores={"weight": 0.0}),
        replace(row, scores={"weight": 0.5}),
        replace(row, scores={"weight": -1.0}),
        replace(row, messages=silent),
    ]
    fit, drops = tokens.usable(to_table(rows))
    assert fit.tolist() == [True, True, False, False, True, False, False]
    assert tokens.weights(to_table(rows)).tolist() == [1, 1, 1, 0, 0.5, -1, 1]
    assert drops == {
        "rejected candidate": 1,
        "weight 0": 1,
        "weight below 0": 1,
        "no assistant turn to train on": 1,
    }


def test_packing_counts_every_kept_row_and_is_made_once(store: Store, samples: str, tiny: str) -> None:
    job = Train(model=tiny, max_length=110)
    made = data.prepare(store, "train-x", {"samples": samples}, tiny, job)
    assert made.samples + made.holdout + sum(made.drops.values()) == 60
    assert made.drops["too long"] > 0
    before = {n: store.read_bytes("train-x", n) for n in store.names("train-x")}
    assert data.prepare(store, "train-x", {"samples": samples}, tiny, job) == made
    store.delete("train-x", data.PREPARED)
    assert data.prepare(store, "train-x", {"samples": samples}, tiny, job) == made
    assert {n: store.read_bytes("train-x", n) for n in store.names("train-x")} == before


def test_how_much_rows_count_is_packed_told_and_planned(store: Store, tiny: str) -> None:
    rows = [replace(row, scores={"weight": 1 + n % 3 / 4}) for n, row in enumerate(chats(60))]
    job = Train(model=tiny, max_length=256)
    said = "samples count by their weight, from 1 to 1.5"
    made = data.prepare(store, "train-x", {"samples": dataset(store, rows)}, tiny, job)
    assert made.notes[said] == 40
    assert forecast(store, {"samples": "select-000000000000"}, 60, job).notes == (f"40 {said}",)
    bins, held = (data.Bins.open(store, "train-x", prefix) for prefix in (data.PACKED, data.HELDOUT))
    assert not bins.alike and held.alike, "what is held out counts alike"
    assert set(bins.weights(np.arange(len(bins))).tolist()) == {1, 1.25, 1.5}
    assert bins.weight.sum() > bins.trained.sum() and (held.weight == held.trained).all()
    alike = data.prepare(store, "train-y", {"samples": dataset(store, chats(60), "select-1")}, tiny, job)
    assert alike.notes == {}
    assert data.Bins.open(store, "train-y", data.PACKED).alike


def test_bins_come_back_whole_from_several_tables(store: Store, samples: str, tiny: str) -> None:
    data.prepare(store, "train-x", {"samples": samples}, tiny, Train(model=tiny, max_length=256))
    bins = data.Bins.open(store, "train-x", data.PACKED)
    made = store.read_json("train-x", data.PREPARED)
    table = store.read_shard("train-x", Shard(**made["shards"][data.PACKED][0]), schema_of=packing.schema_of)
    assert made["trained_tokens"] == bins.trained.sum()
    split = data.Bins([table.slice(0, 2).combine_chunks(), table.slice(2).combine_chunks()])
    assert len(split) == len(bins) == table.num_rows > 3
    for place in range(len(bins)):
        assert split.column("input_ids", place).tolist() == table["input_ids"][place].as_py()
    batch = packing.batch(split.rows(np.array([3, 0])))
    assert batch["input_ids"].shape[0] == 2
    assert split.tokens(np.array([3, 0])) == int((batch["position_ids"] >= 0).sum()) - int(
        2 * batch["input_ids"].shape[1] - len(table["labels"][3]) - len(table["labels"][0])
    )
    assert (batch["labels"] != -100).sum() == split.trained[[3, 0]].sum()


def test_a_dataset_of_one_row_is_refused(store: Store, tiny: str) -> None:
    name = dataset(store, chats(1))
    with pytest.raises(JobError, match="1 of 1 rows can be used, must be at least 2"):
        data.prepare(store, "train-x", {"samples": name}, tiny, Train(model=tiny))


def test_the_sweep_leaves_the_held_out_rows(store: Store, samples: str, tiny: str) -> None:
    data.prepare(store, "train-x", {"samples": samples}, tiny, Train(model=tiny))
    data.sweep(store, "train-x")
    assert store.names("train-x") == ["holdout.arrow", "holdout.json", "left_out.json"]


def long_row(n: int, parent: Sample | None = None) -> Sample:
    text = " ".join(f"w{Random(n * 100 + k).randrange(10**6)}" for k in range(30))
    made = seed([Message("user", text), Message("assistant", f"It is {n}.")])
    return replace(made, parents=(parent.id,), method="augment") if parent else made


def reworded(row: Sample) -> Sample:
    first = row.messages[0]
    return seed([Message("user", first.text.replace(first.text.split()[3], "other")), row.messages[1]])


def ids_in(store: Store, name: str) -> set[str]:
    return set(store.read_shard("train-x", store.shard("train-x", name))["id"].to_pylist())


def test_rows_like_those_of_validation_and_test_files_are_left_out(store: Store, tiny: str) -> None:
    rows = [long_row(n) for n in range(20)]
    inputs = {
        "samples": dataset(store, rows),
        "validation": dataset(store, [reworded(rows[0]), long_row(100)], "ingest-000000000001"),
        "test": dataset(store, [reworded(rows[1]), rows[2]], "ingest-000000000002"),
        "test-2": dataset(store, [long_row(101)], "ingest-000000000003"),
    }
    job = Train(model=tiny, validation=Source(path=("validation.jsonl",)))
    made = data.prepare(store, "train-x", inputs, tiny, job)
    assert (made.samples, made.holdout, made.left_out, made.families) == (17, 2, 3, 2)
    assert made.drops == {"near copy of a held-out row": 1, "near copy of a test row": 2}
    assert ids_in(store, "holdout") == {reworded(rows[0]).id, long_row(100).id}
    left = store.read_json("train-x", data.LEFT_OUT)
    assert left == {
        "near copy of a held-out row": [rows[0].id],
        "near copy of a test row": [rows[1].id, rows[2].id],
    }


def test_a_share_of_the_seeds_is_held_out_with_all_that_was_made_from_them(store: Store, tiny: str) -> None:
    seeds = [long_row(n) for n in range(20)]
    made_rows = [long_row(1000 + 10 * n + k, parent) for n, parent in enumerate(seeds) for k in range(3)]
    inputs = {"samples": dataset(store, made_rows), "seeds": dataset(store, seeds, "ingest-000000000001")}
    job = Train(model=tiny, validation=0.2, validation_split="seeds")
    made = data.prepare(store, "train-x", inputs, tiny, job)
    held = ids_in(store, "holdout")
    assert held < {row.id for row in seeds}
    assert made.holdout == made.families == len(held) >= 1
    assert made.drops == {"made from a held-out seed": 3 * len(held)}
    assert made.samples == 60 - 3 * len(held)
    left = store.read_json("train-x", data.LEFT_OUT)["made from a held-out seed"]
    assert {row.id for row in made_rows if row.parents[0] in held} == set(left)


def test_held_out_rows_name_their_family(store: Store, tiny: str) -> None:
    seeds = [long_row(900 + n) for n in range(12)]
    rows = [long_row(10 * n + k, parent) for n, parent in enumerate(seeds) for k in range(4)]
    made = data.prepare(store, "train-x", {"samples": dataset(store, rows)}, tiny, Train(model=tiny, validation=0.2))
    table = store.read_shard("train-x", store.shard("train-x", "holdout"))
    named = [dict(tags)["family"] for tags in table["tags"].to_pylist()]
    assert made.holdout == 4 * made.families == len(named)
    assert set(Counter(named).values()) == {4}
    assert set(named) < set(table["id"].to_pylist())
    assert families(table).tolist() == [sorted(set(named)).index(name) for name in named]


@pytest.mark.parametrize("settings", METHODS, ids=lambda settings: str(settings["kind"]))
def test_no_method_makes_rows_of_which_kin_are_trained_on_and_held_out(
    settings: dict[str, object], tmp_path: Path
) -> None:
    """With the rows that the scripted engine makes, as if all had passed the filters."""
    store = with_seeds(Store(str(tmp_path)))
    with suppress(RunError):  # the scripted engine is no good at some; what was made counts
        ground(store, job(methods=[settings], target=24, max_drafts=90, filters=[]))
    done = store.complete(WORK.output)
    shards = store.manifest(WORK.output).shards if done else store.committed(WORK.output).values()
    made = [row for shard in shards for row in from_table(store.read_shard(WORK.output, shard))]
    rows = [replace(row, dropped=None) for row in made]
    if len({row.messages for row in rows}) == 1:  # then there is nothing to split
        with pytest.raises(JobError, match="near copies of each other"):
            split(to_table(rows), np.ones(len(rows), np.bool_), 0.2)
        return
    found = split(to_table(rows), np.ones(len(rows), np.bool_), 0.2)
    trained = ~found.held & ~found.left_out
    place = {row.id: n for n, row in enumerate(rows)}
    assert trained.sum() > len(rows) / 2
    for one in np.flatnonzero(found.held).tolist():
        assert not any(trained[place[parent]] for parent in rows[one].parents if parent in place)
        for other in np.flatnonzero(trained).tolist():
            assert rows[one].id not in rows[other].parents
            assert rows[one].messages != rows[other].messages


@pytest.mark.parametrize("too_long", ["drop", "truncate"])
def test_a_plan_counts_the_steps_that_will_be_taken(store: Store, samples: str, tiny: str, too_long: str) -> None:
    job = Train.model_validate({"model": tiny, "max_length": 110, "too_long": too_long, "epochs": 3})
    made = data.prepare(store, "train-x", {"samples": samples}, tiny, job)
    steps = num_steps(job.epochs, made.bins, job.global_batch_size)
    told = forecast(store, {"samples": samples}, 0, job)
    assert told.steps == pytest.approx(steps, rel=0.15)
    assert told.tokens == pytest.approx(made.tokens * 3, rel=0.2)
    assert told.how == f"about {told.steps} steps"


def test_a_plan_of_rows_that_are_not_made_yet_tells_the_most_steps(store: Store, tiny: str) -> None:
    told = forecast(store, {"samples": "select-absent"}, 60, Train(model=tiny, epochs=2, global_batch_size=4))
    assert told.how == "at most 27 steps (as many as without packing)"
    assert forecast(store, {"samples": "select-absent"}, 60, Train(model=tiny, steps=7)).how == "7 steps"


def test_several_datasets_are_mixed_by_weight_with_replay_and_planned_so(store: Store, tiny: str) -> None:
    rows = [long_row(n) for n in range(90)]
    inputs = {
        "samples": dataset(store, rows[:40]),
        "mixture": dataset(store, rows[40:60], "ingest-000000000001"),
        "mixture-2": dataset(store, [*rows[60:70], reworded(rows[0])], "ingest-000000000002"),
        "replay": dataset(store, rows[70:], "ingest-000000000003"),
    }
    settings = {
        "model": tiny, "max_length": 600, "mixture_weight": 1.0, "replay": 0.25, "replay_input": "old.jsonl",
        "mixture": [{"input": "chat.jsonl", "weight": 3.0}, {"input": "a/maths.jsonl"}],
    }  # fmt: skip
    job = Train.model_validate(settings)
    assert job.check(Path()) == [] and set(job.sources()) == set(inputs) - {"samples"}
    made = data.prepare(store, "train-x", inputs, tiny, job)
    bins = data.Bins.open(store, "train-x", data.PACKED)
    assert made.samples + made.holdout + made.left_out == 91
    assert [one["name"] for one in made.sources] == ["input", "chat.jsonl", "maths.jsonl", "old.jsonl"]
    assert sum(one["samples"] for one in made.sources) == made.samples
    sizes = [one["packed_rows"] for one in made.sources]
    assert sum(sizes) == made.bins == len(bins)
    main = sum(sizes[:3])
    rates = [sizes[0], 3 * sizes[1], sizes[2]]
    for one, rate in zip(made.sources[:3], rates, strict=True):
        assert one["epoch_rows"] == pytest.approx(main * rate / sum(rates), abs=1)
    assert made.sources[3]["epoch_rows"] == round(main / 3)
    assert made.epoch_rows == main + round(main / 3) == sum(group.taken for group in bins.groups)
    assert sum(one["share"] for one in made.sources) == pytest.approx(1, abs=1e-3)
    assert made.sources[3]["share"] == pytest.approx(0.25, abs=0.02)
    held = set(store.read_shard("train-x", store.shard("train-x", "holdout"))["id"].to_pylist())
    both = {rows[0].id, reworded(rows[0]).id}
    assert held & both in (set(), both), "near copies in two datasets are on one side"
    told = forecast(store, inputs, 91, job)
    assert told.steps == pytest.approx(num_steps(job.epochs, made.epoch_rows, job.global_batch_size), rel=0.15)
    assert told.notes[1].startswith("chat.jsonl: 20 samples, about ")
    other = Train.model_validate({**settings, "mixture_temperature": 1e6})
    even = data.prepare(store, "train-y", inputs, tiny, other)
    assert len({one["epoch_rows"] for one in even.sources[:3]}) <= 2, "equal but for rounding"
    assert (
        Train.model_validate({"model": tiny, "mixture": settings["mixture"]}).fingerprint()
        != Train(model=tiny).fingerprint()
    )


def test_settings_of_a_mixture_without_one_are_refused(tiny: str) -> None:
    given = {"model": tiny, "mixture_temperature": 2.0, "replay": 0.1, "curriculum_stages": 3}
    found = Train.model_validate(given).check(Path())
    assert [line.partition(":")[0] for line in found] == ["mixture_temperature", "replay", "curriculum_stages"]
    assert len(Train.model_validate({"model": tiny, "replay_input": "old.jsonl"}).check(Path())) == 1


def test_a_curriculum_brings_the_samples_with_low_scores_first(store: Store, tiny: str) -> None:
    rows = [replace(row, scores={"hard": float(n % 7)} if n % 10 else {}) for n, row in enumerate(chats(60))]
    name = dataset(store, rows)
    job = Train(model=tiny, max_length=256, curriculum="hard", curriculum_stages=3, global_batch_size=1)
    made = data.prepare(store, "train-x", {"samples": name}, tiny, job)
    assert made.notes["samples without the score hard, which come in the last stage"] in range(3, 7)
    bins = data.Bins.open(store, "train-x", data.PACKED)
    score = [row.scores.get("hard", float("nan")) for row in rows]
    order = [global_batch(n, seed=job.seed, groups=bins.groups, batch=1)[0] for n in range(made.epoch_rows)]
    means = [np.mean([score[p] for p in bins.column("samples", int(place))]) for place in order]
    stage = [group.stage for group in bins.groups for _ in range(group.rows)]
    assert [stage[place] for place in order] == sorted(stage)
    first, last = (np.nanmean([m for m, place in zip(means, order, strict=True) if stage[place] == n]) for n in (0, 2))
    assert last > first + 2
    down = Train(model=tiny, max_length=256, curriculum="length", curriculum_descending=True, curriculum_stages=2)
    data.prepare(store, "train-y", {"samples": name}, tiny, down)
    longest = data.Bins.open(store, "train-y", data.PACKED)
    sizes = [max(np.diff([*np.flatnonzero(row[2] == 0), len(row[0])])) for row in longest.rows(np.arange(len(longest)))]
    assert min(sizes[: longest.groups[0].rows]) >= max(sizes[longest.groups[0].rows :]) - 1
    wrong = Train(model=tiny, curriculum="hardness")
    with pytest.raises(JobError, match="no sample has this score; must be one of hard, length"):
        data.prepare(store, "train-z", {"samples": name}, tiny, wrong)
    with pytest.raises(JobError, match="no sample has this score; must be one of hard, length"):
        forecast(store, {"samples": name}, 60, wrong)


def test_long_samples_are_dropped_cut_or_split_and_counted(store: Store, samples: str, tiny: str) -> None:
    tok, talks = chat.tokenizer(tiny), tokens.conversations(store.read(samples).slice(0, 60))
    whole = chat.encode(tok, talks, chat.Encoding(512))
    long = int((whole.lengths > 100).sum())
    assert 5 < long < 55
    split = chat.encode(tok, talks, chat.Encoding(100, "split"))
    assert split.notes[chat.PIECES] == long and split.notes.get(chat.LEFT, 0) >= 0 and not split.drops
    at = 0
    for place, size in enumerate(whole.lengths.tolist()):
        mine = np.flatnonzero(split.places == place)
        ends = np.cumsum(split.lengths)
        ids = [split.ids[ends[n] - split.lengths[n] : ends[n]].tolist() for n in mine]
        wanted = whole.ids[at : at + size].tolist()
        pieces = [wanted[n : n + 100] for n in range(0, size, 100)]
        trained = whole.trained[at : at + size]
        assert ids == [piece for n, piece in enumerate(pieces) if trained[n * 100 + 1 : n * 100 + 100].any()]
        at += size
    cut = chat.encode(tok, talks, chat.Encoding(100, "truncate"))
    lost = cut.drops.get(chat.UNTRAINED, 0)
    assert cut.notes[chat.CUT] == long - lost and max(cut.lengths) == 100


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_shards_that_tasks_encode_give_the_bytes_of_one_process(
    store: Store, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [replace(row, scores={"weight": 1.0 + n % 3}) for n, row in enumerate(chats(120))]
    rows[7] = replace(rows[7], scores={"weight": 0.0})
    shards = [store.commit_shard("select-3", f"shard-{n:05d}", to_table(rows[n * 40 : n * 40 + 40])) for n in range(3)]
    store.commit(Manifest("select-3", "samples", "select", "0" * 32, {}, {}, tuple(shards)))
    monkeypatch.setattr(tokens, "BLOCK", 16)  # a task, which has the usual size, gives the same bytes
    job = Train(model=tiny, max_length=110, too_long="truncate")
    one = data.prepare(store, "train-x", {"samples": "select-3"}, tiny, job)
    monkeypatch.setattr(tokens, "TASK_ROWS", 1)
    other = data.prepare(store, "train-y", {"samples": "select-3"}, tiny, job)
    assert one == other and one.notes[chat.CUT] > 0 and one.drops["weight 0"] == 1
    names = [name for name in store.names("train-x") if name.endswith(".arrow")]
    assert not any(name.startswith(tokens.TOKENS) for name in store.names("train-x"))
    for name in names:
        assert store.read_bytes("train-x", name) == store.read_bytes("train-y", name), name
