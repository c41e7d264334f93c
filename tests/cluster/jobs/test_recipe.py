"""Recipes: every error at once, in words that say what to do; overrides; identity of what is asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.jobs.recipe import Recipe, load
from tests.paths import EXAMPLES

SEEDS = '{"messages": [{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": "Hello."}]}\n'
SELECT = '[select]\ninput = "seeds.jsonl"\n'


def written(folder: Path, text: str, *overrides: str) -> Recipe:
    (folder / "seeds.jsonl").write_text(SEEDS)
    path = folder / "mill.toml"
    path.write_text(text)
    return load(path, overrides)


def refused(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(JobError) as caught:
        written(folder, text, *overrides)
    return str(caught.value)


def test_the_name_is_that_of_the_file_and_the_store_lies_where_one_stands(tmp_path: Path) -> None:
    recipe = written(tmp_path, SELECT)
    assert (recipe.name, recipe.store, list(recipe.jobs)) == ("mill", "runs", ["select"])
    assert written(tmp_path, 'name = "x"\nstore = "s3://b/c"\n' + SELECT).name == "x"


def test_input_paths_are_looked_up_beside_the_recipe(tmp_path: Path) -> None:
    source = written(tmp_path, SELECT).jobs["select"].input
    assert source is not None
    assert source.path == (str(tmp_path / "seeds.jsonl"),)


def test_every_error_is_listed_at_once(tmp_path: Path) -> None:
    said = refused(
        tmp_path,
        'colour = 1\n[generate]\ntarget = 0\nsead = 3\n[select]\nshard_rows = "many"\n[train]\nlearning_rate = -1\n',
    )
    for part in ("colour: unknown section, must be one of", "generate.target: 0,", "generate.sead: unknown key",
                 "select.shard_rows: 'many'", "train.learning_rate: -1,"):  # fmt: skip
        assert part in said
    assert all(line.startswith(str(tmp_path / "mill.toml") + ": ") for line in said.splitlines())


def test_what_a_value_must_be_is_said_in_the_words_of_toml(tmp_path: Path) -> None:
    said = refused(tmp_path, 'name = 3\n[train]\ninput = "a.jsonl"\ntest = "b.jsonl"\nzero = 1\n')
    assert "train.test: 'b.jsonl', must be a list" in said
    assert "train.zero: 1, must be a table" in said
    assert "name: 3, must be a string" in said
    assert "tuple" not in said and "dictionary" not in said


def test_an_unknown_key_is_told_the_legal_ones(tmp_path: Path) -> None:
    said = refused(tmp_path, SELECT + "[[select.steps]]\nkind = 'semantic'\nthreshhold = 0.9\n")
    assert "select.steps[0].threshhold: unknown key, must be one of kind, " in said
    assert said.count("\n") == 0


def test_an_unknown_kind_is_told_the_legal_ones(tmp_path: Path) -> None:
    said = refused(tmp_path, SELECT + "[[select.steps]]\nkind = 'magic'\n")
    assert "magic, must be one of" in said
    assert "diversity" in said


def test_a_job_without_anything_to_work_on_is_refused(tmp_path: Path) -> None:
    assert "select.input: absent" in refused(tmp_path, "[select]\n")
    nothing = refused(tmp_path, "[generate]\n")
    assert nothing.endswith("generate.methods[0]: self_instruct has nothing to draw from, must have generate.input")
    assert "evaluate: no [train] section" in refused(tmp_path, SELECT + "[evaluate]\n")
    assert "no job" in refused(tmp_path, 'name = "empty"\n')


def test_one_mistake_is_one_line_in_the_words_of_the_recipe(tmp_path: Path) -> None:
    train = SELECT + "[train]\n"
    none = refused(tmp_path, train + '[train.tuning]\nkind = "lora"\nr = 0\n')
    assert none.endswith("train.tuning.r: 0, must be greater than 0")
    assert refused(tmp_path, train + 'tuning = "all"\n').count("train.tuning") >= 1
    known = refused(tmp_path, train + '[train.tuning]\nkind = "lore"\n').partition("train.tuning.kind: ")[2]
    assert known == "lore, must be one of lora, qlora, full, freeze; did you mean lora or qlora?"
    assert refused(tmp_path, "generate = 3\n").splitlines()[0].endswith("generate: 3, must be a table")
    twice = '[generate]\ninput = "seeds.jsonl"\nfilters = [{kind = "length"}, {kind = "length"}]\n'
    assert refused(tmp_path, twice).partition("mill.toml: ")[2].startswith("generate: filters: length appears twice")


def test_broken_files_are_named(tmp_path: Path) -> None:
    assert "not TOML" in refused(tmp_path, "[select\n")
    with pytest.raises(JobError, match="absent"):
        load(tmp_path / "no.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(JobError, match="UTF-8"):
        load(tmp_path / "binary.toml")


def test_an_override_replaces_one_setting(tmp_path: Path) -> None:
    assert written(tmp_path, SELECT, "select.shard_rows=7").jobs["select"].model_dump()["shard_rows"] == 7
    steps = SELECT + "[[select.steps]]\nkind = 'random'\nbudget = 3\n"
    assert written(tmp_path, steps, "select.steps.0.budget=9").jobs["select"].model_dump()["steps"][0]["budget"] == 9
    assert written(tmp_path, SELECT, "name=word").name == "word"
    assert "must read section.key=value" in refused(tmp_path, SELECT, "nonsense")
    assert "not a place in a list" in refused(tmp_path, steps, "select.steps.4.budget=9")


def test_the_same_recipe_is_the_same_run_and_a_changed_setting_another(tmp_path: Path) -> None:
    def run_id(*overrides: str) -> str:
        recipe = written(tmp_path, SELECT, *overrides)
        return recipe.run_id(recipe.works())

    assert run_id() == run_id()
    assert run_id("select.seed=5") != run_id()
    first = run_id()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "seeds.jsonl").write_text(SEEDS)
    assert run_id('select.input="other/seeds.jsonl"') == first, "where the data lies is not what it is"


def test_a_resolved_recipe_can_itself_be_run(tmp_path: Path) -> None:
    recipe = written(tmp_path, SELECT)
    works = recipe.works()
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe.resolve(works)))
    again = load(path)
    assert again.works() == works
    assert again.run_id(again.works()) == recipe.run_id(works)


def test_the_command_line_plans_the_shipped_recipe(tmp_path: Path) -> None:
    path = EXAMPLES / "quickstart.toml"
    command = [str(Path(sys.executable).parent / "gristmill"), "plan", str(path), "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["jobs"]


def test_help_answers_without_loading_anything_heavy() -> None:
    heavy = ("ray", "pyarrow", "pydantic", "numpy")
    code = f"from gristmill.cluster.cli.main import parser; parser(); print([m for m in {heavy} if m in sys.modules])"
    code = f"import sys; {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "name", ["../../outside/x", "/x", "a/b", "a\\\\b", ".hidden", "", " ", "a\\nb", "x" * 101, "c:"]
)
def test_a_name_that_is_no_plain_word_is_refused(name: str, tmp_path: Path) -> None:
    assert "must be a plain word" in refused(tmp_path, f'name = "{name}"\n' + SELECT)


@pytest.mark.parametrize("name", ["x", "我的 数据", "my.recipe-2 (new)", "x" * 100])
def test_a_name_may_be_of_any_script(name: str, tmp_path: Path) -> None:
    assert written(tmp_path, f'name = "{name}"\n' + SELECT).name == name
