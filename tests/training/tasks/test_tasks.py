"""What the tasks read of a row: labels of tokens, places of answers, windows; and what they answer."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gristmill.cluster.contract.sample import Message, Sample, seed
from gristmill.cluster.text import spans as marks
from gristmill.cluster.text.spans import Span
from gristmill.training.evaluate.scorers.multi_label import labels_in
from gristmill.training.settings import TrainSettings
from gristmill.training.tasks import heads, reader
from gristmill.training.tasks.contracts import IGNORED, Answered, Asked, MisfitError, Task
from gristmill.training.tasks.prepare import encode
from gristmill.training.tasks.question_answering import QuestionAnswering
from gristmill.training.tasks.sequence_classification import SequenceClassification
from gristmill.training.tasks.token_classification import TokenClassification, entities, span_measures, spans_of

LIVES = "Anna lives in Berlin."


def row(text: str, answer: Any, **tags: str) -> Sample:
    said = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    return seed([Message("user", text), Message("assistant", said)], tags)


def encoded(base: str, task: Task, rows: Sequence[Sample], **settings: Any) -> Any:
    job = TrainSettings.model_validate({"model": base, "task": task, "max_length": 64, **settings})
    return encode(task, reader.tokenizer(base), rows, list(task.names(rows)), job)


def tagged(base: str, text: str, answer: Any, **settings: Any) -> list[tuple[str, str]]:
    """Return (token, label) of all tokens that are trained on."""
    task, rows = TokenClassification(**settings.pop("task", {})), [row(text, answer)]
    tok, found = reader.tokenizer(base), encoded(base, task, rows, **settings)
    assert not found.drops, found.drops
    outputs = task.outputs(task.names(rows))
    pairs = []
    for window, labels, trained in found.windows[0]:
        names = tok.convert_ids_to_tokens(window.ids)
        mine = [(name, outputs[n]) for name, n in zip(names, labels, strict=True) if n != IGNORED]
        assert len(mine) == trained
        pairs += mine
    return pairs


def test_the_tokens_of_an_entity_are_labelled_by_hand_in_english(bases: dict[str, str]) -> None:
    spans = [{"text": "Anna", "label": "person", "start": 0}, {"text": "Berlin", "label": "city", "start": 14}]
    wanted = [("anna", "B-person"), ("lives", "O"), ("in", "O"), ("berlin", "B-city"), (".", "O")]
    assert tagged(bases["bert"], LIVES, spans) == wanted
    assert tagged(bases["bert"], LIVES, "[Anna](person) lives in [Berlin](city).") == wanted
    assert tagged(bases["bert"], LIVES, {"person": ["Anna"], "city": ["Berlin"]}) == wanted
    assert tagged(bases["bert"], "Joe lives.", [{"text": "Joe", "label": "person"}])[:4] == [
        ("j", "B-person"), ("##o", "I-person"), ("##e", "I-person"), ("lives", "O"),
    ]  # fmt: skip
    assert tagged(bases["bert"], LIVES, []) == [(token, "O") for token, _ in wanted]


def test_the_tokens_of_an_entity_are_labelled_by_hand_in_chinese(bases: dict[str, str]) -> None:
    text, spans = "李娜去过上海。", [{"text": "李娜", "label": "人"}, {"text": "上海", "label": "地"}]
    wanted = [("李", "B-人"), ("娜", "I-人"), ("去", "O"), ("过", "O"), ("上", "B-地"), ("海", "I-地"), ("[UNK]", "O")]
    assert tagged(bases["bert"], text, spans) == wanted
    xlm = dict(tagged(bases["xlm-roberta"], text, spans))
    assert (xlm["上海"], xlm["娜"], xlm["过"]) == ("B-地", "I-人", "O")


@pytest.mark.parametrize("base", ["bert", "xlm-roberta", "llama"])
@pytest.mark.parametrize(
    "text", ["Anna lives in Berlin, Anna said.", "李娜去过上海，李娜去过。", "the  Anna\tBerlin 上海 "]
)
def test_what_is_labelled_is_read_back_as_the_same_entities(bases: dict[str, str], base: str, text: str) -> None:
    words = [(w, n) for w, n in (("Anna", "p"), ("Berlin", "c"), ("李娜", "p"), ("上海", "c")) if w in text]
    sample = row(text, [{"text": w, "label": n} for w, n in words])
    task = TokenClassification()
    names = list(task.names([sample]))
    found = encoded(bases[base], task, [sample], max_length=512)
    outputs = np.eye(len(task.outputs(names)))
    logits = [outputs[[max(n, 0) for n in labels]] for _, labels, _ in found.windows[0]]
    answer = task.answer(logits, task.asked(sample), [one.window for one in found.windows[0]], names)
    assert [(e["text"], e["label"], e["start"]) for e in json.loads(answer.text)] == [
        (w, n, text.index(w)) for w, n in sorted(words, key=lambda pair: text.index(pair[0]))
    ]
    assert task.measures([sample], [answer], names)["micro_f1"] == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([{"text": "Paris", "label": "city"}], "an entity is not in the text"),
        ([{"text": "lin", "label": "city"}], "an entity begins or ends inside of a token"),
        ([{"text": "Anna lives", "label": "a"}, {"text": "Anna", "label": "b"}], "entities overlap"),
        ("nobody", "answer has no entities in JSON or marks"),
        ([{"label": "city"}], "an entity has no text or no label"),
        ("[Anna](person) lives in [Paris](city).", "text with marks is another text than the one before the answer"),
    ],
)
def test_entities_that_do_not_fit_are_dropped_with_the_reason(bases: dict[str, str], answer: Any, reason: str) -> None:
    rows = [row(LIVES, [{"text": "Anna", "label": "a"}, {"text": "Berlin", "label": "b"}]), row(LIVES, answer)]
    found = encoded(bases["bert"], TokenClassification(), rows)
    assert found.drops == {reason: 1}
    assert found.places.tolist() == [0]


def test_words_without_a_place_are_looked_for_in_order_and_places_may_count_from_the_last_paragraph() -> None:
    twice = [{"text": "Anna", "label": "p"}, {"text": "Anna", "label": "p"}]
    assert [span.start for span in spans_of("Anna and Anna", json.dumps(twice))] == [0, 9]
    text = "Mark the names.\n\nAnna lives."
    assert [span.start for span in spans_of(text, json.dumps([{"text": "Anna", "label": "p", "start": 0}]))] == [17]
    with pytest.raises(MisfitError, match="entities overlap"):
        spans_of("Anna", json.dumps(twice))


def test_entities_are_read_from_labels_as_seqeval_does() -> None:
    """The cases of `get_entities` in the README of seqeval, and the two that conlleval forgives."""
    words = [(0, 1), (2, 3), (4, 5), (6, 7)]
    said = {
        ("B-PER", "I-PER", "O", "B-LOC"): [("PER", 0, 3), ("LOC", 6, 7)],
        ("O", "I-PER", "I-PER", "O"): [("PER", 2, 5)],
        ("B-PER", "I-LOC", "B-LOC", "B-LOC"): [("PER", 0, 1), ("LOC", 2, 3), ("LOC", 4, 5), ("LOC", 6, 7)],
    }
    for tags, wanted in said.items():
        found = entities("a b c d", tags, words)
        assert [(span.label, span.start, span.end) for span in found] == wanted
    text = "a b c d"
    truth = [entities(text, ("O", "O", "O", "B-MISC"), words), entities(text, ("B-PER", "I-PER", "O", "O"), words)]
    guess = [entities(text, ("O", "O", "B-MISC", "I-MISC"), words), entities(text, ("B-PER", "I-PER", "O", "O"), words)]
    assert span_measures(truth, guess, ["MISC", "PER"]) == {
        "micro_precision": 0.5, "micro_recall": 0.5, "micro_f1": 0.5, "macro_f1": 0.5,
    }  # fmt: skip


def test_the_bytes_of_one_character_are_never_two_entities() -> None:
    """Tokens of a sentence in bytes have the same range; an untrained head labels them at will."""
    text, ranges = "李 of 上海", [(0, 1), (0, 1), (2, 4), (5, 6), (5, 6), (6, 7)]
    for tags in itertools.product(("O", "B-city", "I-city", "B-name"), repeat=len(ranges)):
        found = entities(text, tags, ranges)
        assert spans_of(text, marks.dumps(found)) == found, tags
    kept = entities(text, ("O", "O", "O", "B-city", "O", "I-city"), ranges)
    assert kept == [Span("上海", "city", 5, 7)]


def test_long_texts_are_read_in_windows_and_each_token_is_trained_on_once(bases: dict[str, str]) -> None:
    text = "anna went to the blue lake in berlin " * 8
    spans = [{"text": "anna", "label": "p"}] * 8
    whole = tagged(bases["bert"], text, spans, max_length=128)
    for stride in (0, 5, 9):
        assert tagged(bases["bert"], text, spans, max_length=20, task={"stride": stride}) == whole
    task = TokenClassification(stride=6)
    found = encoded(bases["bert"], task, [row(text, spans)], max_length=20)
    assert max(len(one.window.ids) for one in found.windows[0]) == 20
    assert len(found.windows[0]) == 5, "64 tokens, 18 at a time, 12 further each"
    assert list(found.notes.values()) == [1]


def test_special_tokens_in_a_text_are_text(bases: dict[str, str]) -> None:
    tok = reader.tokenizer(bases["bert"])
    made = next(reader.Reader(tok, 64).read(SequenceClassification(), [Asked("anna [SEP] went")], truncate=False))
    assert not isinstance(made[0], str)
    assert tok.convert_ids_to_tokens(made[0].ids) == ["[CLS]", "anna", "[", "s", "##e", "##p", "]", "went", "[SEP]"]


@pytest.mark.parametrize("base", ["bert", "distilbert", "xlm-roberta", "llama"])
def test_windows_are_what_the_tokenizer_itself_makes(bases: dict[str, str], base: str) -> None:
    tok = reader.tokenizer(bases[base])
    read = reader.Reader(tok, 64)
    for question, text in (("", "Anna lives in 上海."), ("Who went?", "Anna went to the lake.")):
        made = next(read.read(QuestionAnswering(), [Asked(text, question)], truncate=False))
        assert not isinstance(made[0], str)
        own = tok(*((question, text) if question else (text,)), return_token_type_ids=True)
        assert made[0].ids == own["input_ids"]
        assert made[0].types == own["token_type_ids"]


def test_the_answer_to_a_question_is_found_in_its_window(bases: dict[str, str]) -> None:
    context = "anna went to the lake . " * 6 + "the red cat lives in paris . " + "the lake is blue . " * 6
    sample = row(f"Who lives in Paris?\n\n{context}", "the red cat")
    task = QuestionAnswering(stride=8)
    found = encoded(bases["bert"], task, [sample], max_length=32)
    tok, held = reader.tokenizer(bases["bert"]), 0
    for window, labels, trained in found.windows[0]:
        assert trained == 1
        if labels != [0, 0]:
            held += 1
            assert tok.decode(window.ids[labels[0] : labels[1] + 1]) == "the red cat"
            assert window.types[labels[0]] == 1, "it is in the context"
    assert held >= 1
    assert len(found.windows[0]) > 3
    windows = [one.window for one in found.windows[0]]
    logits = []
    for window, labels, _ in found.windows[0]:
        values = np.zeros((len(window.ids), 2))
        values[labels[0], 0] += 5 * (labels[0] > 0)
        values[labels[1], 1] += 5 * (labels[1] > 0)
        logits.append(values)
    assert task.answer(logits, task.asked(sample), windows, ()).text == "the red cat"
    short = QuestionAnswering(max_answer_tokens=2)
    assert len(short.answer(logits, task.asked(sample), windows, ()).text.split()) <= 2


def test_chinese_answers_are_found_by_characters(bases: dict[str, str]) -> None:
    sample = row("谁去过上海？\n\n李娜去过上海。他去过北京。", "李娜")
    found = encoded(bases["bert"], QuestionAnswering(), [sample])
    [[one]] = found.windows
    assert [one.window.ranges[place] for place in one.labels] == [(0, 1), (1, 2)]


def test_rows_without_an_answer_in_the_context_are_dropped_with_the_reason(bases: dict[str, str]) -> None:
    rows = [
        row("Who?\n\nAnna lives. Anna went.", "Anna", answer_start="12"),
        row("Who?\n\nAnna lives.", "the cat"),
        row("Who lives in Paris?", "Anna"),
        row("Who?\n\n  ", "Anna"),
        row("Where?\n\nAnna lives.", "none"),
        row(f"{'who ' * 70}?\n\nAnna lives.", "Anna"),
    ]
    found = encoded(bases["bert"], QuestionAnswering(no_answer="none"), rows)
    assert found.places.tolist() == [0, 4]
    assert found.drops == {
        "answer is not in the context": 1,
        "no context after the question and an empty line, or in a system turn": 2,
        "question has no room for a context": 1,
    }
    [[first], [none]] = found.windows
    assert first.window.ranges[first.labels[0]] == (12, 16)
    assert none.labels == [0, 0]
    task = QuestionAnswering(no_answer="none")
    flat = np.zeros((len(first.window.ids), 2))
    flat[0] = 3
    assert task.answer([flat], Asked("Anna lives. Anna went."), [first.window], ()).text == "none"
    assert QuestionAnswering().answer([flat], Asked("Anna lives. Anna went."), [first.window], ()).text != "none"


def test_the_context_may_be_a_system_turn() -> None:
    """With an empty line after the question, the context is after it, and a system turn is only an instruction."""
    task = QuestionAnswering()
    said = Message("assistant", "Anna")
    grounded = seed([Message("system", "Joe sings.\n\nAnna lives."), Message("user", "Who lives?"), said], {})
    assert task.asked(grounded) == Asked("Joe sings.\n\nAnna lives.", "Who lives?")
    told = seed([Message("system", "Be short."), Message("user", "Who lives?\n\nAnna lives."), said], {})
    assert task.asked(told) == Asked("Anna lives.", "Who lives?")


def test_labels_are_numbered_and_unknown_or_long_ones_dropped(bases: dict[str, str]) -> None:
    rows = [row("good film", "good"), row("bad film", " bad "), row("film " * 70, "bad"), row("a film", "fine")]
    task = SequenceClassification(labels=("good", "bad"))
    found = encoded(bases["bert"], task, rows)
    assert [windows[0].labels for windows in found.windows] == [[0], [1]]
    assert found.drops == {"too long": 1, "label is none of train.task.labels": 1}
    cut = encoded(bases["bert"], SequenceClassification(), rows, too_long="truncate")
    assert [windows[0].labels for windows in cut.windows] == [[2], [0], [0], [1]], "in alphabetical order"
    assert len(cut.windows[2][0].window.ids) == 64
    assert cut.notes == {"texts cut off at max_length": 1}


def test_several_labels_are_a_list(bases: dict[str, str]) -> None:
    rows = [row("good film", ["b", "a"]), row("bad film", "c"), row("poor film", [])]
    found = encoded(bases["bert"], SequenceClassification(multi_label=True), rows)
    assert [windows[0].labels for windows in found.windows] == [[1, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert labels_in('["a", 1]') == ["a", "1"]
    assert labels_in("[a") == ["[a"]
    task = SequenceClassification(multi_label=True, threshold=0.4)
    answer = task.answer([np.array([0.0, -0.1, -2.0])], Asked("x"), [], ["a", "b", "c"])
    assert json.loads(answer.text) == ["a", "b"]
    assert answer.choices["a"] == 0.5


def test_measures_of_several_labels_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import f1_score, precision_recall_fscore_support, roc_auc_score

    rng = np.random.default_rng(0)
    truth, chances = rng.random((40, 3)) < 0.4, rng.random((40, 3))
    said = chances >= 0.5
    names = ["a", "b", "c"]

    def listed(row: Any) -> list[str]:
        return [name for name, there in zip(names, row, strict=True) if there]

    rows = [row("x", listed(each)) for each in truth]
    answers = [
        Answered(json.dumps(listed(each)), dict(zip(names, chance.tolist(), strict=True)))
        for each, chance in zip(said, chances, strict=True)
    ]
    found = SequenceClassification(multi_label=True).measures(rows, answers, names)
    micro = precision_recall_fscore_support(truth, said, average="micro")
    assert found["accuracy"] == (truth == said).all(axis=1).mean()
    assert [found[f"micro_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(micro[:3])
    assert found["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro"))
    assert found["roc_auc"] == pytest.approx(roc_auc_score(truth, chances))


def test_measures_of_answers_are_those_of_squad() -> None:
    from transformers.data.metrics.squad_metrics import compute_exact, compute_f1

    pairs = [("the red cat", "red cat"), ("a cat in Paris", "the cat"), ("", "cat"), ("Anna!", "anna")]
    rows, answers = [row("x", right) for _, right in pairs], [Answered(said) for said, _ in pairs]
    found = QuestionAnswering().measures(rows, answers, ())
    assert found["f1"] == pytest.approx(np.mean([compute_f1(right, said) for said, right in pairs]))
    assert found["exact"] == np.mean([compute_exact(right, said) for said, right in pairs])
    several = row("x", "cat", answers='["cat", "the red cat"]')
    assert QuestionAnswering().measures([several], [Answered("red cat")], ())["exact"] == 1


def test_an_instruction_before_the_text_is_removed(bases: dict[str, str]) -> None:
    task = SequenceClassification(instruction="Good or bad?")
    rows = [row("Good or bad?\n\ngood film", "good"), row("bad film", "bad")]
    assert [task.asked(one).text for one in rows] == ["good film", "bad film"]
    assert encoded(bases["bert"], task, rows).notes == {"rows without the instruction of train.task.instruction": 1}


def test_a_head_is_described_in_its_model_and_read_from_models_of_others(bases: dict[str, str], tmp_path: Any) -> None:
    head = heads.Head(TokenClassification(stride=7), ("city", "人"), 40)
    heads.save(head, tmp_path)
    assert heads.head_of(str(tmp_path)) == head
    assert heads.head_of(bases["bert"]) is None
    own = {
        "architectures": ["XLMRobertaForTokenClassification"], "model_type": "xlm-roberta", "pad_token_id": 1,
        "id2label": {"0": "O", "1": "B-PER", "2": "I-PER", "10": "B-LOC"}, "max_position_embeddings": 514,
    }  # fmt: skip
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(own))
    found = heads.head_of(str(other))
    assert found is not None
    assert (found.task.kind, found.names, found.max_length) == ("token_classification", ("PER", "LOC"), 512)
