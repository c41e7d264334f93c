"""Reducers: pure functions that compute measures over the values and replies of all items of a suite.

Each takes the judged items of one model, and those of the base model, and returns measures by name.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gristmill.training.evaluate.scorers.contract import OWN, Scorer
from gristmill.training.evaluate.scorers.harness import Harness
from gristmill.training.evaluate.scorers.labels import Labels, label_in, likeliest
from gristmill.training.evaluate.scorers.multi_label import MultiLabel, labels_in
from gristmill.training.evaluate.scorers.normal import f1
from gristmill.training.evaluate.scorers.pairwise import SAID
from gristmill.training.evaluate.scorers.squad import Squad, by_answer
from gristmill.training.evaluate.scorers.translation import Translation
from gristmill.training.evaluate.suites.items import Judged

Measures = dict[str, float]
Floats = NDArray[np.float64]
NO_LABEL = "(none)"
"""The label that counts for a reply without any label."""
RIDGE = 1e-3
"""Weight of the penalty that keeps the fitted win rate finite if one model always wins."""


def measures(scorer: Scorer, judged: Sequence[Judged], base: Sequence[Judged]) -> Measures:
    """Return the measures of a suite for one model; without a reducer for the scorer, the means of its further values.

    Args:
        scorer: the suite's scorer.
        judged: all items with the model's values; no value is null.
        base: the same items with the base model's values.
    """
    reduce = REDUCERS.get(scorer.kind)
    if reduce is None:
        names = [name for name in judged[0].scores if name != OWN] if judged else []
        return {name: mean([row.scores[name].value for row in judged]) for name in names}
    return reduce(scorer, judged, base)


def mean(values: Sequence[float | None]) -> float:
    """Return the mean of the values that are not null."""
    return float(np.mean([value for value in values if value is not None]))


def column(judged: Sequence[Judged], name: str) -> Floats:
    """Return the values with one name, [items]."""
    return np.array([row.scores[name].value for row in judged], np.float64)


def loss(scorer: Scorer, judged: Sequence[Judged], base: Sequence[Judged]) -> Measures:
    """Return the mean loss over all tokens, in nats, and its perplexity."""
    del scorer, base
    tokens = column(judged, "tokens")
    nats = -float((column(judged, OWN) * tokens).sum() / tokens.sum())
    return {"loss": nats, "perplexity": math.exp(min(nats, 700.0))}


def labels(scorer: Scorer, judged: Sequence[Judged], base: Sequence[Judged]) -> Measures:
    """Return accuracy, precision, recall and F1 of each way of asking, and ROC-AUC by the labels' probabilities."""
    del base
    if not isinstance(scorer, Labels):
        return {}
    found: Measures = {}
    for name in (OWN, "raw", "written"):
        truth, said = predictions(scorer, judged, name)
        rates = classified(truth, said, scorer.labels)
        if name != "written":  # each item has a label, and the micro averages are all the accuracy
            rates = {key: value for key, value in rates.items() if not key.startswith("micro")}
        found |= {f"{name}_{key}" if name else key: value for key, value in rates.items()}
    chances = [_rated(row.scores[OWN].reply)[0] for row in judged]
    auc = roc_auc([row.item.answer for row in judged], chances, scorer.labels)
    return found if auc is None else {**found, "roc_auc": auc}


def predictions(scorer: Labels, judged: Sequence[Judged], name: str) -> tuple[list[str], list[str]]:
    """Return the right label of each item, and the label that the model gives the item in one way of asking."""
    replies = [row.scores[name].reply for row in judged]
    if name == "written":
        said = [_written(reply, scorer.labels) for reply in replies]
    else:
        said = [_rated(reply)[1] for reply in replies]
    return [row.item.answer for row in judged], said


@lru_cache(1 << 16)  # each draw of the bootstrap reads the same replies
def _rated(reply: str) -> tuple[Mapping[str, float], str]:
    """Return the probability of each label in a stored reply, and the likeliest label."""
    table: dict[str, float] = json.loads(reply)
    return table, likeliest(table)


@lru_cache(1 << 16)
def _written(reply: str, names: tuple[str, ...]) -> str:
    return label_in(reply, names) or NO_LABEL


