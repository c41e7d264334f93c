"""Ways to label texts that `[lift]` does not have, beside the self-training that it has, on people's reviews.

    python benchmarks/lift_others.py DATA [--draws 10]

Texts, draws and items are those of `lift.py`, half and two thirds negative. Each way labels half of the hidden texts,
in the shares of the validation items, as self-training does. The probe on the e5 vectors then learns from the seeds and
these texts. Results are in `lift_others.json`.

- `co-training`: two views, of which each labels for the other the texts that it is surest about, in five rounds (Blum &
  Mitchell 1998, COLT). The views are e5 and character n-grams, or e5 and MiniLM. Both views together label at the end.
- `label model`: probes on e5, MiniLM and characters vote, each in the given shares, and a model of their errors finds
  the labels (Dawid & Skene 1979, Applied Statistics 28, by expectation maximisation).
- `mean`: the geometric mean of the probabilities of the same three probes.
- `... + language model`: for the English sentences the builtin model of 135M weights is a fourth voter: the likelihood
  of " positive" against " negative" after three short prompts, less its median over the texts.
"""

import argparse
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, machine
from lift import TASKS, VALIDATION, drawn, made, pool, spread

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.models import dtypes
from gristmill.cluster.models import names as models
from gristmill.cluster.models.encoder import Embedding, open_embedding
from gristmill.training.evaluate import arms
from gristmill.training.evaluate.probe import Features, Floats, Ints
from gristmill.training.evaluate.self_training import ROUNDS, SEED_WEIGHT, SHARE, self_train, surest

VIEWS = (models.E5, models.MINILM, "characters")
PROMPTS = (
    "A waste of time.\nSentiment: negative\n\nA delight from start to end.\nSentiment: positive\n\n{}\nSentiment:",
    "Is the film review positive or negative?\n\n{}\n\nThe review is",
    '"{}" The critic\'s opinion of the film was',
)
AT_ONCE = 32
Found = tuple[Ints, Ints]
"""Numbers of texts, and the labels that they got."""


def room_of(count: int, shares: Floats, part: float = SHARE) -> Ints:
    """Return how many texts of each label are labelled."""
    return np.floor(count * part * shares).astype(np.int64)


def fitted(features: Features, seeds: Ints, labels: Ints, more: Found, texts: Ints) -> Floats:
    """Return the probabilities of some texts by a probe that learned from the seeds and further texts, [texts, 2]."""
    weights = np.append(np.full(len(seeds), SEED_WEIGHT), np.ones(len(more[0])))
    model = features.fit(np.concatenate([seeds, more[0]]), np.concatenate([labels, more[1]]), weights)
    return model.chances(texts, 2)


def joint(chances: Sequence[Floats]) -> Floats:
    """Return the geometric mean of several probabilities, [texts, labels]."""
    found: Floats = np.exp(np.mean([np.log(one + 1e-9) for one in chances], axis=0))
    found /= found.sum(axis=1, keepdims=True)
    return found


def co_train(views: Sequence[Features], seeds: Ints, labels: Ints, texts: Ints, shares: Floats) -> Floats:
    """Return the probabilities of the texts by both views after the last round, [texts, labels]."""
    taken: list[Found] = [(texts[:0], labels[:0])] * 2
    chances: list[Floats] = []
    for done in range(1, ROUNDS + 1):
        chances = [fitted(view, seeds, labels, taken[1 - n], texts) for n, view in enumerate(views)]
        rows = [surest(one, np.maximum(1, room_of(len(texts), shares, SHARE * done / ROUNDS))) for one in chances]
        taken = [(texts[row], label) for row, label in rows]
    return joint(chances)


def voted(chances: Floats, shares: Floats) -> Ints:
    """Return a label for each text, in the given shares."""
    room = room_of(len(chances), shares, 1.0)
    room[int(shares.argmax())] += len(chances) - int(room.sum())
    rows, labels = surest(chances, room)
    found = np.zeros(len(chances), np.int64)
    found[rows] = labels
    return found


def label_model(votes: Sequence[Ints], shares: Floats, rounds: int = 50) -> Floats:
    """Return the probabilities of the labels by Dawid & Skene, [texts, labels]. A voter starts as right in 4 of 5."""
    size = len(shares)
    truth: Floats = np.mean([np.eye(size)[vote] for vote in votes], axis=0)
    for _ in range(rounds):
        logs = np.tile(np.log(shares), (len(truth), 1))
        for vote in votes:
            errors = np.ones((size, size)) + 3 * np.eye(size)
            for said in range(size):
                errors[:, said] += truth[vote == said].sum(axis=0)
            logs += np.log(errors / errors.sum(axis=1, keepdims=True))[:, vote].T
        truth = np.exp(logs - logs.max(axis=1, keepdims=True))
        truth /= truth.sum(axis=1, keepdims=True)
    return truth


