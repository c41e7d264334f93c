"""Real DeepSpeed under real Ray Train in all its variants: stages, tunings, optimizers, precisions, workers, weights.

The runs are of three steps each, and made once for all tests of this file.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gristmill.cluster.contract.sample import Message, Sample, from_table, seed
from gristmill.cluster.store.store import Store
from gristmill.training.data import prepare as data
from gristmill.training.data import tokens
from gristmill.training.data.prepare import Bins
from gristmill.training.loop import separation, stopping
from gristmill.training.loop import worker as loop
from gristmill.training.loop.journal import left_out
from gristmill.training.loop.state import WorkerPlan
from gristmill.training.optim import schedule
from tests.training.conftest import chats, dataset
from tests.training.rehearsal import SAMPLES, WEIGHED, journal, plan, rehearse

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("ray_session")]
ADAPTER: dict[str, Any] = {"kind": "lora", "r": 4, "alpha": 8}
LABELLED = "select-000000000004"
LORA: dict[str, Any] = {"tuning": ADAPTER}
FULL: dict[str, Any] = {"tuning": {"kind": "full"}, "learning_rate": 1e-3}
FREEZE: dict[str, Any] = {"tuning": {"kind": "freeze", "last_layers": 1}}
HALF: dict[str, Any] = {**LORA, "precision": "bf16", "global_batch_size": 8}
MUON: dict[str, Any] = {"optimizer": {"kind": "muon"}, "tuning": {"kind": "full"}}
ADAFACTOR: dict[str, Any] = {**MUON, "optimizer": {"kind": "adafactor"}}
NOISY: dict[str, Any] = {"neftune_alpha": 5.0, "label_smoothing": 0.1, "logits_at_once": 16, "attention": "eager"}
RISING: dict[str, Any] = {**FULL, "learning_rate": 0.3, "eval_steps": 1, "early_stopping": 2, "keep": "best"}
PLATEAU: dict[str, Any] = {
    **FULL, "learning_rate": 0.3, "eval_steps": 1, "schedule": "reduce_lr_on_plateau", "plateau_patience": 0,
    "plateau_factor": 0.5, "warmup_ratio": 0.0, "dropout": 0.1,
}  # fmt: skip
MIXED: dict[str, Any] = {
    **FULL, "further": {"mixture": WEIGHED, "replay": SAMPLES}, "mixture": [{"input": "more.jsonl", "weight": 2.0}],
    "replay": 0.2, "replay_input": "old.jsonl", "curriculum": "length", "curriculum_stages": 2, "steps": 6,
}  # fmt: skip
NUMBERS: dict[str, Any] = {
    **FULL, "samples": LABELLED, "eval_steps": 2, "metric": "accuracy", "keep": "best", "steps": 4,
}  # fmt: skip
RUNS: dict[str, tuple[int, dict[str, Any]]] = {
    **{f"lora-{stage}": (stage, LORA) for stage in (0, 1, 2, 3)},
    **{f"full-{stage}": (stage, FULL) for stage in (1, 3)},
    **{f"half-{stage}": (stage, HALF) for stage in (1, 2, 3)},
    "weighed": (1, {**FULL, "samples": WEIGHED}),
    "explodes": (1, {"learning_rate": 1e30, "max_grad_norm": 0}),
    "dora-2": (2, {"tuning": {**ADAPTER, "dora": True}}),
    "pissa-1": (1, {"tuning": {**ADAPTER, "init": "pissa"}}),
    "pissa-2": (2, {"tuning": {**ADAPTER, "init": "pissa", "rslora": True}}),
    "plus-2": (2, {"tuning": {**ADAPTER, "b_rate": 16}}),
    "plus-3": (3, {"tuning": {**ADAPTER, "b_rate": 16}}),
    "freeze-1": (1, FREEZE),
    "freeze-3": (3, FREEZE),
    **{f"muon-{stage}": (stage, MUON) for stage in (0, 1, 2, 3)},
    **{f"adafactor-{stage}": (stage, ADAFACTOR) for stage in (0, 1, 2, 3)},
    "half-muon-1": (1, {**HALF, **MUON}),
    "sgd-1": (1, {**FULL, "optimizer": {"kind": "sgd"}, "learning_rate": 0.1}),
    "noisy-1": (1, NOISY),
    "full-shared-1": (1, {**FULL, "sequence_parallel": 2}),
    "full-shared-3": (3, {**FULL, "sequence_parallel": 2, "micro_batch_size": 2, "gradient_checkpointing": True}),
    "lora-shared-2": (2, {**LORA, "sequence_parallel": 2, "logits_at_once": 16}),
    "best-1": (1, {**RISING, "steps": 9}),
    "pure-2": (2, {**HALF, "optimizer_states": "bf16"}),
    "mixed-1": (1, MIXED),
    "plateau-1": (1, {**PLATEAU, "steps": 6}),
    "labels-1": (1, NUMBERS),
    "labels-3": (3, NUMBERS),
}
"""Settings of a run by its name, with the stage of ZeRO."""
ALONE = {
    "lora-alone": (1, LORA),
    "full-alone": (1, FULL),
    "weighed-alone": (1, {**RUNS["weighed"][1], "micro_batch_size": 4}),
}
"""Runs of a single worker."""
CONTINUED = (
    "half-1",
    "pissa-1",
    "freeze-1",
    "muon-0",
    "muon-2",
    "adafactor-1",
    "adafactor-3",
    "noisy-1",
    "best-1",
    "pure-2",
    "plateau-1",
    "mixed-1",
)
"""Runs that are made again with `-again` after the name, twice, so that they continue from their newest checkpoint."""
FEWER = ("half-1", "freeze-1", "muon-0", "muon-1", "half-muon-1", "adafactor-2", "sgd-1", "pure-2")
"""Runs that are made again with `-fewer` after the name, and then continued by one worker."""


def plans(store: Store, tiny: str, names: dict[str, str], workers: int = 2) -> Iterator[WorkerPlan]:
    """Yield the plans of runs by their outputs, of which the settings have a name of their own."""
    for output, name in names.items():
        stage, settings = {**RUNS, **ALONE}[name]
        yield plan(store, tiny, output, workers, **{"zero": {"stage": stage}, "save_steps": 2, **settings})


@pytest.fixture(scope="module")
def store(shelf: Path, tiny: str, ray_session: None) -> Store:
    """The store in which all runs have been made."""
    made = Store(str(shelf / "variants"))
    dataset(made, [*chats(60), seed([Message("user", "Is 1 + 1 2?"), Message("assistant", "It is.")])])
    dataset(made, [replace(row, scores={"weight": 0.25 + n % 4}) for n, row in enumerate(chats(60))], WEIGHED)
    dataset(made, numbers(45), LABELLED)
    again, fewer = ({f"{name}-{more}": name for name in of} for more, of in (("again", CONTINUED), ("fewer", FEWER)))
    once = list(plans(made, tiny, {name: name for name in RUNS} | fewer))
    twice = [plan for plan in plans(made, tiny, again) for _ in range(2)]
    bad = damaged(tiny, shelf / "damaged")
    broken = [plan(made, bad, name, steps=10, save_steps=4) for name in ("damaged", "damaged-again", "damaged-again")]
    rehearse([*once, *twice, *broken], 2)
    rehearse(list(plans(made, tiny, {name: name for name in ALONE} | fewer, 1)), 1)
    return made


def numbers(count: int) -> list[Sample]:
    """Return rows whose answers are three labels."""
    said = ("odd", "even", "zero, which is even")
    return [seed([Message("user", f"And {n}?"), Message("assistant", said[n % 3])]) for n in range(count)]


def lines(store: Store, name: str, key: str) -> list[Any]:
    return [m[key] for m in journal(store, name) if key in m]


def damaged(tiny: str, folder: Path) -> str:
    """Write the tiny model with an infinite embedding of `+`, which one chat has and no probe takes."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model: Any = LlamaForCausalLM.from_pretrained(tiny, tie_word_embeddings=False, dtype=torch.float32)
    model.get_input_embeddings().weight.data[tokenizer.convert_tokens_to_ids("+")] = float("inf")
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return str(folder)


