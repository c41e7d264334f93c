"""A line whose jobs run in this process within a second: the scripted engine writes, and models have a known quality.

python -m tests.cluster.refresh.machine ARGUMENTS…     # `gristmill` with these jobs
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from gristmill.cluster.cli.main import main
from gristmill.cluster.contract import ids
from gristmill.cluster.contract.sample import Message, from_table, seed, to_table
from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.store.store import MANIFEST, Store, file_shard
from gristmill.generation.figures import GenerateFigures
from gristmill.generation.job import Generate
from gristmill.training.data import prepare
from gristmill.training.evaluate.job import Evaluate
from gristmill.training.evaluate.scorers.contract import OWN, Judgement
from gristmill.training.evaluate.suites import ask, compare, looks
from gristmill.training.evaluate.suites.freeze import contamination, freeze
from gristmill.training.evaluate.suites.items import Judged
from gristmill.training.evaluate.suites.values import gathered
from gristmill.training.figures import EvaluateFigures, TrainFigures
from gristmill.training.job import Train
from gristmill.training.loop.journal import METRICS, read_journal
from tests.fakes import two_layer_model
from tests.generation.ground import Loop

LINE = "mill"
GATE = {"alpha": 0.05, "rounds": 2}
SEEDS = ("age", "air", "bar", "end", "sea", "sun", "oak", "ice")


def recipe(folder: Path, base: str, **refresh: Any) -> Path:
    """Write the recipe of a line, its seeds and its suite, and return the path of the recipe."""
    add_seeds(folder, *SEEDS)
    items = [{"instruction": f"Which number is {n} and {n * 7}?", "output": str(n * 8)} for n in range(60)]
    (folder / "exam.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    held = [{"instruction": f"What is after {n}?", "output": f"It is {n + 1}."} for n in range(3)]
    (folder / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held), encoding="utf-8")
    tables = {
        "refresh": {"every_days": 0, "replay": 0.25, **refresh},
        "generate": {"input": "seeds.jsonl", "target": 6, "shard_size": 8, "filters": [{"kind": "length"}],
                     "engine": {"model": base, "dtype": "float32"}, "rounds": 1},
        "select": {"steps": [{"kind": "exact"}]},
        "train": {"model": base, "steps": 3, "save_steps": 1, "max_length": 1000, "precision": "fp32",
                  "validation": "held.jsonl", "learning_rate": 1e-2, "global_batch_size": 2},
        "evaluate": {"precision": "fp32", "suites": {"exam": {"kind": "exact_match", "input": "exam.jsonl"}},
                     "gate": GATE},
    }  # fmt: skip
    path = folder / f"{LINE}.json"
    path.write_text(json.dumps({"name": LINE, "store": str(folder / "store"), "cluster": {}, "jobs": tables}))
    return path


def add_seeds(folder: Path, *topics: str) -> None:
    """Add a seed for each topic to the seeds of the line."""
    with (folder / "seeds.jsonl").open("a", encoding="utf-8") as out:
        for topic in topics:
            row = {"instruction": f"Write a line about the {topic} of a town", "output": f"The {topic} is old."}
            out.write(json.dumps(row) + "\n")


def grade(folder: Path, *shares: float) -> None:
    """Give the challenger of each round its share of right answers."""
    text = json.dumps({f"{LINE}-{n:04d}": share for n, share in enumerate(shares, 1)})
    (folder / "qualities.json").write_text(text, encoding="utf-8")


def tick(path: Path, number: int, *more: str) -> int:
    """Do one tick of a line and return the exit code."""
    return main(["refresh", str(path), "--key", f"week-{number}", "--quiet", *more])


def base_model(folder: Path) -> str:
    """Write the base model, of which only the config and the tokenizer are read."""
    return two_layer_model(folder)


def qualities(store: Store) -> dict[str, float]:
    """The share of right answers of the model of each round, by the name of its run's recipe; 0.5 if none is given."""
    path = Path(store.uri).parent / "qualities.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def pause(store: Store, job: str) -> None:
    """Wait as long as a file with the name of the job is next to the store, and say that we wait."""
    stop = Path(store.uri).parent / f"{job}.wait"
    while stop.exists():
        Path(store.uri).parent.joinpath(f"{job}.waits").touch()
        time.sleep(0.02)


def generate(self: Generate, run: Run, work: Work) -> GenerateFigures:
    pause(run.store, "generate")
    return self.drive(run, work, Loop(run, self, work))


