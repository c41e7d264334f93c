"""The worked examples, whole, on this machine: `make examples`.

    python benchmarks/examples.py DATA [--folder runs/examples] [--only reviews entities ...] [--items 2000]
                                  [--causal-items 2000]

DATA holds `waimai_10k.csv`, `rt_polarity.pos` and `rt_polarity.neg`, which do not come with the project. The command
line runs each recipe. `examples.json` has the figures and seconds of each, and is written after each; what the store in
the folder has already is not made again, so a second run continues.

- `reviews`: `examples/reviews.toml` on both sets of reviews: 10 labelled texts of each label are the seeds, 500 texts
  lose their label, and `--items` are the test. A head is trained on the seeds alone, on what `[lift]` passes on, and on
  the seeds with everything that people labelled. For English a causal model too, which writes the label; it is asked
  the first `--causal-items` of the test, half of each label, because it takes several times as long as a head.
- `writer`: `examples/reviews_writer.toml` on the English reviews: which of four methods of building helps?
- `lift`: `examples/lift.toml` on the same rows, with fine-tuning (`confirm`).
- `entities`, `question_answering`: these recipes, and the seeds alone.
- `instructions`: this recipe.

No text of a test is in a prompt: what a model reads has no near copy of a test item. `[select]`, `[lift]` and `[train]`
leave out near copies of test items too, and `left_out` says how many.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, machine
from lift import TASKS, drawn, pool

from gristmill.cluster.contract.sample import Sample, to_table
from gristmill.cluster.jobs.recipe import open_recipe
from gristmill.cluster.store.store import Store
from gristmill.training.data.families import near_to
from gristmill.training.evaluate.lift import LIFT

RECIPES = HERE.parent / "examples"
RESULT = HERE / "examples.json"
FILES = {"seeds": "seeds.jsonl", "test": "test.jsonl", "unlabelled": "texts.jsonl", "labelled": "labelled.jsonl"}
PROMPTED = "prompted.jsonl"
"""The texts without a label that a model may read: those that are no near copies of a test item."""
ASKED = "asked.jsonl"
"""The test items that a causal model is asked."""
CAUSAL = (
    "train.model=builtin:smollm2-135m-instruct",
    "train.task={kind = 'causal_lm'}",
    "train.tuning={kind = 'lora'}",
    "train.learning_rate=1e-3",
    "train.steps=30",
    "train.global_batch_size=8",
    "train.micro_batch_size=4",
    "evaluate.smoke_prompts=0",
)
OF_JOBS = (
    "rows", "kept", "dropped", "left_out", "drop_reasons", "steps", "seconds",
    "holdout_loss", "loss_before", "loss_after",
)  # fmt: skip
"""Figures of every job that are kept, if it has them."""
OF_ARMS = ("test", "validation", "fine_tuned", "methods", "left_out")
"""What `lift.json` says of each arm, each method, and of the rows that take no part."""
ONE = "train.workers=1"
"""Two workers on two cores wait for each other where other programs run too. The losses are the same."""
FILM = (
    "generate.target=300",
    "generate.methods.0.labels=['negative', 'positive']",
    "generate.methods.1.labels=['negative', 'positive']",
    "generate.methods.1.about=film reviews",
)
Figures = dict[str, Any]


def write(path: Path, samples: Sequence[Sample], *, label: bool) -> None:
    """Write texts, with their labels or without, as JSONL."""
    rows = ({"text": s.instruction, **({"label": s.answer} if label else {})} for s in samples)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def reviews(data: Path, folder: Path, task: str, items: int, causal_items: int) -> Path:
    """Write the files of a set of reviews; return their folder.

    Args:
        data: folder of the public reviews.
        folder: folder of the examples.
        task: name of the set of reviews.
        items: number of test items.
        causal_items: number of these items that a causal model is asked.

    Raises:
        SystemExit: when a seed, which prompts may show, is a near copy of a test item.
    """
    target = folder / task
    target.mkdir(parents=True, exist_ok=True)
    rows = drawn(pool(TASKS[task](data), 5000), 0, 0.5)
    rows["test"] = first(rows["test"], items)
    for role, name in FILES.items():
        write(target / name, rows[role], label=role != "unlabelled")
    write(target / ASKED, first(rows["test"], causal_items), label=True)
    if len(unlike(rows["seeds"], rows["test"])) < len(rows["seeds"]):
        raise SystemExit(f"{task}: a seed is a near copy of a test item, must be none; draw other seeds")
    write(target / PROMPTED, unlike(rows["unlabelled"], rows["test"]), label=False)
    return target


def first(samples: Sequence[Sample], number: int) -> list[Sample]:
    """Return the first samples of each label, the same number of each of the two labels."""
    by_label: dict[str, list[Sample]] = {}
    for sample in samples:
        by_label.setdefault(sample.answer, []).append(sample)
    return [sample for _, some in sorted(by_label.items()) for sample in some[: number // 2]]


def unlike(samples: Sequence[Sample], test: Sequence[Sample]) -> list[Sample]:
    """Return the samples that are no near copies of a test item."""
    near = near_to(to_table(samples), np.ones(len(samples), np.bool_), [to_table(test)])
    return [sample for sample, copy in zip(samples, near, strict=True) if not copy]


def run(name: str, folder: Path, sets: Sequence[str]) -> Figures:
    """Run a recipe by the command line; return what its jobs found, and the seconds of the whole command."""
    recipe, given = RECIPES / f"{name}.toml", [f"store={folder / 'store'}", *sets]
    began = time.monotonic()
    flags = [part for one in given for part in ("--set", one)]
    subprocess.run([str(Path(sys.executable).with_name("gristmill")), "run", str(recipe), *flags], check=True)
    seconds = round(time.monotonic() - began, 1)
    loaded, works = open_recipe(recipe, given)
    store = Store(loaded.store)
    found = {job: short(store.figures(work.output)) for job, work in works.items()}
    if "lift" in works:
        arms = store.read_json(works["lift"].output, LIFT)
        found["lift"] = store.figures(works["lift"].output) | {name: arms[name] for name in OF_ARMS}
    return {"command_seconds": seconds, **found}


def short(figures: Figures) -> Figures:
    """Return the figures of a job that a table of examples needs."""
    found = {name: figures[name] for name in OF_JOBS if name in figures}
    suites = [
        {
            "suite": suite["suite"],
            "items": suite["items"],
            "unfit": suite.get("unfit", ""),
            "models": [
                {name: model.get(name) for name in ("model", "value", "low", "high", "measures", "difference",
                                                    "ci_low", "ci_high")}
                for model in suite["models"]
            ],
        }
        for suite in figures.get("suites", ())
    ]  # fmt: skip
    return found | ({"suites": suites} if suites else {})


def parts_of(task: str, where: Path, folder: Path) -> dict[str, Callable[[], Figures]]:
    """Return the parts of a set of reviews, whose files are in the folder `where`."""
    seeds, test, texts, labelled = (where / FILES[role] for role in ("seeds", "test", "unlabelled", "labelled"))
    roles = [f"lift.{role}={where / name}" for role, name in FILES.items()]
    roles.append("lift.validation=0.3")
    built = [f"generate.input={seeds}", f"generate.documents.path={texts}", f"select.steps.1.sets=['{test}']"]
    tested = [f"train.test=['{test}']", f"evaluate.suites.reviews.input={test}", "evaluate.suites.reviews.made=false"]
    asked = [f"evaluate.suites.reviews.input={where / ASKED}"]
    arms = {
        "seeds alone": [f"train.input={seeds}"],
        "what [lift] passes on": [],
        "seeds and all labels": [f"train.input=['{seeds}', '{labelled}']"],
    }
    found: dict[str, Callable[[], Figures]] = {}
    for arm, more in arms.items():
        sets = [*roles, *built, *tested, *more, ONE]
        found[f"reviews, {task}, head, {arm}"] = partial(run, "reviews", folder, sets)
        if task == "rt_polarity":  # the builtin causal model knows no Chinese
            found[f"reviews, {task}, causal model, {arm}"] = partial(run, "reviews", folder, [*sets, *asked, *CAUSAL])
    if task == "rt_polarity":
        read = f"generate.documents.path={where / PROMPTED}"
        found[f"writer, {task}"] = partial(run, "reviews_writer", folder, [*roles, *built, read, *FILM])
    return found | {f"lift, {task}": partial(run, "lift", folder, [*roles, "lift.confirm=true"])}


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a table of all parts: rows trained on, the tuned model on each suite, and the seconds."""
    yield "| part | trained on | suite | base | tuned | measures of the tuned model | train, evaluate, s |"
    yield "|---|---|---|---|---|---|---|"
    for part, jobs in found.items():
        seconds = f"{sum(jobs[job]['seconds'] for job in ('train', 'evaluate') if job in jobs):,.0f}"
        if "lift" in jobs:
            lift = jobs["lift"]
            said = f"{lift['recommended']}: {lift['verdict']}, lift {lift['lift']:+.3f}"
            spent = f"[lift] {lift['seconds']:,.0f}"
            spent += f", of it fine-tuning {lift['tuned_seconds']:,.0f}" if lift.get("tuned_seconds") else ""
            rows, seeds = f"{lift['kept']:,} rows passed on", f"{lift['accuracy_seeds']:.3f}"
            yield f"| {part} | {rows} | [lift] | {seeds} | {said} | | {spent} |"
        for suite in jobs.get("evaluate", {}).get("suites", ()):
            base, tuned, *_ = suite["models"]
            plain = {n: v for n, v in tuned["measures"].items() if not n.startswith(("raw_", "written_"))}
            measures = ", ".join(f"{name} {value:.3f}" for name, value in plain.items())
            values = f"{base['value']:.3f} | {tuned['value']:.3f}"
            name = f"{suite['suite']}, {suite['items']:,} items"
            yield f"| {part} | {jobs['train']['kept']:,} | {name} | {values} | {measures} | {seconds} |"


def main() -> None:
    """Run the examples, write `examples.json`, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--folder", type=Path, default=HERE.parent / "runs" / "examples")
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--causal-items", type=int, default=2000)
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    folder = given.folder.resolve()
    parts: dict[str, Callable[[], Figures]] = {}
    for task in TASKS:
        parts |= parts_of(task, reviews(given.data, folder, task, given.items, given.causal_items), folder)
    for name in ("entities", "question_answering"):
        alone = [f"train.input={RECIPES / 'data' / f'{name}_seeds.jsonl'}", "train.mixture=[]", ONE]
        parts |= {name: partial(run, name, folder, [ONE]), f"{name}, seeds alone": partial(run, name, folder, alone)}
    parts["instructions"] = partial(run, "instructions", folder, [ONE])
    old = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    found = old.get("examples", {})
    for part, make in parts.items():
        if not given.only or any(part.startswith(name) for name in given.only):
            about = {"items_of_reviews": given.items} if any(task in part for task in TASKS) else {}
            found[part] = {**about, **make()}
            RESULT.write_text(json.dumps({**machine(), "examples": found}, indent=1) + "\n")
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
