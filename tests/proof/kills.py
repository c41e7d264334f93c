"""Random SIGKILLs of workers and driver, in steps, in checkpoints and in exports: the weights must be the same.

    python -m tests.proof.kills --kills 2                     a few kills
    python -m tests.proof.kills --kills 100 --folder FOLDER   the whole; called again, it continues from FOLDER

A campaign is a sequence of runs of training on four layers of the builtin model, global batch 12. A run has one number
of workers (1, 2 or 3), or a number that is drawn anew at each start of the driver. Each run gets some kills at random
places, and must end with the weights of an unbroken run: bit for bit on the same number of workers, within 1e-5 else.
After each run, the result is written to `FOLDER/kills.json`; with 100 kills also to `benchmarks/kills.json`.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

from gristmill.cluster.models import names
from gristmill.cluster.store.store import Store
from gristmill.training.loop.journal import METRICS, read_journal
from gristmill.training.supervision import heartbeat
from tests.paths import ROOT
from tests.training.conftest import chats, dataset

STEPS, SAVE_STEPS, WHOLE = 24, 3, 100
RESULT = Path(__file__).parents[2] / "benchmarks" / "kills.json"
PLACES = ("worker", "driver", "checkpoint", "export")
KILLS_OF_A_RUN = 6
LONGEST_S = 900.0
"""Seconds in which a driver must end, or be killed."""


def four_layers(folder: Path) -> str:
    """Write the first four layers of the builtin model, with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (folder / "config.json").exists():
        base = names.local(names.SMOLLM2)
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model.model.layers = model.model.layers[:4]
        model.config.num_hidden_layers = 4
        if getattr(model.config, "layer_types", None):
            model.config.layer_types = model.config.layer_types[:4]
        AutoTokenizer.from_pretrained(base).save_pretrained(str(folder))
        model.save_pretrained(str(folder))
    return str(folder)


def settings(model: str, workers: int) -> dict[str, Any]:
    """Return the settings of every run of the campaign."""
    return {
        "model": model, "workers": workers, "steps": STEPS, "save_steps": SAVE_STEPS, "precision": "fp32",
        "global_batch_size": 12, "max_length": 128, "validation": 0.05, "cpus_per_worker": 0.5, "max_failures": 99,
        "tuning": {"kind": "freeze", "last_layers": 2}, "zero": {"stage": 2}, "learning_rate": 1e-4,
    }  # fmt: skip


class Driver:
    """The process that runs the train job in a store."""

    def __init__(self, store: Store, model: str, workers: int) -> None:
        """Start it."""
        job = json.dumps(settings(model, workers))
        command = [sys.executable, "-m", "tests.training.drive", store.uri, job]
        self._said = (Path(store.uri) / "driver.txt").open("a")
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=self._said, stdout=self._said)
        self.root = Path(store.uri)

    def folder(self) -> Path:
        """Return the folder of the run, once it exists."""
        return next(iter(self.root.glob("train-*")), self.root / "none")

    def beats(self) -> dict[int, heartbeat.Beat]:
        """Return the beats of the workers."""
        return heartbeat.read(self.folder())

    def step(self) -> int:
        """Return the last step in the journal."""
        return max((m.get("step", 0) for m in read_journal(self.folder() / METRICS)), default=0)

    def ended(self) -> bool:
        """Say whether the process has ended."""
        return self.process.poll() is not None

    def close(self) -> None:
        """End the process if it runs, and close its log."""
        self.process.kill()
        self.process.wait()
        self._said.close()


def wait_for(driver: Driver, place: str, rng: random.Random) -> heartbeat.Beat | None:
    """Wait for the place of a kill and return the worker to kill there, or None if the run ended before."""
    target = driver.step() + rng.randint(1, 6)
    deadline = time.monotonic() + LONGEST_S
    while not driver.ended():
        assert time.monotonic() < deadline, "no step in a long time"
        beats = [beat for beat in driver.beats().values() if alive(beat.pid)]
        there = {"checkpoint": "save", "export": "export"}.get(place)
        now = [beat for beat in beats if beat.phase == there] if there else beats if driver.step() >= target else []
        if now:
            time.sleep(rng.random() * (0.02 if place == "checkpoint" else 0.3))
            return rng.choice(now)
        time.sleep(0.005 if there else 0.05)
    return None