def spoken(texts: Sequence[str]) -> dict[str, float]:
    """Return for each text how much likelier the builtin model says `positive` than `negative`, in nats."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = models.local(models.SMOLLM2)
    tok: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tok.pad_token = tok.eos_token
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtypes.choose(models.SMOLLM2).dtype).eval()
    good, bad = (tok(word)["input_ids"][0] for word in (" positive", " negative"))
    order, total = sorted(texts, key=len), np.zeros(len(texts))
    for prompt in PROMPTS:
        values: list[float] = []
        for start in range(0, len(order), AT_ONCE):
            batch = tok([prompt.format(t) for t in order[start : start + AT_ONCE]], return_tensors="pt", padding=True)
            places = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
            with torch.inference_mode():
                logits = model(**batch, position_ids=places, logits_to_keep=1).logits[:, -1].float()
            values += (logits[:, good] - logits[:, bad]).tolist()
        total += np.array(values) - np.median(values)
    return dict(zip(order, (total / len(PROMPTS)).tolist(), strict=True))


def one_draw(
    rows: Mapping[str, Sequence[Sample]], known: Mapping[str, Any], said: Mapping[str, float], number: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return, by way, the accuracy on the untouched items, and the share of right labels."""
    corpus = arms.corpus_of({role: rows[role] for role in ("seeds", "test", "unlabelled")})
    items, seeds, texts = (corpus.places[role] for role in ("test", "seeds", "unlabelled"))
    labels = corpus.labels[seeds]
    order = np.random.default_rng(number).permutation(len(items)) < VALIDATION * len(items)
    shares = np.bincount(corpus.labels[items[order]]) + 1.0
    shares = shares / shares.sum()
    people = {s.instruction: corpus.names.index(s.answer) for s in rows["unlabelled"]}
    truth = np.array([people[corpus.texts[n]] for n in texts])
    views = [made(corpus, name, known.get(name, {})) for name in VIEWS]
    none: Found = (texts[:0], labels[:0])
    each = [fitted(view, seeds, labels, none, texts) for view in views]
    ways = {f"co-training, e5 and {name}": co_train((views[0], view), seeds, labels, texts, shares)
            for name, view in (("characters", views[2]), ("MiniLM", views[1]))}  # fmt: skip
    ways |= {"label model": label_model([voted(one, shares) for one in each], shares), "mean": joint(each)}
    if said:
        nats = np.array([said[corpus.texts[n]] for n in texts])
        chance = 1 / (1 + np.exp(-2 * (nats - np.median(nats))))
        each.append(np.stack([1 - chance, chance], axis=1))  # labels are in alphabetical order
        ways |= {"label model + language model": label_model([voted(one, shares) for one in each], shares),
                 "mean + language model": joint(each)}  # fmt: skip
    self = self_train(views[0], seeds, labels, np.full(len(seeds), SEED_WEIGHT), texts, shares)
    found: dict[str, Found] = {
        "seeds": none,
        "self-training": (self.places, self.labels),
        "people's labels": (texts, truth),
    }
    for name, chances in ways.items():
        taken, given = surest(chances + 1e-3 * joint(each), room_of(len(texts), shares))  # ties by the probabilities
        found[name] = (texts[taken], given)
    right = {n: fitted(views[0], seeds, labels, one, items[~order]).argmax(axis=1) == corpus.labels[items[~order]]
             for n, one in found.items()}  # fmt: skip
    agree = {
        n: float((truth[np.searchsorted(texts, one[0])] == one[1]).mean()) for n, one in found.items() if len(one[0])
    }
    if said:
        agree["language model alone"] = float((each[-1].argmax(axis=1) == truth).mean())
    return {name: float(one.mean()) for name, one in right.items()}, agree


def summary(draws: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> dict[str, Any]:
    """Return by way the mean accuracy, its lift with an interval over draws, the share of the gap, and more."""
    names = list(draws[0][0])
    values = {name: np.array([draw[0][name] for draw in draws]) for name in names}
    gains = {name: value - values["seeds"] for name, value in values.items()}
    gap = gains["people's labels"].mean()
    ways = {
        name: {
            "accuracy": round(float(values[name].mean()), 4),
            "lift": [round(float(gain.mean()), 4), *spread(gain)],
            "share_of_gap": round(float(gain.mean() / gap), 3),
            "worse_than_seeds": int((gain < 0).sum()),
        }
        for name, gain in gains.items()
    }
    right = {name: round(float(np.mean([draw[1][name] for draw in draws])), 4) for name in draws[0][1]}
    return {"ways": ways, "labels_right": right}


def main() -> None:
    """Run all draws of both tasks and write `lift_others.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--draws", type=int, default=10)
    given = parser.parse_args()
    result: dict[str, Any] = {**machine(), "draws": given.draws, "tasks": {}}
    for task, read in TASKS.items():
        samples, began = pool(read(given.data), 5000), time.process_time()
        texts = [sample.instruction for sample in samples]
        known = {
            view: dict(zip(texts, open_embedding(Embedding(model=view)).encode(texts), strict=True))
            for view in VIEWS[:2]
        }
        cases = {share: [drawn(samples, n, share) for n in range(given.draws)] for share in (0.5, 2 / 3)}
        hidden = {s.instruction for rows in itertools.chain(*cases.values()) for s in rows["unlabelled"]}
        said = spoken(sorted(hidden)) if task == "rt_polarity" else {}
        for share, draws in cases.items():
            found = summary([one_draw(rows, known, said, n) for n, rows in enumerate(draws)])
            result["tasks"][f"{task}, {share:.0%} negative"] = found
            print(task, share, json.dumps(found, indent=1), flush=True)
        result["tasks"][f"{task}, {share:.0%} negative"]["cpu_seconds"] = round(time.process_time() - began, 1)
    (HERE / "lift_others.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