def train(self: Train, run: Run, work: Work) -> TrainFigures:
    """Write a model that is a digest of what it was trained on, with its quality in its config."""
    pause(run.store, "train")
    folder = run.store.folder(work.output)
    trained = {role: [row for table in run.store.scan(name) for row in from_table(table) if row.dropped is None]
               for role, name in prepare.datasets(work.inputs).items()}  # fmt: skip
    merged = folder / "merged"
    merged.mkdir(exist_ok=True)
    before = Path(self.model, "config.json").read_bytes()
    rows = {role: [[row.id, *(turn.text for turn in row.messages)] for row in some] for role, some in trained.items()}
    config = {**json.loads(before), "weights": ids.digest(rows, hashlib.blake2b(before).hexdigest()),
              "quality": qualities(run.store).get(run.id.rpartition("-")[0], 0.5)}  # fmt: skip
    (merged / "config.json").write_text(json.dumps(config))
    held = run.store.commit_shard(
        work.output, "holdout", to_table([seed([Message("user", "held"), Message("assistant", "out")])])
    )
    run.store.write_json({}, work.output, prepare.LEFT_OUT)
    files = [file_shard(folder / name, folder) for name in ("merged/config.json", prepare.LEFT_OUT)]
    figures = TrainFigures(
        rows=sum(map(len, trained.values())), kept=sum(map(len, trained.values())), holdout=1, families=1, dropped=0,
        packed_rows=1, steps=2, precision="fp32", trained_tokens=1, step_seconds=0.0, starts=1,
    )  # fmt: skip
    run.store.commit(self.manifest(work, "model", (held, *files)), figures.to_json())
    return figures


def quality_of(folder: Path) -> float:
    """The share of right answers of a model: that in its config, or one that follows from its weights."""
    given = json.loads((folder / "config.json").read_text()).get("quality")
    if given is not None:
        return float(given)
    weights = hashlib.blake2b((folder / "model.safetensors").read_bytes()).hexdigest()
    return 0.3 + 0.6 * int(weights[:6], 16) / 16**6


def evaluate(self: Evaluate, run: Run, work: Work) -> EvaluateFigures:
    """Answer every item as well as the quality in the config of each model says, and let the real gate decide."""
    pause(run.store, "evaluate")
    models = self._models(run, work)
    suites = [
        looks.in_blocks(freeze(run.store, name, one, work.inputs[f"suites.{name}"]), self.gate)
        for name, one in self.suites.items()
    ]
    near = contamination(run.store, suites, prepare.trained_on(run.store, work.inputs["model"]))
    for part in ask.parts(list(models), suites):
        quality = quality_of(Path(models[part.model]))
        judged = [Judged(item, {OWN: Judgement(float(int(item.id[:6], 16) < quality * 16**6), "a reply")})
                  for item in part.items]  # fmt: skip
        ask.commit(run.store, work.output, part.shard, part.model, part.suite, judged)
    values = gathered(run.store, work.output, run.store.committed(work.output).values(), suites)
    names, draws = list(models), compare.Draws(20, 0)
    compared, decision = looks.look(
        suites, names, self.gate, lambda some, of: compare.compare(some, names, of, near, draws), lambda _: values
    )
    assert decision is not None
    figures = EvaluateFigures(
        rows=1, kept=1, tokens=1, loss_before=1.0, loss_after=1.0, perplexity_before=2.7, perplexity_after=2.7,
        difference=0.0, interval="none", families=1, families_better=0, families_worse=0, sign_p=1.0, precision="fp32",
        smoke_replies=0, smoke_ok=0, suites=compared, decision=decision, seconds=0.0,
    )  # fmt: skip
    shards = list(run.store.committed(work.output).values())
    run.store.commit(self.manifest(work, "evaluation", shards), figures.to_json())
    return figures


def uses_ray(self: object, store: Store, work: Work) -> bool:
    del self, store, work
    return False


def install(put: Any = setattr, *, trains: bool = False) -> None:
    """Let the jobs of this process run as they do here.

    Args:
        put: `setattr`, or that of a fixture that takes it back.
        trains: whether training is the real one, which needs Ray.
    """
    for kind, make in ((Generate, generate), (Evaluate, evaluate), *([] if trains else [(Train, train)])):
        put(kind, "make", make)
        put(kind, "uses_ray", uses_ray)


def contents(store: str) -> dict[str, str]:
    """The digest of each file of a store that says what a line did.

    Files with times are left out. A journal of a training has times too, and a line for each start after a kill; of it
    the steps and their losses count.
    """
    found = {}
    for path in sorted(Path(store).rglob("*")):
        name = str(path.relative_to(store))
        timed = path.name in ("figures.json", "recipe.json") or name.startswith(("runs/", ".leases/"))
        if path.is_file() and not timed and "/report" not in name:
            found[name] = hashlib.blake2b(_lasting(path)).hexdigest()
    return found


def _lasting(path: Path) -> bytes:
    """The bytes of a file without the times of a journal, and without its digest in a manifest."""
    if path.name == METRICS:
        steps = [(line["step"], line["loss"]) for line in read_journal(path) if "step" in line]
        return json.dumps(steps).encode()
    if path.name != MANIFEST:
        return path.read_bytes()
    manifest = json.loads(path.read_bytes())
    manifest["shards"] = [shard for shard in manifest["shards"] if shard["name"] != METRICS]
    return json.dumps(manifest).encode()


if __name__ == "__main__":
    install()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os._exit(main(sys.argv[1:]))