def alive(pid: int) -> bool:
    """Say whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def after(driver: Driver, killed: float, pids: set[int]) -> dict[str, float]:
    """Return the seconds from a kill to the first beat of a new worker, to its imports' end, and to the next step.

    The next step is the first one that a new worker writes, or the end of the run if no step was left.
    """
    first = None
    journal = driver.folder() / METRICS
    starts = len([m for m in read_journal(journal) if "start" in m])
    while not driver.ended():
        beats = driver.beats()
        if first is None and any(beat.pid not in pids for beat in beats.values()):
            first = time.time() - killed
        lines = read_journal(journal)
        begun = [place for place, line in enumerate(lines) if "start" in line]
        if len(begun) > starts and any("step" in line or "end" in line for line in lines[begun[-1] :]):
            break
        time.sleep(0.05)
    if first is None or driver.ended():
        return {}
    said = (driver.root / "runs/test/logs/train-0.log").read_text(encoding="utf-8")
    imports = float(re.findall(r"process group adopted after ([\d.]+) s", said)[-1])
    return {"to_process": first, "imports": imports, "to_step": time.time() - killed}


def one_run(
    store: Store, model: str, worlds: Iterator[int], places: list[str], rng: random.Random
) -> list[dict[str, Any]]:
    """Run one training to its end, with a kill at each of these places; return what was done."""
    done: list[dict[str, Any]] = []
    world = next(worlds)
    driver = Driver(store, model, world)
    try:
        for place in places:
            victim = wait_for(driver, place, rng)
            if victim is None:
                break
            of_driver = place == "driver" or (place in ("checkpoint", "export") and rng.random() < 0.5)
            pids = {beat.pid for beat in driver.beats().values()}
            step, killed = driver.step(), time.time()
            fact: dict[str, Any] = {
                "place": place,
                "of": "driver" if of_driver else "worker",
                "world": world,
                "step": step,
            }
            if of_driver:
                driver.close()
                world = next(worlds)
                driver = Driver(store, model, world)
            else:
                os.kill(victim.pid, signal.SIGKILL)
            fact |= {key: round(value, 1) for key, value in after(driver, killed, pids).items()}
            done.append(fact | {"next_world": world})
            sys.stderr.write(f"{done[-1]}\n")
        code = driver.process.wait(LONGEST_S)
    finally:
        driver.close()
    assert code == 0, f"the driver ended with {code}; see {store.uri}/driver.txt"
    return done


def outcome(store: Store) -> tuple[dict[str, Any], list[float]]:
    """Return the weights of the finished model and the losses of the steps."""
    from safetensors.torch import load_file

    (output,) = [name for name in store.names() if name.startswith("train-")]
    assert store.complete(output)
    lines = [m for m in read_journal(store.folder(output) / METRICS) if "step" in m]
    assert [m["step"] for m in lines] == list(range(1, STEPS + 1)), "a step is missing or appears twice"
    return load_file(str(store.folder(output) / "merged/model.safetensors")), [m["loss"] for m in lines]


def shelf(folder: Path) -> Store:
    """Return a store with the samples."""
    store = Store(str(folder))
    if not store.complete("select-000000000000"):
        dataset(store, chats(160))
    return store


def reference(folder: Path, model: str, world: int) -> Store:
    """Return the store of an unbroken run, which is made at its first use."""
    store = shelf(folder / f"unbroken-{world}")
    if not any(store.complete(name) for name in store.names() if name.startswith("train-")):
        one_run(store, model, iter([world]), [], random.Random(0))
    return store


def difference(one: Store, other: Store) -> tuple[float, float]:
    """Return the largest difference between weights, and between losses of the same step."""
    (weights, losses), (others, losses_too) = outcome(one), outcome(other)
    assert weights.keys() == others.keys()
    apart = max(float((tensor - others[name]).abs().max()) for name, tensor in weights.items())
    return apart, max(abs(a - b) for a, b in zip(losses, losses_too, strict=True))


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the result of the campaign so far."""
    kills = [kill for run in runs for kill in run["kills"]]
    timed = [kill for kill in kills if "to_step" in kill]
    resumed = sorted(kill["to_step"] - kill["to_process"] - kill["imports"] for kill in timed)
    equal = [run for run in runs if run["equal_world"]]
    exact = [run for run in equal if run["weights_apart"] == run["losses_apart"] == 0]
    other = [run for run in runs if not run["equal_world"]]
    return {
        "kills": len(kills),
        "by_place": {place: len([k for k in kills if k["place"] == place]) for place in PLACES},
        "of_driver": len([k for k in kills if k["of"] == "driver"]),
        "runs": len(runs),
        "runs_bit_equal_on_equal_workers": [len(exact), len(equal)],
        "largest_weight_difference_on_other_workers": max((r["weights_apart"] for r in other), default=None),
        "largest_loss_difference_on_other_workers": max((r["losses_apart"] for r in other), default=None),
        "kills_with_a_next_step": len(timed),
        "seconds_from_kill_to_new_process": statistics.median([k["to_process"] for k in timed]) if timed else None,
        "seconds_of_imports": statistics.median([k["imports"] for k in timed]) if timed else None,
        "seconds_to_next_step_after_imports": {
            "median": round(statistics.median(resumed), 1), "highest": round(resumed[-1], 1),
        } if resumed else None,
    }  # fmt: skip


