"""Reducers: pure functions that compute measures over all items of a suite.

The values and replies of some items become numbers, as soon as these items are judged. The measures are computed from
the numbers of all items alone, so that neither texts nor replies of a whole suite are in memory.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

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
Numbers = Mapping[str, NDArray[Any]]
"""Numbers of items by name, each [items, …]. The name of the own value is empty."""
NO_LABEL = "(none)"
"""The label that counts for a reply without any label."""
RIDGE = 1e-3
"""Weight of the penalty that keeps the fitted win rate finite if one model always wins."""


class Reducer(NamedTuple):
    """How the measures of a kind of suite are computed."""

    numbers: Callable[[Scorer, Sequence[Judged]], dict[str, NDArray[Any]]]
    """Returns what the measures need of some judged items. No value of them is null."""
    measures: Callable[[Scorer, Numbers, Numbers], Measures]
    """Returns the measures from the numbers of all items, and from those of the base model for the same items."""


def numbers(scorer: Scorer, judged: Sequence[Judged]) -> dict[str, NDArray[Any]]:
    """Return what the measures of a suite need of some judged items, of which no value is null."""
    return REDUCERS.get(scorer.kind, PLAIN).numbers(scorer, judged)


def measures(scorer: Scorer, mine: Numbers, base: Numbers) -> Measures:
    """Return the measures of a suite for one model; without a reducer for the scorer, the means of its further values.

    Args:
        scorer: the suite's scorer.
        mine: the model's numbers of all items.
        base: the base model's numbers of the same items.
    """
    return REDUCERS.get(scorer.kind, PLAIN).measures(scorer, mine, base)


def plain(scorer: Scorer, judged: Sequence[Judged]) -> dict[str, NDArray[Any]]:
    """Return the values by their names."""
    del scorer
    names = dict.fromkeys(name for row in judged for name in row.scores)
    return {
        name: np.array([row.scores[name].value if name in row.scores else np.nan for row in judged], np.float64)
        for name in names
    }


def means(scorer: Scorer, mine: Numbers, base: Numbers) -> Measures:
    """Return the means of the further values."""
    del scorer, base
    return {name: float(np.nanmean(values)) for name, values in mine.items() if name != OWN}


def loss(scorer: Scorer, mine: Numbers, base: Numbers) -> Measures:
    """Return the mean loss over all tokens, in nats, and its perplexity."""
    del scorer, base
    tokens = mine["tokens"]
    nats = -float((mine[OWN] * tokens).sum() / tokens.sum())
    return {"loss": nats, "perplexity": math.exp(min(nats, 700.0))}


def label_numbers(scorer: Scorer, judged: Sequence[Judged]) -> dict[str, NDArray[Any]]:
    """Return the own value; the indices of the right label and of the label that the model gives in each way of asking.

    The index of no label is -1. `chances` are the probabilities of the labels, [items, labels].
    """
    if not isinstance(scorer, Labels):
        return plain(scorer, judged)
    place = {name: n for n, name in enumerate(scorer.labels)}
    tables = {name: [json.loads(row.scores[name].reply) for row in judged] for name in (OWN, "raw")}
    written = [place.get(label_in(row.scores["written"].reply, scorer.labels) or "", -1) for row in judged]
    return {
        OWN: np.array([row.scores[OWN].value for row in judged], np.float64),
        "truth": _indices([place.get(row.item.answer, -1) for row in judged]),
        "said": _indices([place.get(likeliest(table), -1) for table in tables[OWN]]),
        "raw": _indices([place.get(likeliest(table), -1) for table in tables["raw"]]),
        "written": _indices(written),
        "chances": np.array([[table.get(name, 0.0) for name in scorer.labels] for table in tables[OWN]], np.float64),
    }


def _indices(values: Sequence[int]) -> Floats:
    return np.array(values, np.float64)


def labels(scorer: Scorer, mine: Numbers, base: Numbers) -> Measures:
    """Return accuracy, precision, recall and F1 of each way of asking, and ROC-AUC by the labels' probabilities."""
    del base
    if not isinstance(scorer, Labels):
        return {}
    found: Measures = {}
    for name in ("said", "raw", "written"):
        rates = _rates(*_counted(mine["truth"], mine[name], len(scorer.labels)), len(mine["truth"]))
        if name != "written":  # each item has a label, and the micro averages are all the accuracy
            rates = {key: value for key, value in rates.items() if not key.startswith("micro")}
        found |= {key if name == "said" else f"{name}_{key}": value for key, value in rates.items()}
    auc = _area(mine["truth"], mine["chances"])
    return found if auc is None else {**found, "roc_auc": auc}


