"""Exit codes: 0 done, 1 failed, 2 recipe or arguments, 75 try again; and each error is lines without a traceback."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gristmill.cluster.cli.main import main
from gristmill.cluster.contract.errors import BusyError
from gristmill.cluster.jobs.recipe import open_recipe
from gristmill.cluster.jobs.run import _recorded
from gristmill.cluster.store.ledger import lock, read_lines, state
from gristmill.cluster.store.store import Store
from tests.cluster.store.test_store import fill
from tests.generation.ground import a_run

RECIPE = 'name = "code"\nstore = "{store}"\n[select]\ninput = "seeds.jsonl"\nsteps = [{{kind = "exact"}}]\n'


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "seeds.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(store=tmp_path / "store"))
    return path


def test_the_codes_of_the_verbs(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(str(recipe.parent / "store"))
    assert main(["plan", str(recipe)]) == 0
    assert main(["show", "--store", str(recipe.parent / "absent")]) == 2
    fill(store)
    (store.folder("made-1") / "shard-00001.arrow").write_bytes(b"")
    assert main(["head", "made-1", "--store", store.uri, "-n", "50"]) == 1
    capsys.readouterr()
    recipe.write_text("[select")
    assert main(["run", str(recipe)]) == 2
    assert re.fullmatch(r"gristmill: \S+recipe.toml: not TOML: [^\n]+\n", capsys.readouterr().err)


def test_a_run_that_another_process_executes_is_tried_again_later(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened, works = open_recipe(recipe)
    with lock(Store(opened.store), f"runs/{opened.run_id(works)}"):
        assert main(["run", str(recipe)]) == 75
    assert "another process is executing this run" in capsys.readouterr().err


def test_a_run_that_finds_no_room_is_stopped_and_has_not_failed(store: Store) -> None:
    run = a_run(store)
    with pytest.raises(BusyError), _recorded(run, ["generate"]):
        raise BusyError("generate.engine: needs 2 cores, which are in use; run again")
    with lock(store, "run-1"):
        assert state(store, "run-1").state == "stopped"
    assert json.loads(run.ledger.lines[-1])["event"] == "run_stopped"


HANGS = """
import signal, sys, time
from gristmill.cluster.jobs.run import _record_late, _recorded
from gristmill.cluster.runtime.interrupt import interruptible, leave_within
from gristmill.cluster.store.store import Store
from functools import partial
from tests.generation.ground import a_run
run = a_run(Store(sys.argv[1]))
with interruptible(), _recorded(run, ["generate"]), leave_within(0.3, partial(_record_late, run)):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        time.sleep(60)  # a shutdown that hangs
"""


def test_a_shutdown_that_hangs_ends_in_time_with_its_record(store: Store) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", HANGS, store.uri], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout is not None and program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGTERM)
    _, said = program.communicate(timeout=20)
    assert program.returncode == 75
    late = "interrupted by SIGTERM, ended without a shutdown in order"
    assert said == f"gristmill: {late}; the same command continues after what is committed\n"
    last = json.loads(read_lines(store, "run-1")[-1])
    assert (last["event"], last["error"]) == ("run_stopped", late)


def test_a_store_that_may_not_be_written_is_a_line(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recipe.parent / "store").mkdir()
    (recipe.parent / "store" / "runs").write_text("a file where a folder must be")
    assert main(["run", str(recipe)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("gristmill: ") and said.count("\n") == 1, said


def test_a_store_in_the_copy_of_a_submitted_folder_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0a1b2c3d"
    copy.mkdir(parents=True)
    (copy / "seeds.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    (copy / "recipe.toml").write_text(RECIPE.format(store="runs"))
    monkeypatch.chdir(copy)
    assert main(["run", "recipe.toml"]) == 2
    said = capsys.readouterr().err
    assert "store: runs is in the copy _ray_pkg_0a1b2c3d of the submitted folder" in said and said.count("\n") == 1
    assert sorted(os.listdir(copy)) == ["recipe.toml", "seeds.jsonl"]  # noqa: PTH208 - names
    for store in (str(tmp_path / "shared"), "s3://bucket/runs"):
        assert open_recipe("recipe.toml", [f"store={store}"])[0].store == store


def test_the_page_of_the_command_line_has_the_codes() -> None:
    page = (Path(__file__).parents[3] / "docs" / "command-line.md").read_text()
    assert re.findall(r"(?m)^\| (\d+) \|", page) == ["0", "1", "2", "75"]
