"""What the command line says of sections, steps and settings, and the schema that editors read."""

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import gristmill
from gristmill.cluster.cli import completion, explain
from gristmill.cluster.cli.main import main
from gristmill.cluster.cli.schema import schema
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.jobs.job import JOBS
from gristmill.cluster.jobs.recipe import load, open_recipe
from gristmill.cluster.store.store import Store
from tests.test_examples import RECIPES

PATHS = list(completion.names())
STEPS = [
    f"{job}.{step}" for job, kind in explain.jobs().items() for some in explain.steps(kind).values() for step in some
]


def test_every_section_step_and_setting_is_explained() -> None:
    assert len(PATHS) > 500
    for path in PATHS:
        where, one = explain.find(path)
        assert where.summary, path
        if one is not None and one.name != "kind":
            assert one.meaning, f"{path} has no meaning"
            assert one.type and one.default, path
        assert all(len(line) <= explain.WIDTH + 40 for line in explain.lines(path)), path


@pytest.mark.parametrize("path", ["generate.filters.judge.prompts", "generate.evol_instruct.complicate_prompts"])
def test_templates_are_shown_as_toml_that_reads_as_the_default(path: str) -> None:
    where, one = explain.find(path)
    assert one is not None and {"en", "zh"} <= one.texts.keys()
    said = "\n".join(explain.lines(path))
    shown = said[said.index(f"{one.name}.en = ") : said.index("Source of")]
    assert tomllib.loads(shown)[one.name] == one.texts == getattr(explain.example_of(where.kind), one.name)


def test_a_setting_shows_type_bounds_default_meaning_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "generate.filters.judge.min_score"]) == 0
    said = capsys.readouterr().out
    for part in ("number", ">= 0, <= 5", "2.5", "smaller expected grade", "arXiv:2312.15685", 'kind = "judge"'):
        assert part in said
    assert main(["explain", "select.minhash"]) == 0
    assert "Broder 1997" in capsys.readouterr().out
    assert main(["explain"]) == 0
    said = capsys.readouterr().out
    assert all(f"[{name}]" in said for name in JOBS)
    assert all(step.split(".")[1] in said for step in STEPS)


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("selct", "select"),
        ("select.minhas", "minhash"),
        ("train.lora.rank", "r"),
        ("generate.judge.min_scor", "min_score"),
    ],
)
def test_a_wrong_path_names_what_there_is(path: str, nearest: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", path]) == 2
    said = capsys.readouterr().err
    assert nearest in said and "must be one of" in said and "Traceback" not in said


@pytest.mark.parametrize("path", [*STEPS, *JOBS])
def test_the_recipe_that_is_shown_can_be_planned(path: str, tmp_path: Path) -> None:
    where, _ = explain.find(path)
    recipe = explain.minimal(where)
    (tmp_path / "recipe.toml").write_text(recipe, encoding="utf-8")
    row = json.dumps({"instruction": "Name a river.", "output": "The Elbe.", "label": "positive"}) + "\n"
    for name in ("seeds", "samples", "labelled", "older", "exam", "targets", "private", "test", "texts"):
        (tmp_path / f"{name}.jsonl").write_text(row * 3)
    loaded = load(tmp_path / "recipe.toml", [f"store={tmp_path}/runs"], look=False)  # a package may be absent
    works = loaded.works()
    for name, job in loaded.jobs.items():
        assert job.plan(Store(loaded.store), works[name]).state == "to do"


def problems(recipe: dict[str, Any]) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(schema()).iter_errors(recipe)]


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_the_schema_allows_every_example(path: Path) -> None:
    assert problems(tomllib.loads(path.read_text(encoding="utf-8"))) == []


def test_the_schema_refuses_what_a_recipe_refuses_and_says_what_keys_mean() -> None:
    assert problems({"selct": {}})
    assert problems({"train": {"learning_rate": "fast"}})
    assert problems({"train": {"colour": 1}})
    assert problems({"generate": {"filters": [{"kind": "jugde"}]}})
    found = schema()
    train = found["$defs"][found["properties"]["train"]["$ref"].rpartition("/")[2]]
    assert "learning rate" in train["properties"]["learning_rate"]["description"]


def test_a_wrong_key_in_a_recipe_names_the_nearest(tmp_path: Path) -> None:
    recipe = tmp_path / "wrong.toml"
    recipe.write_text('[generate]\ntargt = 3\n[[generate.filters]]\nkind = "jugde"\n[selct]\n')
    with pytest.raises(JobError) as refused:
        open_recipe(recipe)
    said = str(refused.value)
    for name in ("target", "judge", "select"):
        assert f"did you mean {name}" in said, said


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"gristmill {gristmill.__version__}\n"
