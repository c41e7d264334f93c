"""Models with heads in an evaluation: how they answer the requests of scorers, and how held-out rows are scored."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.io.ingest import Source
from gristmill.cluster.models.engine import Choose, Score, Write
from gristmill.training.evaluate.heads import HeadActor, HeadScorer, heads_of, require_answers
from gristmill.training.evaluate.scorers.contract import Item
from gristmill.training.evaluate.scorers.entities import Entities
from gristmill.training.evaluate.scorers.labels import Labels
from gristmill.training.evaluate.scorers.multi_label import MultiLabel
from gristmill.training.evaluate.suites.ask import Part, Questions
from gristmill.training.evaluate.suites.freeze import Suite
from gristmill.training.settings import TrainSettings
from gristmill.training.tasks import heads, reader
from gristmill.training.tasks.contracts import Task
from gristmill.training.tasks.heads import Head
from gristmill.training.tasks.question_answering import QuestionAnswering
from gristmill.training.tasks.sequence_classification import SequenceClassification
from gristmill.training.tasks.token_classification import TokenClassification
from gristmill.training.tuning.model import write_model
from tests.training.tasks.models import write
from tests.training.tasks.test_tasks import row

SOURCE = Source(path="x.jsonl")


def saved(folder: Path, task: Task, names: tuple[str, ...], biased: int | None = None) -> str:
    """Write a finished tiny model; with `biased`, its head gives every text the label of this number."""
    import torch

    base = write(folder / "base", "bert")
    model = heads.load(base, Head(task, names, 32), "fp32")
    if biased is not None:
        model.classifier.weight.data.zero_()
        model.classifier.bias.data = torch.eye(model.config.num_labels)[biased] * 2
    write_model(model, reader.tokenizer(base), [], folder, auto=heads.auto_class(task))
    heads.save(Head(task, names, 32), folder)
    return str(folder)


def opened(folder: str) -> HeadActor:
    actor = HeadActor(None, 1, "fp32", "evaluate")
    head = heads.head_of(folder)
    assert head
    actor.open(folder, head)
    return actor


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def test_a_classifier_answers_with_labels_and_their_probabilities(tmp_path: Path) -> None:
    actor = opened(saved(tmp_path, SequenceClassification(), ("bad", "good", "other"), 1))
    long = user("film " * 60)
    written, chosen, scored, empty, cut = actor.ask_all(
        [
            Write(user("a film"), max_tokens=3, seed=0),
            Choose(user("a film"), ("good", "bad", "unknown"), 0),
            Score(user("a film"), "good"),
            Write(user("  "), max_tokens=3, seed=0),
            Write(long, max_tokens=3, seed=0),
        ]
    )
    assert (written.text, written.finish, cut.text) == ("good", "stop", "good")
    share = np.exp(2) / (np.exp(2) + 1)
    assert chosen.choices == pytest.approx({"good": share, "bad": 1 - share, "unknown": 0.0})
    assert scored.finish.startswith("error: a head has no likelihood")
    assert empty.finish == "error: no text before the answer"
    assert actor.cut() == 1
    assert cut.prompt_tokens == 32


def test_a_suite_asks_a_head_the_rows_themselves_and_no_texts_without_content(tmp_path: Path) -> None:
    actor = opened(saved(tmp_path, SequenceClassification(), ("bad", "good"), 0))
    rows = [row("a film", "bad"), row("a lake", "good")]
    scorer = Labels(input=SOURCE, labels=("bad", "good"), prompt="Good or bad? {prompt}")
    items = tuple(Item(one.id, user(f"Good or bad? {one.instruction}"), one.answer) for one in rows)
    seen: list[Any] = []

    def ask(requests: Any) -> Any:
        seen.extend(requests)
        return actor.ask_all(requests)

    suite = Suite("films", "x", scorer, items, np.arange(2), {}, rows)
    judged = Questions(ask, reads_rows=True).judged(Part("p", "m", suite, 1, np.arange(2)))
    assert {request.messages for request in seen} == {rows[0].messages[:1], rows[1].messages[:1]}
    assert [one.scores[""].value for one in judged] == [1, 0]
    assert judged[0].scores[""] == judged[0].scores["raw"], "nothing is divided out"
    assert json.loads(judged[0].scores[""].reply)["bad"] == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-6)
    assert judged[0].item is items[0]


def test_a_head_of_several_labels_answers_with_a_list_that_its_scorer_reads(tmp_path: Path) -> None:
    actor = opened(saved(tmp_path, SequenceClassification(multi_label=True), ("bad", "good"), 1))
    [said] = actor.ask_all([Write(user("a film"), max_tokens=9, seed=0)])
    assert json.loads(said.text) == ["bad", "good"], "0.5 is enough"
    scores = MultiLabel(input=SOURCE, labels=("bad", "good")).score(Item("x", user("a film"), '["good"]'), [said], [])
    assert scores[""].value == pytest.approx(2 / 3) and scores["exact"].value == 0


def test_entities_and_answers_are_texts_that_their_scorers_read(tmp_path: Path) -> None:
    actor = opened(saved(tmp_path / "e", TokenClassification(), ("city",), 1))
    [said] = actor.ask_all([Write(user("in berlin"), max_tokens=9, seed=0)])
    found = [
        {"text": "in", "label": "city", "start": 0, "end": 2},
        {"text": "berlin", "label": "city", "start": 3, "end": 9},
    ]
    assert json.loads(said.text) == found
    item = Item("x", user("in berlin"), '[{"text": "berlin", "label": "city"}]')
    scores = Entities(input=SOURCE).score(item, [said], [])
    assert (scores["hits"].value, scores["found"].value) == (1, 2)
    asks = opened(saved(tmp_path / "q", QuestionAnswering(), ()))
    answer, none, choice = asks.ask_all(
        [
            Write(user("who went?\n\nanna went to the lake"), max_tokens=9, seed=0),
            Write(user("who went?"), max_tokens=9, seed=0),
            Choose(user("who went?\n\nanna went"), ("a", "b"), 0),
        ]
    )
    assert answer.text in "anna went to the lake" and answer.text
    assert none.finish == "error: no context after the question and an empty line, or in a system turn"
    assert choice.finish == "error: the head of the model does not choose among labels"


def test_held_out_rows_are_scored_by_loss_and_by_their_answers(tmp_path: Path) -> None:
    folder = saved(tmp_path, SequenceClassification(), ("bad", "good"), 1)
    settings = TrainSettings.model_validate(
        {"model": folder, "task": {"kind": "sequence_classification"}, "max_length": 32}
    )
    scorer = HeadScorer(None, 1, "fp32", settings)
    rows = [row("a film", "good"), row("a lake", "bad"), row("film " * 60, "bad"), row("a cat", "else")]
    found = scorer.open(folder, rows)
    assert found["places"].tolist() == [0, 1]
    assert found["drops"] == {"too long": 1, "label is none of train.task.labels": 1}
    scores = scorer.losses(folder)
    assert scores.summed.tolist() == pytest.approx([np.log1p(np.exp(-2)), np.log1p(np.exp(2))], abs=1e-6)
    assert scores.tokens.tolist() == [1, 1]
    assert scores.measures["accuracy"] == 0.5
    base = scorer.losses(str(tmp_path / "base"))
    assert base.mean == pytest.approx(np.log(2), abs=0.3), "a head of first values"


def test_the_base_of_a_head_is_compared_with_a_head_of_first_values(tmp_path: Path) -> None:
    tuned = saved(tmp_path, SequenceClassification(), ("bad", "good"))
    base = str(tmp_path / "base")
    found = heads_of([base, tuned], base, tuned, 7)
    assert (found[base].seed, found[tuned].seed) == (7, None)
    assert heads_of([base], base, base, 7) == {}
    require_answers({"films": Labels(input=SOURCE)}, found)


def test_a_text_of_several_turns_is_all_of_them_before_the_answer() -> None:
    turns = (Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    asked = SequenceClassification().asked(Sample("x", (*turns, Message("assistant", "label"))))
    assert asked.text == "s\n\na\n\nb\n\nc"