@pytest.mark.parametrize("kind", ["lora", "full", "weighed", "muon", "adafactor"])
def test_every_stage_and_number_of_workers_gives_the_same_losses(store: Store, kind: str) -> None:
    names = [name for name in (*RUNS, *ALONE) if name.startswith(kind)]
    curves = {name: lines(store, name, "loss") for name in names}
    norms = {name: lines(store, name, "grad_norm") for name in names}
    assert len(names) >= 2 and all(len(curve) == 3 for curve in curves.values()), curves
    first = next(name for name in names if norms[name][0])
    assert all(reason.startswith(separation.APART) for name in names for reason in lines(store, name, "apart"))
    near = 1e-4 if kind == "muon" else 1e-5  # it rounds the steps of matrices to bf16
    for name in names:
        assert curves[name] == pytest.approx(curves[first], abs=near), name
        if norms[name][0]:
            assert norms[name] == pytest.approx(norms[first], rel=1e-3), name


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_exports_of_every_stage_agree(store: Store, kind: str) -> None:
    from safetensors.torch import load_file

    paths = [store.folder(f"{kind}-{stage}") / "merged/model.safetensors" for stage in (1, 3)]
    one, other = (load_file(str(path)) for path in paths)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert (tensor - other[name]).abs().max() < 1e-4, name