def campaign(folder: Path, count: int, seed: int, most_s: float) -> dict[str, Any]:
    """Kill until there are so many kills, or the time is over; return the result."""
    folder.mkdir(parents=True, exist_ok=True)
    model, began = four_layers(folder / "model"), time.monotonic()
    path = folder / "runs.json"
    runs: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    while sum(len(run["kills"]) for run in runs) < count and time.monotonic() - began < most_s:
        number = len(runs)
        rng = random.Random(f"{seed}-{number}")
        left = count - sum(len(run["kills"]) for run in runs)
        equal = number % 2 == 0
        world = rng.choice((1, 2, 3)) if number else 2
        last = "export" if rng.random() < 0.5 else rng.choice(PLACES[:3])
        places = [*rng.choices(PLACES[:3], k=min(KILLS_OF_A_RUN, left) - 1), last]
        if not equal:
            places[0] = "driver"
        worlds = repeat(world) if equal else iter(partial(rng.choice, (1, 2, 3)), 0)
        unbroken = reference(folder, model, world if equal else 2)
        shutil.rmtree(folder / "run", ignore_errors=True)
        store = shelf(folder / "run")
        kills = one_run(store, model, worlds, sorted(places, key=lambda place: place == "export"), rng)
        weights, losses = difference(store, unbroken)
        used = {world for kill in kills for world in (kill["world"], kill["next_world"])}
        alike = equal or used == {2}
        runs.append({"equal_world": alike, "weights_apart": weights, "losses_apart": losses, "kills": kills})
        path.write_text(json.dumps(runs, indent=1), encoding="utf-8")
        sys.stderr.write(f"{summary(runs)}\n")
    return summary(runs)


def main() -> int:
    """Run the campaign and say whether every run was as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=600.0)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    result = campaign(folder, given.kills, given.seed, given.minutes * 60)
    (folder / "kills.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    if given.kills >= WHOLE:
        whole = {"what": __doc__.splitlines()[0], "asked": given.kills, **result}
        RESULT.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    good, equal = result["runs_bit_equal_on_equal_workers"]
    near = (result["largest_weight_difference_on_other_workers"] or 0.0) <= 1e-5
    return 0 if good == equal and near else 1


if __name__ == "__main__":
    sys.exit(main())
