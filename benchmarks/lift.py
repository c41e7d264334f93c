"""Lift on two sets of reviews that people labelled: what the arms of `[lift]` bring beside people's own labels.

    python benchmarks/lift.py DATA [--draws 10]

DATA holds `waimai_10k.csv` (SophonPlus/ChineseNlpCorpus), `rt_polarity.pos` and `rt_polarity.neg` (Pang and Lee 2005),
which do not come with the project. In each draw there are 10 seeds of each label, 500 texts whose labels are hidden,
and 2,000 test items, drawn from 5,000 texts. Half of the hidden texts and of the items are negative, and in a second
run two thirds, while the seeds stay balanced. The gap is what the hidden labels bring. Intervals are over the draws.
The probe sees character n-grams, or the vectors of one of the two encoders that come with the project.
"""

import argparse
import csv
import itertools
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, machine

from gristmill.cluster.contract.sample import Message, Sample, seed_id
from gristmill.cluster.models import names as models
from gristmill.cluster.models.encoder import Embedding, open_embedding
from gristmill.training.evaluate import arms
from gristmill.training.evaluate.arms import Corpus
from gristmill.training.evaluate.probe import Features, Floats, Probe, characters, vectors

SEEDS, HIDDEN, ITEMS = 10, 500, 2000
VALIDATION = 0.3


def waimai(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (review, label) of the Chinese food-delivery reviews."""
    with (folder / "waimai_10k.csv").open(encoding="utf-8-sig", newline="") as source:
        for row in csv.DictReader(source):
            yield row["review"], ("negative", "positive")[int(row["label"])]


def film(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (sentence, label) of the film sentences."""
    for label in ("positive", "negative"):
        for line in (folder / f"rt_polarity.{label[:3]}").read_text(encoding="latin-1").splitlines():
            if line.strip():
                yield line.strip(), label


TASKS = {"waimai_10k": waimai, "rt_polarity": film}
FEATURES = ("characters", models.MINILM, models.E5)


def pool(rows: Iterator[tuple[str, str]], size: int) -> list[Sample]:
    """Return as many texts, half of each label, each once, in a fixed random order."""
    once = dict(rows)
    by_label: dict[str, list[str]] = {}
    for text, label in sorted(once.items()):
        by_label.setdefault(label, []).append(text)
    chosen = []
    for label, found in sorted(by_label.items()):
        random.Random(7).shuffle(found)
        for text in found[: size // len(by_label)]:
            turns = (Message("user", text), Message("assistant", label))
            chosen.append(Sample(seed_id(turns), turns, tags={"label": label}))
    return chosen


def drawn(samples: Sequence[Sample], number: int, share: float) -> dict[str, list[Sample]]:
    """Return the rows of one draw by role; `share` of the hidden texts and of the items have the first label."""
    rng = random.Random(number)
    labels = sorted({sample.answer for sample in samples})
    left = {label: [s for s in samples if s.answer == label] for label in labels}
    for found in left.values():
        rng.shuffle(found)
    rows: dict[str, list[Sample]] = {"seeds": [], "unlabelled": [], "test": []}
    for label, part in zip(labels, (share, 1 - share), strict=True):
        for role, count in (("seeds", SEEDS), ("unlabelled", round(HIDDEN * part)), ("test", round(ITEMS * part))):
            rows[role] += left[label][:count]
            del left[label][:count]
    return rows | {"labelled": list(rows["unlabelled"])}


def one_draw(
    rows: Mapping[str, Sequence[Sample]], features: str, known: Mapping[str, Any], number: int
) -> dict[str, Any]:
    """Return accuracies on the untouched items, the recommended arm and its share of the gap."""
    hidden = arms.corpus_of({role: rows[role] for role in ("seeds", "test", "labelled")})
    corpus = arms.corpus_of({role: rows[role] for role in ("seeds", "test", "unlabelled")})
    items = corpus.places["test"]
    order = np.random.default_rng(number).permutation(len(items)) < VALIDATION * len(items)
    accuracy: dict[str, float] = {}
    chosen = ""
    shares = np.bincount(corpus.labels[items[order]]) + 1.0
    for one in (corpus, hidden):
        found = list(arms.arms_of(one, made(one, features, known), shares / shares.sum(), draws=3, seed=number))
        rights = [arms.right(arm, one, made(one, features, known), items) for arm in found]
        for arm, right in zip(found, rights, strict=True):
            accuracy[arm.name] = float(right[~order].mean())
        if one is corpus:
            families = np.arange(int(order.sum()), dtype=np.int64)
            parts = [right[order] for right in rights]
            chosen = arms.recommended(arms.compare(found, parts, families, bootstrap=1000, seed=number))
    return {"accuracy": accuracy, "recommended": chosen}


def made(corpus: Corpus, features: str, known: Mapping[str, Any]) -> Features:
    """Return the features of a draw, from vectors that were encoded once."""
    fitted = np.concatenate([corpus.places[role] for role in ("seeds", "unlabelled", "labelled")])
    if features == "characters":
        return characters(corpus.texts, fitted, Probe())
    return vectors(np.stack([known[text] for text in corpus.texts]), fitted, Probe())


def spread(values: Floats) -> list[float]:
    """Return the 95 % interval of the mean of some draws, by Student."""
    from scipy.special import stdtrit

    reach = float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values)))
    return [round(float(values.mean()) + sign * reach, 4) for sign in (-1, 1)]


def summary(draws: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return means over the draws, with 95 % intervals by Student over draws."""
    names = list(draws[0]["accuracy"])
    accuracy = {name: np.array([draw["accuracy"][name] for draw in draws]) for name in names}
    base = accuracy[arms.SEEDS]
    gap = float((accuracy[arms.PEOPLE] - base).mean())
    taken = np.array([draw["accuracy"][draw["recommended"]] for draw in draws]) - base

    return {
        "accuracy": {name: round(float(values.mean()), 4) for name, values in accuracy.items()},
        "lift": {n: [round(float((v - base).mean()), 4), *spread(v - base)] for n, v in accuracy.items()},
        "gap": round(gap, 4),
        "recommended": {name: sum(draw["recommended"] == name for draw in draws) for name in names},
        "lift_of_recommended": [round(float(taken.mean()), 4), *spread(taken)],
        "share_of_gap": round(float(taken.mean()) / gap, 3),
        "recommended_and_hurts": int((taken < 0).sum()),
    }


def main() -> None:
    """Run all draws of both tasks and write `lift.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--draws", type=int, default=10)
    given = parser.parse_args()
    result: dict[str, Any] = {**machine(), "seeds_per_label": SEEDS, "hidden": HIDDEN, "items": ITEMS, "tasks": {}}
    for (task, read), features in itertools.product(TASKS.items(), FEATURES):
        samples, known = pool(read(given.data), 5000), {}
        began = time.process_time()
        if features != "characters":
            texts = [sample.instruction for sample in samples]
            known = dict(zip(texts, open_embedding(Embedding(model=features)).encode(texts), strict=True))
        for share in (0.5, 2 / 3):
            draws = [one_draw(drawn(samples, n, share), features, known, n) for n in range(given.draws)]
            name = f"{task}, {features.removeprefix('builtin:')}, {share:.0%} negative"
            result["tasks"][name] = {"features": features, **summary(draws), "draws": draws}
            print(name, json.dumps(summary(draws), indent=1), flush=True)
        result["tasks"][name]["cpu_seconds"] = round(time.process_time() - began, 1)
    (HERE / "lift.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
