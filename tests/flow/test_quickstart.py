"""The whole mill through the command line, with the real engines, at reduced size, its driver killed on the way."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.jobs.clean import unneeded
from gristmill.cluster.store.ledger import read_lines
from gristmill.cluster.store.store import Store
from tests.invariants import check_clean, check_dataset, samples_of
from tests.paths import ROOT

pytestmark = pytest.mark.flow


GRISTMILL = str(Path(sys.executable).parent / "gristmill")
SMALL = ["--set", "generate.target=12", "--set", "generate.shard_size=8", "--set", "generate.rounds=1"]
SMALL += ["--set", "select.steps.2.budget=10", "--set", "train.epochs=1"]
RECIPE = str(ROOT / "examples" / "quickstart.toml")


def gristmill(folder: Path, *arguments: str, expect: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | variables
    done = subprocess.run(
        [GRISTMILL, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == expect, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]], int]:
    """A folder in which the reduced quickstart was killed, with the rows and number of the shards that it had made."""
    folder = tmp_path_factory.mktemp("quickstart")
    store = Store(str(folder / "runs"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    command = [GRISTMILL, "run", RECIPE, *SMALL]
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL) as driver:
        deadline = time.monotonic() + 240
        while not (found := [n for n in store.names() if n.startswith("generate-")]) or not any(
            n.startswith(("shard-", "raw-")) and n.endswith(".json") for n in store.names(found[0])
        ):
            assert driver.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "no shard in four minutes"
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
    assert not store.complete(found[0])
    shards = {**store.committed(found[0]), **store.committed(found[0], "raw-")}
    rows = [
        {**row, "place": int(name.partition("-")[2])}
        for name, shard in shards.items()
        for row in store.read_shard(found[0], shard).to_pylist()
    ]
    return folder, {row["id"]: row for row in rows}, len(shards)


@pytest.fixture(scope="module")
def ground(killed: tuple[Path, dict[str, dict[str, Any]], int]) -> tuple[Path, str]:
    """A folder in which the reduced quickstart was killed and run again, and what it printed then."""
    assert "stopped" in gristmill(killed[0], "show").stdout
    return killed[0], gristmill(killed[0], "run", RECIPE, *SMALL).stderr


def outputs(folder: Path) -> dict[str, str]:
    (recipe,) = (folder / "runs" / "runs").glob("*/recipe.json")
    return {str(k): str(v) for k, v in json.loads(recipe.read_text())["outputs"].items()}


def test_the_quickstart_goes_through_and_says_what_came_out(ground: tuple[Path, str]) -> None:
    folder, said = ground
    for job in ("ingest", "generate", "select", "train", "evaluate", "report"):
        assert re.search(rf"^{job} +/", said, re.MULTILINE), f"{job} is not in the summary:\n{said}"
    assert "held-out loss" in said
    assert "Traceback" not in said
    page = next((folder / "runs" / "runs").glob("*/report.html")).read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.https?:", page), "the report is not self-contained"


def test_every_row_is_accounted_for(ground: tuple[Path, str]) -> None:
    folder, _ = ground
    store, made = Store(str(folder / "runs")), outputs(folder)
    seeds = check_dataset(store, made["ingest"])
    assert len([s for s in seeds if s.dropped is None]) >= 60, "the shipped seeds"
    generated = check_dataset(store, made["generate"], made["ingest"])
    assert sum(1 for s in generated if s.dropped is None) == 12
    assert all("judge" in s.scores for s in generated if s.dropped is None)
    selected = samples_of(store, made["select"])
    assert {s.id for s in selected} <= {s.id for s in generated if s.dropped is None}
    assert 0 < sum(1 for s in selected if s.dropped is None) <= 10
    assert store.manifest(made["train"]).kind == "model"
    folders = [name for name in store.names() if store.complete(name)]
    assert {store.manifest(name).job for name in folders} >= {"ingest", "generate", "embed", "select", "train"}
    for name in folders:
        check_clean(store, name)
    assert unneeded(store) == []


def test_the_killed_driver_lost_no_committed_shard(
    killed: tuple[Path, dict[str, dict[str, Any]], int], ground: tuple[Path, str]
) -> None:
    folder, before, shards = killed
    store = Store(str(folder / "runs"))
    rows = {row.id: row for row in samples_of(store, outputs(folder)["generate"])}
    assert before
    # shards are committed in any order; the target may be met before the dataset comes to one of a later place
    reached = len(store.manifest(outputs(folder)["generate"]).shards)
    for row_id, row in before.items():
        if row["place"] < reached:
            made = [(turn["role"], turn["content"]) for turn in row["messages"]]
            assert [turn[:2] for turn in rows[row_id].messages] == made
        else:
            assert row_id not in rows
    (run,) = store.names("runs")
    planned = [json.loads(line) for line in read_lines(store, f"runs/{run}") if '"shards_planned"' in line]
    assert len(planned) >= 2
    assert planned[1]["committed"] >= shards, "a committed shard was made again"


def test_a_second_time_nothing_is_made(ground: tuple[Path, str]) -> None:
    folder, _ = ground
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").glob("*-*/*") if path.is_file()}
    said = gristmill(folder, "run", RECIPE, *SMALL, RAY_ADDRESS="127.0.0.1:1").stderr  # there is no Ray to be joined
    assert said.count("nothing to do") == 4
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "runs").glob("*-*/*") if path.is_file()}


def test_show_head_and_plan_read_what_lies_there(ground: tuple[Path, str]) -> None:
    folder, _ = ground
    listing = json.loads(gristmill(folder, "show", "--json").stdout)
    (run,) = listing["runs"]
    assert run["state"] == "done"
    assert set(run["jobs"].values()) == {"done"}
    detail = json.loads(gristmill(folder, "show", run["run"][:14], "--json").stdout)
    assert detail["jobs"]["generate"]["figures"]["kept"] == 12
    assert "held-out loss" in gristmill(folder, "show", run["run"]).stdout
    assert "from samples: ingest-" in gristmill(folder, "show", "generate").stdout
    assert "[user]" in gristmill(folder, "head", "generate", "-n", "2").stdout
    assert "dropped  " in gristmill(folder, "head", "generate", "-n", "1", "--dropped").stdout
    plans = json.loads(gristmill(folder, "plan", RECIPE, *SMALL, "--json").stdout)["jobs"]
    assert [p["state"] for p in plans] == ["done"] * 4


@pytest.mark.parametrize("form", ["jsonl", "parquet", "sharegpt", "alpaca"])
def test_each_export_holds_the_kept_rows(ground: tuple[Path, str], tmp_path: Path, form: str) -> None:
    folder, _ = ground
    target = tmp_path / ("out.parquet" if form == "parquet" else "out.jsonl")
    said = gristmill(folder, "export", "generate", str(target), "--form", form).stdout
    assert said.startswith("12 rows of generate-")


def test_a_flipped_byte_is_named_with_what_to_do(ground: tuple[Path, str]) -> None:
    folder, _ = ground
    shard = folder / "runs" / outputs(folder)["generate"] / "shard-00000.arrow"
    sound = shard.read_bytes()
    try:
        shard.write_bytes(sound[:200] + bytes([sound[200] ^ 1]) + sound[201:])
        said = gristmill(folder, "head", "generate", expect=1).stderr
    finally:
        shard.write_bytes(sound)
    assert "shard-00000.arrow: content does not match its digest" in said
    assert "move the folder" in said
    assert "Traceback" not in said


def test_a_wrong_recipe_lists_every_error_and_starts_nothing(tmp_path: Path) -> None:
    recipe = tmp_path / "wrong.toml"
    recipe.write_text('[generate]\ninput = "absent.jsonl"\ntarget = 0\ncolour = 1\n[selct]\n[train]\nepochs = "x"\n')
    said = gristmill(tmp_path, "run", str(recipe), expect=2).stderr
    for part in ("generate.target", "generate.colour: unknown key", "selct: unknown section", "train.epochs"):
        assert part in said, said
    assert not (tmp_path / "runs").exists()


def submitted(arguments: Sequence[str]) -> str:
    """A driver that holds a cluster and submits `gristmill` to it as `ray job submit` does; prints the job's logs.

    The cluster is Ray's own: a local session of ours listens on the loopback address, and takes no jobs.
    """
    return f"""