def classified(truth: Sequence[str], said: Sequence[str], names: Sequence[str]) -> Measures:
    """Return accuracy, and precision, recall and F1 as means over the labels (macro) and over all decisions (micro).

    A reply without a label counts as a wrong one. Labels that no item has and no reply gives are left out.
    """
    hits = Counter(right for right, one in zip(truth, said, strict=True) if right == one)
    wanted, given = Counter(truth), Counter(said)
    taken = [name for name in names if wanted[name] or given[name]]
    each = {
        "precision": [hits[name] / given[name] if given[name] else 0.0 for name in taken],
        "recall": [hits[name] / wanted[name] if wanted[name] else 0.0 for name in taken],
        "f1": [f1(hits[name], given[name], wanted[name]) for name in taken],
    }
    decided = sum(given[name] for name in names)
    micro = {
        "micro_precision": hits.total() / decided if decided else 0.0,
        "micro_recall": hits.total() / len(truth),
        "micro_f1": f1(hits.total(), decided, len(truth)),
    }
    return {
        "accuracy": hits.total() / len(truth),
        **{f"macro_{name}": float(np.mean(values)) for name, values in each.items()},
        **micro,
    }


def multi_labelled(truth: Sequence[frozenset[str]], said: Sequence[frozenset[str]], names: Sequence[str]) -> Measures:
    """Return subset accuracy, and precision, recall and F1 over all decisions (micro) and as means over labels (macro).

    A label that no text has and no answer has is left out of the means. A label that is none of `names` counts as a
    wrong decision.
    """
    hits = Counter(label for right, one in zip(truth, said, strict=True) for label in right & one)
    wanted = Counter(label for right in truth for label in right)
    given = Counter(label for one in said for label in one)
    taken = [name for name in names if wanted[name] or given[name]]
    total = (hits.total(), given.total(), wanted.total())
    return {
        "accuracy": float(np.mean([right == one for right, one in zip(truth, said, strict=True)])),
        "micro_precision": total[0] / total[1] if total[1] else 0.0,
        "micro_recall": total[0] / total[2] if total[2] else 0.0,
        "micro_f1": f1(*total),
        "macro_f1": float(np.mean([f1(hits[n], given[n], wanted[n]) for n in taken])) if taken else 0.0,
    }


def multi_label(scorer: Scorer, judged: Sequence[Judged], base: Sequence[Judged]) -> Measures:
    """Return the measures of all labels together, and the F1 of each."""
    del base
    if not isinstance(scorer, MultiLabel):
        return {}
    truth = [frozenset(labels_in(row.item.answer)) for row in judged]
    said = [_listed(row.scores[OWN].reply) for row in judged]
    found = multi_labelled(truth, said, scorer.labels)
    for name in scorer.labels:
        own = [(name in right, name in one) for right, one in zip(truth, said, strict=True)]
        wanted, given = (sum(side) for side in zip(*own, strict=True))
        if wanted or given:
            found[f"f1_{name}"] = f1(sum(right and one for right, one in own), given, wanted)
    return found


@lru_cache(1 << 16)  # each draw of the bootstrap reads the same replies
def _listed(reply: str) -> frozenset[str]:
    return frozenset(labels_in(reply))


def confusion(truth: Sequence[str], said: Sequence[str]) -> Mapping[tuple[str, str], int]:
    """Return the number of items by (right label, label that the model gave)."""
    return Counter(zip(truth, said, strict=True))


def roc_auc(truth: Sequence[str], chances: Sequence[Mapping[str, float]], names: Sequence[str]) -> float | None:
    """Return the area under the ROC curve, as a mean over the labels; None if all items have the same label.

    For one label, it is the probability that an item with this label has a higher value in `chances` than an item
    without it. Equal values count half.
    """
    from scipy.stats import rankdata

    found = []
    for name in names:
        right = np.array([label == name for label in truth])
        positive, negative = int(right.sum()), int((~right).sum())
        if positive and negative:
            ranks = rankdata([table.get(name, 0.0) for table in chances])
            found.append((ranks[right].sum() - positive * (positive + 1) / 2) / (positive * negative))
    return float(np.mean(found)) if found else None


def entities(scorer: Scorer, judged: Sequence[Judged], base: Sequence[Judged]) -> Measures:
    """Return precision, recall and F1 over the entities of all items."""
    del scorer, base
    hits, found, wanted = (float(column(judged, name).sum()) for name in ("hits", "found", "wanted"))
    rates = {"micro_precision": hits / found if found else 0.0, "micro_recall": hits / wanted if wanted else 0.0}
    return {**rates, "micro_f1": f1(hits, found, wanted)}