def test_a_run_that_cannot_get_finite_numbers_ends_with_what_to_do(store: Store) -> None:
    assert "the loss is nan, must be finite; 3 batches" in store.read_json("explodes", loop.FAILED)["error"]
    assert len(left_out(journal(store, "explodes"))) == 3


@pytest.mark.parametrize("name", CONTINUED)
def test_a_run_that_continues_has_the_losses_of_an_unbroken_one(store: Store, name: str) -> None:
    starts = lines(store, f"{name}-again", "start")
    assert len(starts) == 2 and starts[0] == 0 < starts[1]
    for key in ("loss", "holdout_loss", "end", "kept"):
        assert lines(store, f"{name}-again", key) == lines(store, name, key)


@pytest.mark.parametrize("name", FEWER)
def test_another_number_of_workers_continues_a_run_with_the_same_losses(store: Store, name: str) -> None:
    starts = [(m["start"], m["workers"]) for m in journal(store, f"{name}-fewer") if "start" in m]
    assert starts == [(0, 2), (2, 1)]
    near = {"half-1": 2e-3, "pure-2": 2e-2, "half-muon-1": 5e-3, "muon-0": 1e-4, "muon-1": 1e-4}.get(name, 1e-5)
    for key in ("loss", "holdout_loss"):
        assert lines(store, f"{name}-fewer", key) == pytest.approx(lines(store, name, key), abs=near)


def test_every_tuning_and_optimizer_learns_at_its_stages(store: Store, tiny: str) -> None:
    from safetensors.torch import load_file

    for name in ("dora-2", "pissa-1", "pissa-2", "plus-2", "freeze-1", "muon-0"):
        curve = lines(store, name, "loss")
        assert len(curve) == 3 and curve[2] < curve[0] - 0.05, name
        assert all(value < 1e-4 for value in lines(store, name, "merged_difference")), name
    assert lines(store, "lora-1", "merged_difference") and not lines(store, "freeze-1", "merged_difference")
    for kind in ("plus-{}", "freeze-{}"):
        one, other = (lines(store, kind.format(stage), "loss") for stage in (2 if kind[0] == "p" else 1, 3))
        assert one == pytest.approx(other, abs=1e-5), kind
    plus, same = (lines(store, name, "loss")[1:] for name in ("plus-2", "lora-2"))
    assert plus != pytest.approx(same, abs=1e-3), "B has no rate of its own"
    assert lines(store, "noisy-1", "apart")[0].endswith("; logits of 16 tokens at a time")
    base, made = (load_file(f"{folder}/model.safetensors") for folder in (tiny, store.folder("freeze-3") / "merged"))
    changed = {name for name in made if not made[name].equal(base[name])}
    assert changed and all(name.startswith("model.layers.1.") for name in changed)