import tempfile
import time
import ray
with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home, ray.init(
    address="local", num_cpus=2, num_gpus=0, include_dashboard=True, _temp_dir=home
):
    from ray.job_submission import JobSubmissionClient, JobStatus
    client = JobSubmissionClient("http://" + ray._private.worker._global_node.webui_url)
    for attempt in range(30):  # the job agent comes up later than the dashboard
        try:
            job = client.submit_job(entrypoint={" ".join(arguments)!r}, submission_id="gristmill-test")
            break
        except RuntimeError as error:
            if "agent" not in str(error):
                raise
            time.sleep(2)
    while client.get_job_status(job) not in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED):
        time.sleep(1)
    print(client.get_job_status(job), client.get_job_logs(job))
"""


@pytest.mark.long
def test_a_job_runs_on_the_cluster_that_it_was_submitted_to(tmp_path: Path) -> None:
    recipe = tmp_path / "select.toml"
    own = "import numpy as np\nfrom gristmill.selection.contracts import Choice, Selector\n\n\nclass Most(Selector):\n"
    own += (
        "    def pick(self, view, rng):\n        return Choice.of(np.arange(len(view)) > 2, 'most: one of the first')\n"
    )
    (tmp_path / "steps.py").write_text(own)
    steps = 'steps = [{kind = "exact"}, {kind = "semantic"}, {kind = "steps.py:Most"}]'
    recipe.write_text(f'store = "{tmp_path}/runs"\n[select]\ninput = "{ROOT}/examples/seeds.jsonl"\n{steps}\n')
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", submitted([GRISTMILL, "run", str(recipe)])],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert "SUCCEEDED" in done.stdout, done.stdout + done.stderr
    store = Store(str(tmp_path / "runs"))
    (name,) = [m.name for m in store.entries()[0] if m.job == "select"]
    assert store.manifest(name).rows >= 60
    assert [step["kind"] for step in store.figures(name)["steps"]] == ["exact", "semantic", "most"]
