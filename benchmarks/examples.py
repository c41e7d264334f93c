"""The recipe `examples/lift.toml` on two public sets of reviews, with everything that people labelled: `make examples`.

    python benchmarks/examples.py DATA

DATA holds `waimai_10k.csv`, `rt_polarity.pos` and `rt_polarity.neg`, which do not come with the project. Of each set 10
labelled texts of each label are the seeds, 500 texts lose their label, and 2,000 are the test items. The command line
runs the recipe twice: without fine-tuning, and with it (`confirm`). Results are in `examples.json`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import HERE, machine
from lift import TASKS, drawn, pool

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.jobs.recipe import open_recipe
from gristmill.cluster.store.store import Store

RECIPE = HERE.parent / "examples" / "lift.toml"
FILES = {"seeds": "seeds.jsonl", "test": "test.jsonl", "unlabelled": "texts.jsonl", "labelled": "labelled.jsonl"}


def write(path: Path, samples: Sequence[Sample], *, label: bool) -> None:
    """Write texts, with their labels or without, as JSONL."""
    rows = ({"text": s.instruction, **({"label": s.answer} if label else {})} for s in samples)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def run(folder: Path, confirm: bool) -> dict[str, Any]:
    """Run the recipe on the files of a folder; return the figures of `[lift]` and the seconds of the whole command."""
    sets = [f"store={folder / 'store'}", f"lift.confirm={str(confirm).lower()}", "lift.validation=0.3"]
    sets += [f"lift.{role}={folder / name}" for role, name in FILES.items()]
    began = time.monotonic()
    flags = [part for one in sets for part in ("--set", one)]
    subprocess.run([str(Path(sys.executable).with_name("gristmill")), "run", str(RECIPE), *flags], check=True)
    seconds = round(time.monotonic() - began, 1)
    recipe, works = open_recipe(RECIPE, sets)
    return {**Store(recipe.store).figures(works["lift"].output), "command_seconds": seconds}


def main() -> None:
    """Run the recipe on both sets and write `examples.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    given = parser.parse_args()
    result: dict[str, Any] = {**machine(), "recipe": RECIPE.name, "tasks": {}}
    for task, read in TASKS.items():
        rows = drawn(pool(read(given.data), 5000), 0, 0.5)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            for role, name in FILES.items():
                write(folder / name, rows[role], label=role != "unlabelled")
            result["tasks"][task] = {f"confirm = {str(c).lower()}": run(folder, c) for c in (False, True)}
    (HERE / "examples.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
