"""Measures over all items of a suite are those of the libraries that people know, or arithmetic by hand."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from gristmill.cluster.models.engine import Reply
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Scorer
from gristmill.training.evaluate.suites import compare, reducers
from gristmill.training.evaluate.suites.freeze import Suite
from gristmill.training.evaluate.suites.items import Judged
from tests.training.evaluate.items import gathered_of, item, says
from tests.training.evaluate.test_scorers import scorer


def test_precision_recall_and_f1_are_those_of_scikit_learn() -> None:
    """The example in the documentation of precision_recall_fscore_support, and its own values."""
    from sklearn.metrics import precision_recall_fscore_support

    truth, said = ["cat", "dog", "pig", "cat", "dog", "pig"], ["cat", "pig", "dog", "cat", "cat", "dog"]
    names = ["cat", "dog", "pig"]
    found = reducers.classified(truth, said, names)
    for average in ("macro", "micro"):
        expected = precision_recall_fscore_support(truth, said, average=average, labels=names, zero_division=0)
        assert [found[f"{average}_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(expected[:3])
    assert found["macro_f1"] == pytest.approx(0.26, abs=0.01)
    assert found["accuracy"] == pytest.approx(1 / 3)
    nothing = reducers.classified(["cat", "dog"], ["cat", reducers.NO_LABEL], ["cat", "dog"])
    assert (nothing["accuracy"], nothing["micro_precision"], nothing["micro_recall"]) == (0.5, 1, 0.5)


def test_measures_of_several_labels_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

    rng, names = np.random.default_rng(3), ["a", "b", "c", "never"]
    truth, said = rng.random((50, 4)) < 0.4, rng.random((50, 4)) < 0.4
    truth[:, 3] = said[:, 3] = False
    listed = [[[n for n, there in zip(names, row, strict=True) if there] for row in side] for side in (truth, said)]
    rows = [
        (item(f"{n}", json.dumps(right)), says(json.dumps(one)))
        for n, (right, one) in enumerate(zip(*listed, strict=True))
    ]
    judge = scorer("multi_label", labels=names)
    judged = told(judge, *rows)
    found = measured(judge, judged)
    micro = precision_recall_fscore_support(truth, said, average="micro")
    assert [found[f"micro_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(micro[:3])
    assert found["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro", zero_division=np.nan))
    each = f1_score(truth[:, :3], said[:, :3], average=None)
    assert [found[f"f1_{name}"] for name in names[:3]] == pytest.approx(each) and "f1_never" not in found
    assert found["accuracy"] == accuracy_score(truth, said)
    own = [row.scores[OWN].value for row in judged]
    assert np.mean([v or 0 for v in own]) == pytest.approx(f1_score(truth, said, average="samples", zero_division=1))
    wrong = told(judge, (item("x", '["a"]'), says('["a", "zebra"]')))
    assert measured(judge, wrong)["micro_precision"] == 0.5


def test_the_area_under_the_roc_curve_is_that_of_scikit_learn() -> None:
    chances = [{"p": p, "n": 1 - p} for p in (0.1, 0.4, 0.35, 0.8)]
    assert reducers.roc_auc(["n", "n", "p", "p"], chances, ["n", "p"]) == pytest.approx(0.75)
    assert reducers.roc_auc(["n", "n"], chances[:2], ["n"]) is None
    tied = [{"p": 0.5, "n": 0.5}] * 4
    assert reducers.roc_auc(["n", "n", "p", "p"], tied, ["n", "p"]) == 0.5


def measured(judge: Scorer, judged: Sequence[Judged]) -> dict[str, float]:
    """Return the measures; the numbers of items that are judged one by one are those of all together."""
    whole, each = reducers.numbers(judge, judged), [reducers.numbers(judge, [row]) for row in judged]
    for name, values in whole.items():
        np.testing.assert_array_equal(values, np.concatenate([one[name] for one in each]))
    return reducers.measures(judge, whole, whole)


def told(judge: Scorer, *pairs: tuple[Item, Reply]) -> list[Judged]:
    return [Judged(one, judge.score(one, [reply], ())) for one, reply in pairs]


def test_bleu_and_chrf_are_those_of_sacrebleus_readme() -> None:
    references = (
        ("The dog bit the man.", "The dog had bit the man."),
        ("It was not unexpected.", "No one was surprised."),
        ("The man bit him first.", "The man had bitten the dog."),
    )
    said = ("The dog bit the man.", "It wasn't surprising.", "The man had just bitten him.")
    judge = scorer("translation", tokenize="13a")
    pairs = [
        (item(f"{n}", right[0], answers=json.dumps(right)), says(one))
        for n, (right, one) in enumerate(zip(references, said, strict=True))
    ]
    found = measured(judge, told(judge, *pairs))
    assert found["bleu"] == pytest.approx(48.530827009929865)
    judge = scorer("translation").fitted([item("x", "狗咬了那个人。")])
    chinese = told(judge, (item("x", "狗咬了那个人。"), says("狗咬了那个人。")))
    assert measured(judge, chinese)["bleu"] == pytest.approx(100)


@pytest.mark.parametrize("chinese", [False, True])
def test_intervals_of_bleu_and_chrf_are_those_of_sacrebleus_own_bootstrap(chinese: bool) -> None:
    """sacrebleu says mean and half width of 1,000 draws of segments; here each item is a family of its own."""
    rng = np.random.default_rng(3)
    words = (
        list("我们今天在河边看见一只白色的鸟飞过")
        if chinese
        else ["we", "saw", "a", "white", "bird", "fly", "over", "the", "old", "river"]
    )
    joint = "" if chinese else " "
    right = [[joint.join(rng.choice(words, size)) for _ in range(2)] for size in rng.integers(6, 14, 60)]
    said = [joint.join(word if rng.random() < 0.8 else "x" for word in (one if chinese else one.split()))
            for one, _ in right]  # fmt: skip
    made = tuple(item(f"{n}", one[0], answers=json.dumps(one)) for n, one in enumerate(right))
    judge = scorer("translation").fitted(made)
    values = {one.id: judge.score(one, [says(reply)], ()) for one, reply in zip(made, said, strict=True)}
    suite = Suite("mine", "suite-1", judge, made, np.arange(60), {})
    gathered = gathered_of([suite], {("base", "mine"): values})
    [found] = compare.compare([suite], ["base"], gathered, {}, compare.Draws(200, 0))
    streams = [list(stream) for stream in zip(*right, strict=True)]
    theirs = {
        "bleu": corpus_bleu_of(said, streams, "zh" if chinese else "13a"),
        "chrf": CHRF().corpus_score(said, streams, n_bootstrap=1000),
    }
    for name, score in theirs.items():
        low, high = found.models[0].bounds[name]
        assert found.models[0].measures[name] == pytest.approx(score.score)
        assert (low + high) / 2 == pytest.approx(score._mean, rel=0.03)
        assert (high - low) / 2 == pytest.approx(score._ci, rel=0.25)


def corpus_bleu_of(said: Sequence[str], streams: Sequence[Sequence[str]], tokenize: str) -> Any:
    return BLEU(tokenize=tokenize).corpus_score(said, streams, n_bootstrap=1000)


def test_items_with_and_without_an_answer_are_measured_apart() -> None:
    judge = scorer("squad", no_answer="unanswerable")
    items_ = [item("a", "the red cat"), item("b", "Anna"), item("c", "", answers="[]"), item("d", "unanswerable")]
    said = ["red dog", "Anna", "unanswerable", "Joe"]
    judged = [
        Judged(one, judge.score(one, [says(reply)], [])) for one, reply in zip(items_, said, strict=True)
    ]  # fmt: skip
    found = measured(judge, judged)
    assert found == {"exact": 0.5, "has_answer_f1": 0.75, "has_answer_exact": 0.5, "no_answer_exact": 0.5}
    assert measured(judge, judged[:2]) == {"exact": 0.5}


def test_entities_are_counted_over_all_items() -> None:
    judge = scorer("entities")
    pairs = [
        (item("x", '{"PER": ["Ada"]}'), says('{"PER": ["Ada", "Bob"]}')),
        (item("y", '{"PER": ["Cy"]}'), says("[]")),
    ]
    found = measured(judge, told(judge, *pairs))
    assert found == {"micro_precision": 0.5, "micro_recall": 0.5, "micro_f1": 0.5}


def test_perplexity_is_over_tokens_not_over_items() -> None:
    judged = [
        Judged(item("x"), {OWN: Judgement(-1.0), "tokens": Judgement(3.0)}),
        Judged(item("y"), {OWN: Judgement(-2.0), "tokens": Judgement(1.0)}),
    ]
    found = measured(scorer("loss"), judged)
    assert found == {"loss": pytest.approx(1.25), "perplexity": pytest.approx(np.exp(1.25))}


def test_wins_that_come_from_length_alone_are_no_wins_at_equal_length() -> None:
    rng = np.random.default_rng(0)
    longer = rng.normal(60, 100, 4000)  # most replies of the model are longer
    wins = (rng.random(4000) < 1 / (1 + np.exp(-2 * np.tanh(longer / longer.std())))).astype(np.float64)
    assert wins.mean() > 0.6
    assert reducers.equal_length_rate(wins, longer) == pytest.approx(0.5, abs=0.03)
    assert reducers.equal_length_rate(np.ones(50), longer[:50]) > 0.9
    assert reducers.equal_length_rate(wins, np.zeros(4000)) == wins.mean()
