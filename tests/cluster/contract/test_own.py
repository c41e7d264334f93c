"""Steps of the user's own: a class in a file beside the recipe, as method, filter and selector."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import gristmill
from gristmill.cluster.cli.schema import schema
from gristmill.cluster.contract.errors import JobError, RunError
from gristmill.cluster.contract.own import Own
from gristmill.cluster.jobs.recipe import open_recipe
from gristmill.cluster.store.store import Store
from gristmill.generation.job import Generate
from tests.generation.ground import WORK, ground, job, with_seeds
from tests.invariants import samples_of

STEPS = '''
from random import Random
from typing import Literal
import numpy as np
from gristmill.cluster.contract.sample import Message
from gristmill.generation.contracts import Draft, Filter, Method, Verdict
from gristmill.selection.contracts import Choice, Selector


class FollowUp(Method):
    """Ask for the next question."""

    kind: Literal["follow_up"] = "follow_up"
    max_tokens: int = 9
    """Longest question."""

    async def expand(self, parents, ask, rng):
        reply = await ask((*parents[0].messages, Message("user", "Go on.")), max_tokens=self.max_tokens)
        return [Draft(messages=(*parents[0].messages, Message("user", reply.text.strip() or "Why?")))]


class NoSea(Filter):
    """Drop what names the sea."""

    kind: Literal["no_sea"] = "no_sea"
    word: str = "sea"

    async def judge(self, sample, ask):
        return Verdict(dropped="no_sea: names it" if self.word in sample.instruction else None)


class Breaks(Filter):
    """Fail on every row."""

    kind: Literal["breaks"] = "breaks"

    async def judge(self, sample, ask):
        return Verdict(scores={"x": 1 / 0})  # line 40


class Half(Selector):
    """Keep every second row."""

    def pick(self, view, rng: Random):
        kept = np.arange(len(view)) % 2 == 0
        return Choice.of(kept, "half: every second one")


class Stranger:
    pass


class Empty(Method):
    """Makes nothing."""

    kind: Literal["empty"] = "empty"
'''
BROKEN_LINE = STEPS.splitlines().index('        return Verdict(scores={"x": 1 / 0})  # line 40') + 1


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    path = tmp_path / "steps.py"
    path.write_text(STEPS)
    return path


def generated(store: Store, steps: Path, **settings: Any) -> tuple[Any, list[Any]]:
    method = {"kind": f"{steps}:FollowUp", "max_tokens": 5}
    figures = ground(with_seeds(store), job(**{"methods": [method], "filters": [], "target": 6, **settings}))
    return figures, samples_of(store, WORK.output)


def test_a_method_and_a_filter_of_ones_own_make_and_judge_rows(store: Store, steps: Path) -> None:
    figures, rows = generated(store, steps, filters=[{"kind": f"{steps}:NoSea"}], max_drafts=60)
    assert figures.kept == 6
    assert {row.method for row in rows} == {"follow_up"}
    assert all("sea" not in row.instruction for row in rows if row.dropped is None)


def test_an_error_names_the_file_and_the_line(store: Store, steps: Path) -> None:
    with pytest.raises(RunError, match="breaks: failed: ZeroDivisionError at"):
        generated(store, steps, filters=[{"kind": f"{steps}:Breaks"}], max_drafts=20)
    reasons = {row.dropped for row in samples_of_shards(store)}
    assert f"breaks: failed: ZeroDivisionError at {steps}:{BROKEN_LINE}" in reasons


def samples_of_shards(store: Store) -> list[Any]:
    from gristmill.cluster.contract.sample import from_table

    entries = store.committed(WORK.output).values()
    return [row for entry in entries for row in from_table(store.read_shard(WORK.output, entry))]


def test_a_selector_of_ones_own_chooses_from_any_table(steps: Path) -> None:
    rows = [{"instruction": f"Count to {n}.", "output": "1"} for n in range(10)]
    chosen = gristmill.select(rows, {"kind": f"{steps}:Half"})
    assert len(chosen) == 5
    assert set(chosen.dropped["reason"].to_pylist()) == {"half: every second one"}
    assert [step.kind for step in chosen.figures.steps] == ["half"]


def settings(steps: Path, **more: Any) -> Generate:
    return Generate.model_validate(
        {"input": "seeds.jsonl", "methods": [{"kind": f"{steps.name}:FollowUp", **more}]},
        context={"base": steps.parent},
    )


def test_the_text_of_the_file_is_part_of_the_fingerprint_and_its_place_is_not(steps: Path, tmp_path: Path) -> None:
    first = settings(steps).fingerprint()
    (tmp_path / "other").mkdir()
    copy = tmp_path / "other" / "renamed.py"
    copy.write_text(STEPS)
    assert settings(copy).fingerprint() == first
    copy.write_text(STEPS + "\n# changed\n")
    assert settings(copy).fingerprint() != first
    assert settings(steps, max_tokens=5).fingerprint() != first


def test_a_step_travels_to_a_process_that_has_no_such_file(steps: Path, tmp_path: Path) -> None:
    step = settings(steps, max_tokens=5).methods[0]
    assert isinstance(step, Own)
    data = tmp_path / "step.pickle"
    data.write_bytes(pickle.dumps(step))
    steps.unlink()
    code = f"import pickle; s = pickle.load(open({str(data)!r}, 'rb')); print(s.fingerprint(), s.max_tokens)"
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.split() == [step.fingerprint(), "5"]


def test_a_run_can_be_run_again_from_its_own_recipe(steps: Path, tmp_path: Path) -> None:
    (tmp_path / "seeds.jsonl").write_text('{"instruction": "Name a river.", "output": "The Elbe."}\n')
    (tmp_path / "recipe.toml").write_text(
        '[generate]\ninput = "seeds.jsonl"\n[[generate.methods]]\nkind = "steps.py:FollowUp"\n'
    )
    recipe, works = open_recipe(tmp_path / "recipe.toml", [f"store={tmp_path}/runs"])
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "recipe.json").write_text(json.dumps(recipe.resolve(works)))
    _, again = open_recipe(tmp_path / "deep" / "recipe.json")
    assert again["generate"].fingerprint == works["generate"].fingerprint


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("steps.py:Nope", r"steps\.py: Nope is no step, .*; classes: FollowUp, NoSea, Breaks, Half, Stranger, Empty"),
        ("steps.py:Stranger", "Stranger is no step"),
        ("steps.py:Empty", r"steps\.py: Empty has no expand, must have it to be a step"),
        ("steps.py:NoSea", "NoSea is of another kind, must be a Method"),
        ("absent.py:FollowUp", r"absent\.py: cannot be read"),
        ("broken.py:FollowUp", r"broken\.py:2: AttributeError"),
        ("syntax.py:FollowUp", r"syntax\.py:1: SyntaxError"),
    ],
)
def test_what_is_wrong_is_an_error_of_the_recipe(kind: str, problem: str, steps: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\nx.y\n")
    (tmp_path / "syntax.py").write_text("def (:\n")
    (tmp_path / "seeds.jsonl").write_text('{"instruction": "Name a river.", "output": "The Elbe."}\n')
    (tmp_path / "recipe.toml").write_text(f'[generate]\ninput = "seeds.jsonl"\n[[generate.methods]]\nkind = "{kind}"\n')
    with pytest.raises(JobError, match=problem):
        open_recipe(tmp_path / "recipe.toml")


def test_settings_of_ones_own_step_are_checked_like_all_others(steps: Path, tmp_path: Path) -> None:
    (tmp_path / "seeds.jsonl").write_text('{"instruction": "Name a river.", "output": "The Elbe."}\n')
    table = '[generate]\ninput = "seeds.jsonl"\n[[generate.methods]]\nkind = "steps.py:FollowUp"\n'
    for line, problem in (("max_token = 3", "max_token"), ('max_tokens = "many"', "max_tokens")):
        (tmp_path / "recipe.toml").write_text(table + line + "\n")
        with pytest.raises(JobError, match=rf"generate\.methods\[0\].*{problem}"):
            open_recipe(tmp_path / "recipe.toml")


def test_the_schema_allows_a_step_of_ones_own() -> None:
    validator = jsonschema.Draft202012Validator(schema())
    own: dict[str, Any] = {"generate": {"methods": [{"kind": "steps.py:FollowUp", "max_tokens": 3}]}}
    assert not list(validator.iter_errors(own))
    assert list(validator.iter_errors({"generate": {"methods": [{"kind": "folow_up"}]}}))


@pytest.mark.ray
def test_workers_of_ray_make_rows_with_it(ray_session: None, steps: Path, tmp_path: Path) -> None:
    from gristmill.cluster.jobs.job import Run
    from gristmill.cluster.models.engine import Engine
    from tests.fakes import ScriptedEngine, open_hashing_encoder
    from tests.generation.ground import a_run

    store = with_seeds(Store(str(tmp_path / "store")))
    method = {"kind": f"{steps}:FollowUp"}
    generate = job(target=6, engine=Engine(cpus=1), methods=[method], filters=[{"kind": f"{steps}:NoSea"}])
    steps.unlink()  # the workers get its text
    run = a_run(store)
    run = Run(run.id, store, run.ledger, run.screen, str(tmp_path / "logs"))
    figures = generate.make_on(run, WORK, ScriptedEngine, open_hashing_encoder)
    assert figures.kept == 6
    assert {row.method for row in samples_of(store, WORK.output)} == {"follow_up"}
