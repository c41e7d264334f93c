"""The package as it is installed: one name, `gristmill`, that stands beside whatever a user's own folder holds."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.paths import ROOT

PARTS = ("cluster", "generation", "selection", "training")
GRISTMILL = str(Path(sys.executable).parent / "gristmill")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's folder, whose modules have the names of our folders."""
    for name in ("training.py", "cluster.py", "selection.py"):
        (tmp_path / name).write_text("mine = True\n")
    for name in ("training", "generation"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("mine = True\n")
    (tmp_path / "seeds.jsonl").write_text('{"instruction": "Name a river.", "output": "The Elbe."}\n' * 3)
    (tmp_path / "recipe.toml").write_text(
        '[generate]\ninput = "seeds.jsonl"\ntarget = 4\n[select]\n[train]\n[evaluate]\n'
    )
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    """What `ray job submit --working-dir` gives a job: the uploaded folder comes first among the places of modules."""
    return {**{k: v for k, v in os.environ.items() if not k.startswith("RAY_")}, "PYTHONPATH": str(folder)}


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_package_is_named_in_the_project_file() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    there = {".".join(("gristmill", *path.relative_to(ROOT).parent.parts))
             for part in PARTS for path in (ROOT / part).rglob("*.py")}  # fmt: skip
    assert set(setuptools["packages"]) == there | {"gristmill"}


def test_the_wheel_claims_one_name(tmp_path: Path) -> None:
    source = tmp_path / "source"  # setuptools leaves a folder `build` in the tree, and takes up what is in it
    for part in (*PARTS, "gristmill"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", str(source)]
    done = subprocess.run([*command, "-w", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"gristmill"}
    code = {f"gristmill/{path.relative_to(ROOT)}" for part in PARTS for path in (ROOT / part).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == code | {"gristmill/__init__.py"}
    assert "gristmill/py.typed" in names
    assert {f"gristmill/{path.relative_to(ROOT)}" for path in (ROOT / "cluster/ui/page").iterdir()} <= {*names}


def test_a_bare_checkout_can_be_imported(tmp_path: Path) -> None:
    code = "import gristmill.training.job as job, sys; print(job.__file__)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == str(ROOT / "training/job.py"), done.stderr


def test_the_command_line_works_beside_modules_of_these_names(own: Path) -> None:
    jobs = json.loads(run(own, GRISTMILL, "plan", "recipe.toml", "--json"))["jobs"]
    assert [job["job"] for job in jobs] == ["generate", "select", "train", "evaluate"]
    assert (
        run(own, sys.executable, "-c", "import training, cluster; print(training.mine, cluster.mine)") == "True True\n"
    )


TASK = """
import ray
from gristmill.cluster.runtime.session import session
def places():
    import gristmill.training.job, gristmill.generation.job, training, cluster
    return gristmill.training.job.__name__, training.mine, cluster.mine
with session(None, 1, 0):
    print(ray.get(ray.remote(places).remote()))
"""


@pytest.mark.ray
def test_a_task_of_ray_sees_both_ours_and_the_users(own: Path) -> None:
    assert run(own, sys.executable, "-c", TASK).strip() == "('gristmill.training.job', True, True)"