def squad(scorer: Scorer, judged: Sequence[Judged], base: Sequence[Judged]) -> Measures:
    """Return the share of exact answers, and the measures of items with and without an answer if there are both."""
    del base
    if not isinstance(scorer, Squad) or not judged:
        return {}
    exact, answerable = column(judged, "exact").tolist(), [any(scorer.right(row.item)) for row in judged]
    return {"exact": mean(exact), **by_answer(column(judged, OWN).tolist(), exact, answerable)}


def translation(scorer: Scorer, judged: Sequence[Judged], base: Sequence[Judged]) -> Measures:
    """Return BLEU and chrF over all items, 0 to 100, as sacrebleu gives them.

    Both are computed from counts that are summed over the items.
    """
    del base
    if not isinstance(scorer, Translation):
        return {}
    tokenize = scorer.fitted([row.item for row in judged]).tokenize
    found = {}
    for name in ("bleu", "chrf"):
        counts = [_counts(name, tokenize, row.scores[OWN].reply, row.item.answers) for row in judged]
        found[name] = float(_metric(name, tokenize)._compute_score_from_stats(np.sum(counts, axis=0).tolist()).score)
    return found


@lru_cache
def _metric(name: str, tokenize: str) -> Any:  # noqa: ANN401 - sacrebleu has no common public type
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return BLEU(tokenize=tokenize) if name == "bleu" else CHRF()


@lru_cache(1 << 16)  # each draw of the bootstrap needs the counts of the same replies
def _counts(name: str, tokenize: str, said: str, answers: tuple[str, ...]) -> tuple[int, ...]:
    """Return sacrebleu's counts for one reply. Its own bootstrap sums these counts too."""
    return tuple(_metric(name, tokenize)._extract_corpus_statistics([said], [[answer] for answer in answers])[0])


def pairwise(scorer: Scorer, judged: Sequence[Judged], base: Sequence[Judged]) -> Measures:
    """Return the win rate, the win rate for equal lengths, the flip rate, and the mean length in characters."""
    del scorer
    lengths, others = column(judged, SAID), column(base, SAID)
    wins = column(judged, OWN)
    return {
        "win_rate": float(wins.mean()),
        "length_controlled_win_rate": equal_length_rate(wins, lengths - others),
        "flip_rate": float(column(judged, "flip").mean()),
        "characters": float(lengths.mean()),
    }


def equal_length_rate(wins: Floats, longer: Floats) -> float:
    """Return the win rate that replies of equal length would have.

    It is the intercept of a logistic model of the wins on tanh(difference of length / its standard deviation), fitted
    by Newton's method.

    Source: Dubois et al. 2024, arXiv:2404.04475, section 3.
    """
    spread = float(longer.std())
    if not spread:
        return float(wins.mean())
    terms = np.stack([np.ones_like(longer), np.tanh(longer / spread)], axis=1)  # [items, 2]
    weights = np.zeros(2)
    for _ in range(50):
        rate = 1 / (1 + np.exp(-terms @ weights))
        slope = terms.T @ (wins - rate) - RIDGE * weights
        curve = (terms * (rate * (1 - rate))[:, None]).T @ terms + RIDGE * np.eye(2)
        step = np.linalg.solve(curve, slope)
        weights = weights + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    return float(1 / (1 + np.exp(-weights[0])))


def harness(scorer: Scorer, judged: Sequence[Judged], base: Sequence[Judged]) -> Measures:
    """Return the metrics of a task of lm-evaluation-harness over all documents, as the harness computes them."""
    del base
    if not isinstance(scorer, Harness) or not judged:
        return {}
    names = [name for name in judged[0].scores if name != OWN]
    return {name: scorer.aggregated(name, [row.scores[name].reply for row in judged]) for name in names}


REDUCERS: Mapping[str, Callable[[Scorer, Sequence[Judged], Sequence[Judged]], Measures]] = {
    "harness": harness,
    "loss": loss,
    "labels": labels,
    "multi_label": multi_label,
    "entities": entities,
    "squad": squad,
    "translation": translation,
    "pairwise": pairwise,
}
"""Reducers by kind of scorer."""