def _counted(truth: Floats, said: Floats, count: int) -> tuple[Floats, Floats, Floats]:
    """Return, by label, the numbers of right answers, of items with the label, and of answers with it."""
    known = truth >= 0
    each = (truth[known & (truth == said)], truth[known], said[said >= 0])
    hits, wanted, given = (np.bincount(one.astype(np.int64), minlength=count).astype(np.float64) for one in each)
    return hits, wanted, given


def _rates(hits: Floats, wanted: Floats, given: Floats, total: int) -> Measures:
    """Return accuracy, and precision, recall and F1 as means over the labels (macro) and over all decisions (micro)."""
    taken = (wanted > 0) | (given > 0)
    hit, want, give = hits[taken], wanted[taken], given[taken]
    none = np.zeros_like(hit)
    each = {
        "precision": np.divide(hit, give, out=none.copy(), where=give > 0),
        "recall": np.divide(hit, want, out=none.copy(), where=want > 0),
        "f1": 2 * hit / (give + want),
    }
    right, decided = float(hits.sum()), float(given.sum())
    return {
        "accuracy": right / total,
        **{f"macro_{name}": float(values.mean()) for name, values in each.items()},
        "micro_precision": right / decided if decided else 0.0,
        "micro_recall": right / total,
        "micro_f1": f1(right, decided, total),
    }


def classified(truth: Sequence[str], said: Sequence[str], names: Sequence[str]) -> Measures:
    """Return accuracy, and precision, recall and F1 as means over the labels (macro) and over all decisions (micro).

    A reply without a label counts as a wrong one. Labels that no item has and no reply gives are left out.
    """
    place = {name: n for n, name in enumerate(names)}
    right, given = (_indices([place.get(name, -1) for name in side]) for side in (truth, said))
    return _rates(*_counted(right, given, len(names)), len(truth))


def multi_labelled(truth: Sequence[frozenset[str]], said: Sequence[frozenset[str]], names: Sequence[str]) -> Measures:
    """Return subset accuracy, and precision, recall and F1 over all decisions (micro) and as means over labels (macro).

    A label that no text has and no answer has is left out of the means. A label that is none of `names` counts as a
    wrong decision.
    """
    right, there = (np.array([[name in one for name in names] for one in side], np.float64) for side in (truth, said))
    return _decisions(right, there, np.array([len(one.difference(names)) for one in said], np.float64))


def multi_label_numbers(scorer: Scorer, judged: Sequence[Judged]) -> dict[str, NDArray[Any]]:
    """Return the own value, and whether each label is right and is said, [items, labels].

    The last column of `said` is the number of labels that are none of the suite.
    """
    if not isinstance(scorer, MultiLabel):
        return plain(scorer, judged)
    right = [frozenset(labels_in(row.item.answer)) for row in judged]
    said = [frozenset(labels_in(row.scores[OWN].reply)) for row in judged]
    other = [len(one.difference(scorer.labels)) for one in said]
    there = [[name in one for name in scorer.labels] for one in said]
    return {
        OWN: np.array([row.scores[OWN].value for row in judged], np.float64),
        "right": np.array([[name in one for name in scorer.labels] for one in right], np.float64),
        "said": np.array([[*one, count] for one, count in zip(there, other, strict=True)], np.float64),
    }


