"""Which samples are scored, and what a recipe may say of suites."""

import json
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.contract.errors import JobError, StoreError
from gristmill.cluster.io.ingest import ingest
from gristmill.cluster.jobs.job import Run
from gristmill.cluster.jobs.recipe import check_inputs, open_recipe
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Manifest, Store
from gristmill.training.data import prepare as data
from gristmill.training.evaluate.held_out import NEAR, rows_of
from gristmill.training.evaluate.job import Evaluate, _settings
from gristmill.training.evaluate.suites import compare
from gristmill.training.evaluate.suites.bench import Bench
from gristmill.training.evaluate.suites.freeze import freeze
from gristmill.training.job import Train
from tests.training.conftest import dataset
from tests.training.data.test_prepare import long_row, reworded
from tests.training.evaluate.items import Models, gathered_from, says


@pytest.fixture
def trained(store: Store, tiny: str) -> str:
    """A finished training of twenty rows, as far as its samples go; a copy of row 3 is a test sample."""
    inputs = {
        "samples": dataset(store, [long_row(n) for n in range(20)]),
        "test": dataset(store, [reworded(long_row(3))], "ingest-000000000001"),
    }
    data.prepare(store, "train-x", inputs, tiny, Train(model=tiny, validation=0.2))
    shard = store.shard("train-x", data.HOLDOUT)
    store.commit(Manifest("train-x", "model", "train", "f", inputs, {}, (shard,)))
    return "train-x"


def test_without_an_input_the_rows_held_out_are_scored(store: Store, trained: str) -> None:
    table, drops = rows_of(store, {"model": trained})
    [shard] = store.manifest(trained).shards
    assert table.equals(store.read_shard(trained, shard))
    assert table.num_rows == shard.rows > 0
    assert drops == {}


def test_samples_near_rows_trained_on_are_not_scored(store: Store, trained: str) -> None:
    used = data.trained_on(store, trained)["id"].to_pylist()
    left = {name for names in store.read_json(trained, data.LEFT_OUT).values() for name in names}
    held = data.held_out(store, trained)["id"].to_pylist()
    assert sorted([*used, *held, *left]) == sorted(long_row(n).id for n in range(20))
    assert long_row(3).id in left or long_row(3).id in held
    copied = next(n for n in range(20) if long_row(n).id in used)
    rows = [reworded(long_row(copied)), reworded(long_row(3)), long_row(50)]
    table, drops = rows_of(store, {"model": trained, "samples": dataset(store, rows, "ingest-000000000002")})
    assert table["id"].to_pylist() == [row.id for row in rows[1:]]
    assert drops == {NEAR: 1}
    with pytest.raises(JobError, match=f"none of 1 samples can be scored .*{NEAR}.* train.test"):
        rows_of(store, {"model": trained, "samples": dataset(store, rows[:1], "ingest-000000000003")})


