"""What a shell offers after the script of `gristmill completion`: the real shells, as far as they are installed."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.cli import completion
from gristmill.cluster.cli.main import SHELLS, main
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.jobs.job import JOBS
from gristmill.cluster.jobs.recipe import load

VERBS = {
    "run",
    *JOBS,
    "plan",
    "submit",
    "preview",
    "explain",
    "schema",
    "completion",
    "show",
    "head",
    "export",
    "serve",
}
VERBS |= {"report", "ui", "clean", "lineage", "refresh", "rollback", "forget"}
CASES = [
    ([""], VERBS),
    (["pl"], {"plan"}),
    (["run", "--"], {"--help", "--set", "--quiet"}),
    (["run", "re"], {"recipe.toml"}),
    (["plan", "rec"], {"recipe.toml"}),
    (["explain", "sel"], {"select"}),
    (["explain", "select.m"], {"select.minhash"}),
    (["explain", "generate.filters.judge.min_s"], {"generate.filters.judge.min_score"}),
    (["run", "recipe.toml", "--set", "train.tuning.a"], {"train.tuning.alpha="}),
    (["run", "recipe.toml", "--set", "generate.target=1", "--set", "sto"], {"store="}),
    (["export", "run", "out", "--form", "sh"], {"sharegpt"}),
    (["completion", "z"], {"zsh"}),
]
ASK = """
source {script}
COMP_WORDS=(gristmill "$@")
COMP_CWORD=$#
$(complete -p gristmill | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with a recipe, another file, and the script of every shell."""
    for name in ("recipe.toml", "readings.csv"):
        (tmp_path / name).write_text("")
    for shell in SHELLS:
        assert main(["completion", shell]) == 0
        (tmp_path / f"script.{shell}").write_text(capsys.readouterr().out)
    return tmp_path


def test_bash_completes_verbs_options_recipes_names_and_keys(folder: Path) -> None:
    ask = ASK.format(script=folder / "script.bash")
    for words, offered in CASES:
        done = subprocess.run(
            ["bash", "-c", ask, "bash", *words], cwd=folder, capture_output=True, text=True, check=True
        )
        assert set(done.stdout.split()) == offered, f"{words}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_script_has_no_errors_of_syntax(shell: str, folder: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n", folder / f"script.{shell}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_fish_completes_the_same(folder: Path) -> None:
    if not shutil.which("fish"):
        pytest.skip("fish is not installed")
    for words, offered in CASES:
        if "--set" not in words and "re" not in words and "rec" not in words:
            ask = f"source {folder}/script.fish; complete -C 'gristmill {' '.join(words)}'"
            done = subprocess.run(["fish", "-c", ask], cwd=folder, capture_output=True, text=True, check=True)
            assert {line.split("\t")[0] for line in done.stdout.splitlines()} >= offered, words


def problem(key: str) -> str:
    sections: dict[str, Any] = {name: {} for name in JOBS}
    try:
        load(sections, [f'{key}"?"'])
    except JobError as error:
        return str(error)
    return ""


def test_every_key_that_is_offered_is_one() -> None:
    assert "unknown" in problem("train.colour=")
    for key in completion.settable():
        assert "unknown" not in problem(key), key