def multi_label(scorer: Scorer, mine: Numbers, base: Numbers) -> Measures:
    """Return the measures of all labels together, and the F1 of each."""
    del base
    if not isinstance(scorer, MultiLabel):
        return {}
    right, said, other = mine["right"], mine["said"][:, :-1], mine["said"][:, -1]
    found = _decisions(right, said, other)
    for name, hits, wanted, given in zip(scorer.labels, *_by_label(right, said), strict=True):
        if wanted or given:
            found[f"f1_{name}"] = f1(hits, given, wanted)
    return found


def _by_label(right: Floats, said: Floats) -> tuple[Floats, Floats, Floats]:
    return (right * said).sum(axis=0), right.sum(axis=0), said.sum(axis=0)


def _decisions(right: Floats, said: Floats, other: Floats) -> Measures:
    """Return the measures of several labels. `other` has the number of labels of each answer that are no labels."""
    hits, wanted, given = _by_label(right, said)
    taken = (wanted > 0) | (given > 0)
    each = 2 * hits[taken] / (wanted[taken] + given[taken])
    total = float(hits.sum()), float(given.sum() + other.sum()), float(wanted.sum())
    return {
        "accuracy": float(((right == said).all(axis=1) & (other == 0)).mean()),
        "micro_precision": total[0] / total[1] if total[1] else 0.0,
        "micro_recall": total[0] / total[2] if total[2] else 0.0,
        "micro_f1": f1(*total),
        "macro_f1": float(each.mean()) if len(each) else 0.0,
    }


def roc_auc(truth: Sequence[str], chances: Sequence[Mapping[str, float]], names: Sequence[str]) -> float | None:
    """Return the area under the ROC curve, as a mean over the labels; None if all items have the same label.

    For one label, it is the probability that an item with this label has a higher value in `chances` than an item
    without it. Equal values count half.
    """
    place = {name: n for n, name in enumerate(names)}
    right = _indices([place.get(label, -1) for label in truth])
    return _area(right, np.array([[table.get(name, 0.0) for name in names] for table in chances], np.float64))


def _area(truth: Floats, chances: Floats) -> float | None:
    """Return the area under the ROC curve; arguments are label indices, [items], and probabilities, [items, labels]."""
    from scipy.stats import rankdata

    found = []
    for label in range(chances.shape[1]):
        right = truth == label
        positive, negative = int(right.sum()), int((~right).sum())
        if positive and negative:
            ranks = rankdata(chances[:, label])
            found.append((ranks[right].sum() - positive * (positive + 1) / 2) / (positive * negative))
    return float(np.mean(found)) if found else None


def entities(scorer: Scorer, mine: Numbers, base: Numbers) -> Measures:
    """Return precision, recall and F1 over the entities of all items."""
    del scorer, base
    hits, found, wanted = (float(mine[name].sum()) for name in ("hits", "found", "wanted"))
    rates = {"micro_precision": hits / found if found else 0.0, "micro_recall": hits / wanted if wanted else 0.0}
    return {**rates, "micro_f1": f1(hits, found, wanted)}


def squad_numbers(scorer: Scorer, judged: Sequence[Judged]) -> dict[str, NDArray[Any]]:
    """Return the values, and whether each item has an answer."""
    has = [isinstance(scorer, Squad) and any(scorer.right(row.item)) for row in judged]
    return {**plain(scorer, judged), "answerable": np.array(has, np.float64)}


def squad(scorer: Scorer, mine: Numbers, base: Numbers) -> Measures:
    """Return the share of exact answers, and the measures of items with and without an answer if there are both."""
    del scorer, base
    by_kind = by_answer(mine[OWN].tolist(), mine["exact"].tolist(), (mine["answerable"] == 1).tolist())
    return {"exact": float(mine["exact"].mean()), **by_kind}