def recipe(evaluate: dict[str, Any], folder: Path) -> dict[str, Any]:
    for name in ("samples", "test"):
        row = {"instruction": "Name a river.", "output": "The Elbe."}
        (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return {"store": str(folder / "runs"), "train": {"input": str(folder / "samples.jsonl")}, "evaluate": evaluate}


def test_settings_of_another_version_are_one_line_that_names_them() -> None:
    older = {"model": "tiny", "zero": {"stage": 3, "offload_optimizer": True}}
    with pytest.raises(StoreError, match=r"train-x: its setting zero\.offload_optimizer is of another version"):
        _settings(Manifest("train-x", "model", "train", "f", {}, older, ()))
    assert _settings(Manifest("train-x", "model", "train", "f", {}, {"model": "tiny", "unknown": 1}, ())).epochs == 2


def test_suites_and_further_models_are_inputs_and_are_planned(tmp_path: Path) -> None:
    suites = {"facts": {"kind": "exact_match", "input": str(tmp_path / "test.jsonl"), "effect": 0.1}}
    given = recipe({"suites": suites, "against": ["train-0123456789ab", "builtin:smollm2-135m-instruct"]}, tmp_path)
    loaded, works = open_recipe(given)
    work, job = works["evaluate"], loaded.jobs["evaluate"]
    assert work.inputs["against.train-0123456789ab"] == "train-0123456789ab"
    assert work.inputs["suites.facts"].startswith("ingest-")
    notes = job.plan(Store(loaded.store), work).notes
    assert "suite facts: exact_match, 4 models" in notes
    assert notes[-1].startswith("suites: a difference of 0.1 takes about 228 items")
    lacking = check_inputs(loaded, Store(loaded.store), ["train", "evaluate"], works)
    assert [line.split(" is not")[0] for line in lacking] == [
        "evaluate: its against.train-0123456789ab train-0123456789ab"
    ]
    other = {"suites": {"facts": {**suites["facts"], "effect": 0.2}}}
    assert open_recipe(recipe(other, tmp_path))[1]["evaluate"].output != work.output


@pytest.mark.parametrize(
    ("evaluate", "expected"),
    [
        ({"suites": {"a/b": {"kind": "loss", "input": "x.jsonl"}}}, "'a/b' is no name of a suite"),
        ({"suites": {"held_out": {"kind": "loss", "input": "x.jsonl"}}}, "'held_out' is no name of a suite"),
        ({"suites": {"mine": {"kind": "lables", "input": "x.jsonl"}}}, "did you mean labels"),
        ({"suites": {"mine": {"kind": "loss"}}}, "evaluate.suites.mine.input: absent, must be given"),
        ({"suites": {"mine": {"kind": "loss", "input": "x.jsonl", "colour": 1}}}, "mine.colour: unknown key"),
        ({"suites": {"mine": {"kind": "labels", "input": "x.jsonl", "prompt": "Which?"}}}, "lacks {prompt}"),
        ({"against": ["builtin:nothing"]}, "against: builtin:nothing: no such builtin model"),
        ({"engine": {"model": "x"}}, "engine.model: is set, must not be"),
        ({"engine": {"endpoint": "http://x/v1"}}, "engine.endpoint: is set, must not be"),
    ],
)
def test_what_is_wrong_with_suites_is_said_before_anything_runs(
    evaluate: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(JobError) as refused:
        open_recipe(recipe(evaluate, tmp_path))
    assert expected in str(refused.value)


RHYMES = """
from gristmill.training.evaluate.scorers.contract import OWN, Judgement, Written


class Rhymes(Written):
    ending: str = "ay"
    "What a reply must end with."

    def score(self, item, replies, shared):
        said = replies[0].text.strip()
        return {OWN: Judgement(float(said.endswith(self.ending)), said), "characters": Judgement(float(len(said)))}
"""


def test_a_scorer_of_the_users_own_is_a_class_next_to_the_recipe(tmp_path: Path, store: Store) -> None:
    (tmp_path / "steps.py").write_text(RHYMES, encoding="utf-8")
    suites = {"verse": {"kind": f"{tmp_path}/steps.py:Rhymes", "input": str(tmp_path / "test.jsonl"), "ending": "be."}}
    loaded, _ = open_recipe(recipe({"suites": suites}, tmp_path))
    job = loaded.jobs["evaluate"]
    assert isinstance(job, Evaluate)
    scorer = job.suites["verse"]
    suite = freeze(store, "verse", scorer, ingest(store, scorer.input))
    said = {"b": "A lake.", "t": "The Elbe."}
    engines = Models(b=lambda _: says(said["b"]), t=lambda _: says(said["t"]))
    run = Run("test", store, Ledger(store, "runs/test"), Screen(quiet=True), None)
    Bench(run, "evaluate-1", {"base": "b", "tuned": "t"}, [suite]).run_models(engines.open, None)
    values = gathered_from(store, "evaluate-1", [suite])
    [found] = compare.compare([suite], ["base", "tuned"], values, {}, compare.Draws(99, 0))
    assert [model.value for model in found.models] == [0, 1]
    assert [model.measures for model in found.models] == [{"characters": 7}, {"characters": 9}]
    assert found.kind == "rhymes"
