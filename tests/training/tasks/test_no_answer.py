"""Questions whose context has no answer: their labels, the threshold, and the measures of SQuAD 2.0."""

import json
from collections.abc import Sequence

import numpy as np
import pytest

from gristmill.cluster.contract.sample import Sample
from gristmill.training.tasks.contracts import Answered, Asked
from gristmill.training.tasks.question_answering import QuestionAnswering
from tests.training.tasks.test_tasks import encoded, row


def unanswered(question: str) -> Sample:
    return row(f"{question}\n\nAnna lives. Anna went.", "", answers="[]")


def test_a_row_of_squad_2_without_an_answer_has_the_first_token_as_its_label(bases: dict[str, str]) -> None:
    found = encoded(bases["bert"], QuestionAnswering(), [unanswered("Who?"), row("Who?\n\nAnna lives.", "")])
    assert found.drops == {"no answer": 1}, "an empty answer alone says nothing"
    [[one]] = found.windows
    assert one.labels == [0, 0]


def test_the_threshold_and_the_measures_are_those_of_the_script_of_squad_2() -> None:
    """The script is that in transformers. It decides equal scores one by one, so there are none here."""
    from transformers.data.metrics import squad_metrics

    class Example:
        def __init__(self, name: str, texts: Sequence[str]) -> None:
            self.qas_id, self.answers = name, [{"text": text} for text in texts]

    rng = np.random.default_rng(5)
    words = ["the red cat", "Anna", "Joe went", "lake", "a cat"]
    samples, answers, examples, said, nulls = [], [], [], {}, {}
    for n in range(60):
        right = [] if n % 3 == 0 else [words[n % 5], words[(n + 1) % 5]]
        guess = words[int(rng.integers(5))] if n % 7 else words[n % 5]
        null = float(rng.normal(1 if not right else -1, 1.5)) + 20
        samples.append(row("x", right[0] if right else "", answers=json.dumps(right)))
        answers.append(Answered(guess, words=guess, null=null))
        examples.append(Example(str(n), right))
        said[str(n)], nulls[str(n)] = guess, null
    task = QuestionAnswering().fitted(samples, answers)
    has = {one.qas_id: bool(one.answers) for one in examples}
    best, threshold = squad_metrics.find_best_thresh(said, squad_metrics.get_raw_scores(examples, said)[1], nulls, has)
    assert task.null_threshold == threshold
    found = QuestionAnswering().measures(samples, answers, ())
    assert found["f1"] == pytest.approx(best / 100)
    wanted = squad_metrics.squad_evaluate(examples, said, nulls, threshold)
    names = {"exact": "exact", "f1": "f1", "HasAns_exact": "has_answer_exact", "HasAns_f1": "has_answer_f1"}
    names |= {"NoAns_exact": "no_answer_exact", "NoAns_f1": "no_answer_exact"}
    assert {ours: found[ours] for ours in names.values()} == pytest.approx(
        {ours: wanted[theirs] / 100 for theirs, ours in names.items()}
    )
    assert found == task.measures(samples, [task.decided(one) for one in answers], ())
    assert 0 < found["no_answer_exact"] < 1, "some of both are answered, so that the comparison says something"
    fixed = QuestionAnswering(null_threshold=20.0)
    assert fixed.fitted(samples, answers) is fixed
    assert fixed.measures(samples, [fixed.decided(one) for one in answers], ())["f1"] < found["f1"]


def test_a_threshold_is_chosen_only_where_something_has_no_answer() -> None:
    lacks, has = unanswered("Who?"), row("Who?\n\nAnna lives.", "Anna")
    low, high = Answered("Anna", words="Anna", null=-3.0), Answered("Anna", words="Anna", null=2.0)
    task = QuestionAnswering()
    assert task.fitted([has, has], [low, high]) is task
    assert not task.open([has])
    assert task.open([has, lacks])
    assert task.fitted([has, lacks], [low, high]).null_threshold == -3
    assert task.fitted([lacks, lacks], [low, high]).null_threshold == -4, "every answer is that there is none"
    assert task.fitted([lacks, has, has], [low, low, high]).null_threshold == 2, "equal scores are decided alike"
    told = QuestionAnswering(no_answer="none")
    assert told.measures([row("x", "none"), has], [high, low], ())["f1"] == 1


def test_the_threshold_decides_on_the_answer(bases: dict[str, str]) -> None:
    [[one]] = encoded(bases["bert"], QuestionAnswering(), [row("Who?\n\nAnna lives.", "Anna")]).windows
    logits = np.zeros((len(one.window.ids), 2))
    logits[one.labels[0], 0] = logits[one.labels[1], 1] = 1
    logits[0] = 1.5
    asked = Asked("Anna lives.", "Who?")
    said = {
        threshold: QuestionAnswering(null_threshold=threshold).answer([logits], asked, [one.window], ())
        for threshold in (None, 0.5, 1.0)
    }
    assert {threshold: answer.text for threshold, answer in said.items()} == {None: "Anna", 0.5: "", 1.0: "Anna"}
    assert {(answer.words, answer.null) for answer in said.values()} == {("Anna", 1.0)}
    assert QuestionAnswering(no_answer="none").answer([logits], asked, [one.window], ()).text == "none"