def translation_numbers(scorer: Scorer, judged: Sequence[Judged]) -> dict[str, NDArray[Any]]:
    """Return the own value, and the counts of sacrebleu for BLEU and chrF, [items, counts].

    sacrebleu's own bootstrap sums these counts too.
    """
    found = plain(scorer, judged)
    if isinstance(scorer, Translation):
        for name in ("bleu", "chrf"):
            metric = _metric(name, _tokenize(scorer))
            counts = [
                metric._extract_corpus_statistics([row.scores[OWN].reply], [[one] for one in row.item.answers])[0]
                for row in judged
            ]
            found[name] = np.array(counts, np.float64)
    return found


def translation(scorer: Scorer, mine: Numbers, base: Numbers) -> Measures:
    """Return BLEU and chrF over all items, 0 to 100, as sacrebleu gives them."""
    del base
    if not isinstance(scorer, Translation):
        return {}
    return {
        name: float(
            _metric(name, _tokenize(scorer))
            ._compute_score_from_stats(mine[name].sum(axis=0).astype(np.int64).tolist())
            .score
        )
        for name in ("bleu", "chrf")
    }


def _tokenize(scorer: Translation) -> str:
    """Return the way to split texts into words, which a frozen suite has found out from its items."""
    return "13a" if scorer.tokenize == "auto" else scorer.tokenize


@lru_cache
def _metric(name: str, tokenize: str) -> Any:  # noqa: ANN401 - sacrebleu has no common public type
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return BLEU(tokenize=tokenize) if name == "bleu" else CHRF()


def pairwise_numbers(scorer: Scorer, judged: Sequence[Judged]) -> dict[str, NDArray[Any]]:
    """Return the values, and in `compared` whether a judge was asked about the item, which it is not for equal replies.

    The length of the reply and the verdict are in different shards.
    """
    found = plain(scorer, judged)
    if OWN in found:
        found["compared"] = np.array([bool(row.scores[OWN].reply) for row in judged], np.float64)
    return found


def pairwise(scorer: Scorer, mine: Numbers, base: Numbers) -> Measures:
    """Return the win rate, the win rate for equal lengths, the flip rate, and the mean length in characters."""
    del scorer
    lengths, others = mine[SAID], base[SAID]
    wins = mine[OWN]
    return {
        "win_rate": float(wins.mean()),
        "length_controlled_win_rate": equal_length_rate(wins, lengths - others),
        "flip_rate": float(mine["flip"].mean()),
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


def harness_numbers(scorer: Scorer, judged: Sequence[Judged]) -> dict[str, NDArray[Any]]:
    """Return the own value, and the answers of each metric as texts, because the harness itself aggregates them."""
    names = dict.fromkeys(name for row in judged for name in row.scores if name != OWN)
    texts = {name: np.array([row.scores[name].reply for row in judged], object) for name in names}
    del scorer
    return {OWN: np.array([row.scores[OWN].value for row in judged], np.float64), **texts}


def harness(scorer: Scorer, mine: Numbers, base: Numbers) -> Measures:
    """Return the metrics of a task of lm-evaluation-harness over all documents, as the harness computes them."""
    del base
    if not isinstance(scorer, Harness):
        return {}
    return {name: scorer.aggregated(name, values.tolist()) for name, values in mine.items() if name != OWN}


PLAIN = Reducer(plain, means)
REDUCERS: Mapping[str, Reducer] = {
    "harness": Reducer(harness_numbers, harness),
    "loss": Reducer(plain, loss),
    "labels": Reducer(label_numbers, labels),
    "multi_label": Reducer(multi_label_numbers, multi_label),
    "entities": Reducer(plain, entities),
    "squad": Reducer(squad_numbers, squad),
    "translation": Reducer(translation_numbers, translation),
    "pairwise": Reducer(pairwise_numbers, pairwise),
}
"""Reducers by kind of scorer."""