def test_training_ends_when_the_held_out_loss_rises_and_keeps_the_best_weights(store: Store) -> None:
    from gristmill.training.loop.losses import sample_losses
    from gristmill.training.tuning.model import load

    told = journal(store, "best-1")
    held, end = stopping.measured(told), told[-1]
    assert stopping.stale(held) == 2 and stopping.stale(held[:-1]) == 1
    assert end["end"] == len(held) < 9, "it did not end early"
    assert (end["holdout_loss"], end["kept"]) == stopping.best(held)[:2]
    assert end["kept"] == end["end"] - 2
    bins = Bins.open(store, "best-1", data.HELDOUT)
    count = 1 + max(int(bins.column("samples", place).max()) for place in range(len(bins)))
    summed, tokens = sample_losses(
        load(str(store.folder("best-1") / "merged"), "fp32").eval(), bins, count, "positions"
    )
    assert summed.sum() / tokens.sum() == pytest.approx(end["holdout_loss"], abs=1e-4)


def test_a_causal_model_keeps_the_weights_with_the_best_accuracy_of_labels(store: Store) -> None:
    from gristmill.training.data import chat
    from gristmill.training.loop.losses import sample_losses
    from gristmill.training.tasks import choices
    from gristmill.training.tuning.model import load

    between, end = (lines(store, "labels-1", "measures")[n] for n in (0, -1))
    assert lines(store, "labels-3", "measures")[0] == pytest.approx(between, abs=1e-6)
    [kept] = lines(store, "labels-1", "kept")
    held = stopping.measured(journal(store, "labels-1"), "accuracy")
    assert len(held) == 1 and kept == (2 if held[0].error <= 1 - end["accuracy"] else 4)
    folder = str(store.folder("labels-1") / "merged")
    rows = store.read_shard("labels-1", store.shard("labels-1", data.HOLDOUT))
    how = plan(store, folder, "labels-1", **{**NUMBERS, "steps": 4}).job.encoding
    found = choices.opened(rows, choices.names_of(store, [LABELLED]), chat.tokenizer(folder), how)
    summed, _ = sample_losses(load(folder, "fp32").eval(), Bins([found.bins]), len(found.numbers), "positions")
    assert found.measures(summed) == pytest.approx(end, abs=1e-6)


def test_the_rate_follows_the_held_out_losses_and_dropout_ends_with_the_training(store: Store, tiny: str) -> None:
    held = [one.loss for one in stopping.measured(journal(store, "plateau-1"))]
    wanted = [0.3 * schedule.plateau(held[:n], patience=0, factor=0.5, lowest=0.0) for n in range(6)]
    assert lines(store, "plateau-1", "lr") == pytest.approx(wanted)
    assert wanted[-1] < 0.3, "the held-out loss never rose"
    written, own = (
        json.loads((Path(f) / "config.json").read_text()) for f in (store.folder("plateau-1") / "merged", tiny)
    )
    assert written["attention_dropout"] == own["attention_dropout"] == 0.0


def test_a_mixture_takes_the_rows_of_its_epochs_in_order(store: Store) -> None:
    bins = Bins.open(store, "mixed-1", data.PACKED)
    assert {group.source for group in bins.groups} == {0, 1, 2} and {group.stage for group in bins.groups} == {0, 1}
    taken = [schedule.global_batch(n, seed=0, groups=bins.groups, batch=4) for n in range(6)]
    assert lines(store, "mixed-1", "trained_tokens") == [int(bins.trained[places].sum()) for places in taken]


