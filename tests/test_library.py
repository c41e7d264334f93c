"""`import gristmill`: what a caller gets, on tables of several libraries and on a store."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import gristmill
from gristmill.cluster.contract.errors import JobError
from gristmill.selection.figures import SelectFigures
from gristmill.selection.selectors.exact import Exact
from gristmill.selection.selectors.minhash import MinHash
from tests.paths import ROOT

ROWS = [
    {"instruction": "Name three rivers.", "output": "The Rhine, the Elbe and the Danube."},
    {"instruction": "name three rivers", "output": "the rhine, the elbe and the danube"},
    {"instruction": "Write a poem about the sea at night, in many lines.", "output": "The sea is dark."},
    {"instruction": "写一首关于春天的诗", "output": "春风又绿江南岸"},
]


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    heavy = ("ray", "torch", "vllm", "transformers", "pyarrow", "pydantic", "numpy")
    code = f"import sys, gristmill; dir(gristmill); print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="colour"):
        gristmill.colour  # noqa: B018
    assert set(gristmill.__all__) == set(dir(gristmill))


def as_pandas(rows: list[dict[str, str]]) -> Any:
    return pa.Table.from_pylist(rows).to_pandas()


def as_datasets(rows: list[dict[str, str]]) -> Any:
    import datasets

    return datasets.Dataset.from_list(rows)


@pytest.mark.parametrize("form", [list, iter, pa.Table.from_pylist, as_pandas, as_datasets])
def test_any_table_goes_through_any_steps(form: Any) -> None:
    chosen = gristmill.select(form(ROWS), "exact", {"kind": "minhash", "threshold": 0.7})
    assert len(chosen) == chosen.kept.num_rows == 3
    (gone,) = chosen.dropped.to_pylist()
    assert gone["reason"].startswith("exact: ") and gone["messages"][0]["content"] == "name three rivers"
    winner = next(row for row in chosen.kept.to_pylist() if row["id"] == gone["lost_to"])
    assert winner["messages"][0]["content"] == "Name three rivers."
    assert isinstance(chosen.figures, SelectFigures)
    assert [step.kind for step in chosen.figures.steps] == ["exact", "minhash"]


def test_paths_steps_as_values_and_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for data in (path, str(path), [path]):
        assert len(gristmill.select(data, Exact(), MinHash())) == 3
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps(ROWS[2]) + "\n")
    assert len(gristmill.select(path, {"kind": "decontaminate", "sets": [str(test)]})) == 3


@pytest.mark.parametrize(
    ("data", "steps", "problem"),
    [
        (ROWS, ("exatc",), "exatc"),
        (ROWS, ({"kind": "minhash", "treshold": 1},), "treshold"),
        (3, ("exact",), "int is not data"),
        ([], ("exact",), "no rows"),
        ([ROWS[0], 3], ("exact",), "several kinds"),
        ("absent.jsonl", ("exact",), "absent.jsonl"),
    ],
)
def test_what_is_wrong_is_said(data: Any, steps: tuple[Any, ...], problem: str) -> None:
    with pytest.raises(JobError, match=problem):
        gristmill.select(data, *steps)


def test_a_recipe_can_be_a_dict(tmp_path: Path) -> None:
    (tmp_path / "seeds.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    recipe = {"store": str(tmp_path / "runs"), "generate": {"input": str(tmp_path / "seeds.jsonl")}, "select": {}}
    generate, select = gristmill.plan(recipe, "generate.target=50")
    assert (generate.job, generate.kept, select.samples) == ("generate", 50, 50)
    assert "target" not in recipe["generate"], "what a caller hands in is left as it is"
    with pytest.raises(JobError, match="did you mean target"):
        gristmill.plan({"generate": {"targt": 3}})
    with pytest.raises(JobError, match="must be a store"):
        gristmill.load("x", store=str(tmp_path / "none"))


@pytest.mark.ray
def test_the_notebook_runs(tmp_path: Path) -> None:
    """Its code cells, one after another, in a folder of their own."""
    notebook = json.loads((ROOT / "examples/notebook.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    check = "assert again.id == run.id and run.state == 'done' and len(run.dataset) == 4 and len(chosen) == 3"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*cells, check])], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
