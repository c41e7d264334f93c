"""`gristmill submit` to a cluster that asks for a token: the run there, its output, its exit code, and its dataset.

It comes before the tests that share a session of Ray: that session would take the port of this cluster's job agent.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gristmill.cluster.store.store import Store

pytestmark = pytest.mark.flow
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-of-this-test-0123456789abcdef"}
MAIN = "import sys; from gristmill.cluster.cli.main import main; sys.exit(main())"
CLUSTER = """
import sys, tempfile, ray
with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home, ray.init(
    address="local", num_cpus=2, num_gpus=0, include_dashboard=True, _temp_dir=home
):
    print("http://" + ray._private.worker._global_node.webui_url, flush=True)
    sys.stdin.read()
"""


def environment(**further: str) -> dict[str, str]:
    """This process's variables without those of Ray, and with the programs of this Python first on the path."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), own.get("PATH", "")])
    return own | {"PATH": path} | further


@contextmanager
def cluster() -> Iterator[str]:
    """A cluster of one machine whose dashboard takes jobs, and the dashboard's address."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=pipe, stdout=pipe, text=True, env=environment(**TOKEN)
    ) as holder:
        assert holder.stdout and holder.stdin
        try:
            yield holder.stdout.readline().strip()
        finally:
            holder.stdin.close()
            holder.wait(60)


def submit(recipe: Path, url: str, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", MAIN, "submit", str(recipe), "--address", url, "--follow", *flags]
    return subprocess.run(words, env=environment(**variables), capture_output=True, text=True, check=False, timeout=200)


def test_a_recipe_runs_on_a_cluster_with_a_token_and_its_exit_code_comes_back(tmp_path: Path) -> None:
    home, store = tmp_path / "home", tmp_path / "runs"
    home.mkdir()
    (home / "rows.jsonl").write_text('{"text": "a river", "label": "x"}\n{"text": "a river", "label": "x"}\n')
    recipe = home / "mill.toml"
    recipe.write_text(f'store = "{store}"\n[select]\ninput = "rows.jsonl"\nsteps = [{{kind = "exact"}}]\n')
    with cluster() as url:
        without = submit(recipe, url)
        assert without.returncode == 2
        assert f"--address: {url} asks for a token; set RAY_AUTH_MODE to token" in without.stderr
        assert len(without.stderr.strip().splitlines()) == 1, without.stderr
        done = submit(recipe, url, **TOKEN)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "has mill.toml, rows.jsonl, and writes to" in done.stdout
        assert "select: 1/1, exact: 1 left" in done.stdout, "what the run prints"
        (dataset,) = [manifest.name for manifest in Store(str(store)).entries()[0] if manifest.job == "select"]
        assert Store(str(store)).manifest(dataset).kept == 1
        wrong = submit(recipe, url, "--set", "select.encoder.model=builtin:none", "--set",
                       'select.steps=[{kind = "semantic"}]', **TOKEN)  # fmt: skip
        assert wrong.returncode == 2, wrong.stdout + wrong.stderr
        assert "builtin:none: no such builtin model" in wrong.stdout, "the cluster looks for models, not the laptop"
        words = [sys.executable, "-c", MAIN, "submit", str(recipe), "--address", url, "--follow"]
        pipe = subprocess.PIPE
        with subprocess.Popen(words, env=environment(**TOKEN), stdout=pipe, stderr=pipe, text=True) as started:
            assert started.stdout and "has mill.toml" in started.stdout.readline()
            started.send_signal(signal.SIGINT)
            said = started.communicate(timeout=60)[0]
        assert started.returncode == 75 and "goes on; `ray job logs" in said, said