def test_sums_of_bf16_gradients_train_alike_at_every_stage(store: Store) -> None:
    curves = [lines(store, f"half-{stage}", "loss") for stage in (1, 2, 3)]
    assert len(curves[0]) == 3
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], abs=2e-3)


def test_a_batch_whose_loss_is_not_finite_is_left_out_and_stays_so_when_the_run_continues(
    store: Store, tiny: str
) -> None:
    from transformers import AutoTokenizer

    plus = AutoTokenizer.from_pretrained(tiny).convert_tokens_to_ids("+")
    bins = Bins.open(store, "damaged", data.PACKED)
    (bad,) = (place for place in range(len(bins)) if plus in bins.column("input_ids", place))
    batches = [schedule.global_batch(n, seed=0, groups=len(bins), batch=4).tolist() for n in range(13)]
    first, again = journal(store, "damaged"), journal(store, "damaged-again")
    outs = [line for line in first if "left_out" in line]
    assert [out["left_out"] for out in outs] == [n for n in range(13) if bad in batches[n]] == [0, 6, 11]
    assert [(out["at"], out["back"]) for out in outs] == [(1, 0), (6, 4), (10, 8)]
    assert {out["why"] for out in outs} == {"the loss is nan"}
    assert [m["start"] for m in again if "start" in m] == [0, 8]
    for lines in (first, again):
        steps = [m for m in lines if "step" in m]
        assert [m["step"] for m in steps] == list(range(1, 11))
        taken = [n for n in range(13) if n not in (0, 6, 11)]
        assert [m["trained_tokens"] for m in steps] == [int(bins.trained[batches[n]].sum()) for n in taken]
    assert [m["loss"] for m in first if "step" in m] == [m["loss"] for m in again if "step" in m]
    assert [m["holdout_loss"] for m in first if "end" in m] == [m["holdout_loss"] for m in again if "end" in m]


@pytest.mark.parametrize(("output", "samples"), [("full-1", SAMPLES), ("weighed", WEIGHED)])
def test_the_loss_of_a_step_is_the_mean_over_its_tokens_by_weight(
    store: Store, tiny: str, output: str, samples: str
) -> None:
    """The first loss that two workers report is that of the base model over the same rows in one process."""
    import torch

    from gristmill.training.loop.losses import tensors, token_losses
    from gristmill.training.tuning.model import load

    bins = Bins.open(store, output, data.PACKED)
    places = schedule.global_batch(0, seed=0, groups=len(bins), batch=4)
    first = next(m for m in journal(store, output) if m.get("step") == 1)
    assert first["trained_tokens"] == bins.trained[places].sum()
    score = {row.id: row.scores.get("weight", 1) for row in from_table(store.read(samples))}
    rows = packed_ids(store, output, samples)
    model, total, weight = load(tiny, "fp32").eval(), 0.0, 0.0
    for place in places:
        batch = separation.batches(bins.rows(np.array([place])), "positions")[0]
        with torch.no_grad():
            values, at = token_losses(model, tensors(batch, "cpu"), "positions")
        for sample, value in zip(batch["sample"][0, at.numpy()], values[0].tolist(), strict=True):
            count = score[rows[bins.column("samples", int(place))[sample]]]
            total, weight = total + count * value, weight + count
    assert (weight == first["trained_tokens"]) == (samples == SAMPLES)
    assert first["loss"] == pytest.approx(total / weight, abs=1e-4)


def packed_ids(store: Store, output: str, samples: str) -> list[str]:
    """Return the ids of the rows that could be encoded, which the bins count by their place."""
    table = store.read(samples)
    ids: list[str] = table["id"].filter(pa.array(tokens.usable(table)[0])).to_pylist()
    return ids
