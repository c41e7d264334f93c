"""Backtranslation: segments, their instructions, and the five-point scale of self-curation."""

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.generation.contracts import Draft, Snapshot
from gristmill.generation.methods.backtranslation import Backtranslation, segments
from tests.fakes import ScriptedAsk

RIVER = "The Danube rises in the Black Forest and ends in a wide delta on the Black Sea."
HAN = "多瑙河发源于德国的黑森林，流经十个国家，最后在黑海形成宽阔的三角洲。"
ERROR = Reply("", "error: prompt has 9000 tokens", 0, 0)


def document(text: str, language: str = "en") -> Sample:
    return Sample(id="d", messages=(Message("user", text),), tags={"language": language, "source": "river.md"})


def seed(answer: str, language: str = "en") -> Sample:
    turns = (Message("user", "What of the Danube?"), Message("assistant", answer))
    return Sample(id="s", messages=turns, tags={"language": language})


def grades(*chances: float) -> Reply:
    return Reply("3", "stop", 9, 1, dict(zip("12345", chances, strict=True)))


def drafts(method: Backtranslation, parent: Sample, *replies: Reply | str) -> tuple[list[Draft], ScriptedAsk]:
    ask = ScriptedAsk(*replies, parents=(parent,))
    return asyncio.run(method.expand((parent,), ask, Random(0))), ask


def curated(method: Backtranslation, parent: Sample, draft: Draft, *replies: Reply) -> tuple[Draft, ScriptedAsk]:
    ask = ScriptedAsk(*replies, parents=(parent,))
    return asyncio.run(method.answer(draft, ask)), ask


def test_documents_come_before_seeds_each_once_before_any_again() -> None:
    documents = [document(str(n)) for n in range(3)]
    pools = Snapshot(0, [seed(RIVER)], documents)
    drawn = [Backtranslation().draw(pools, turn, Random(0))[0] for turn in range(4)]
    assert drawn == [*documents, documents[0]]
    assert Backtranslation().draw(Snapshot(0, [seed(RIVER)]), 7, Random(0)) == (seed(RIVER),)


@pytest.mark.parametrize(("text", "language", "head"), [(RIVER, "en", "Text: "), (HAN, "zh", "文字：")])
@pytest.mark.parametrize("make", [document, seed])
def test_the_text_becomes_the_answer_to_what_the_model_writes(
    make: Callable[[str, str], Sample], text: str, language: str, head: str
) -> None:
    parent = make(text, language)
    method = Backtranslation()
    (draft,), ask = drafts(method, parent, ' "Where does it end?" ')
    assert f"{head}{text}\n" in ask.asked[0][1]["prefix"]
    assert draft.messages == (Message("user", "Where does it end?"),) and not draft.complete
    assert draft.tags == {"language": language, "segment": f"0:{len(text)}"}
    whole, judge = curated(method, parent, draft, grades(0, 0, 0.5, 0.25, 0.25))
    assert whole.messages == (Message("user", "Where does it end?"), Message("assistant", text))
    assert judge.asked[0][1]["choices"] == ("1", "2", "3", "4", "5")
    assert "Where does it end?" in judge.asked[0][1]["prefix"] and text in judge.asked[0][1]["prefix"]
    assert whole.scores == pytest.approx({"curation": 3.75}) and whole.dropped is None


@pytest.mark.parametrize(
    ("chances", "least", "dropped"),
    [
        ((0, 0, 0, 0, 1.0), 5.0, None),  # the paper's A5
        ((0, 0, 0, 0.01, 0.99), 5.0, "backtranslation: curated away"),
        ((0, 0, 0, 1.0, 0), 4.0, None),  # the paper's A4
        ((0.25, 0, 0, 0.75, 0), 4.0, "backtranslation: curated away"),
        ((0.2, 0.2, 0.2, 0.2, 0.2), 3.0, None),
    ],
)
def test_the_threshold_is_on_the_expected_grade(chances: tuple[float, ...], least: float, dropped: str | None) -> None:
    draft = Draft((Message("user", "Where does it end?"),), {"language": "en", "segment": f"0:{len(RIVER)}"})
    whole, _ = curated(Backtranslation(min_score=least), document(RIVER), draft, grades(*chances))
    assert whole.dropped == dropped and whole.complete


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("Where does", "length", 9, 96), "instruction cut off"),
        (Reply("  ", "stop", 9, 1), "instruction is empty"),
        (Reply("?!", "stop", 9, 1), "instruction is empty"),
        (Reply(RIVER.upper(), "stop", 9, 20), "instruction is the text"),
        (Reply("The bridge is closed. It was a storm.", "stop", 9, 9), "instruction asks for nothing"),
        (ERROR, "error: prompt has 9000 tokens"),
    ],
)
def test_malformed_instructions_are_dropped(reply: Reply, reason: str) -> None:
    ((draft,), _) = drafts(Backtranslation(), document(RIVER), reply)
    assert draft.dropped == f"backtranslation: {reason}"


def test_a_refused_judgement_drops_the_pair() -> None:
    draft = Draft((Message("user", "Where does it end?"),), {"language": "en", "segment": f"0:{len(RIVER)}"})
    whole, _ = curated(Backtranslation(), document(RIVER), draft, ERROR)
    assert whole.dropped == "backtranslation: error: prompt has 9000 tokens" and not whole.scores


@pytest.mark.parametrize("text", ["", "Short.", "word " * 251, "字" * 400])
def test_texts_of_no_fitting_length_cost_no_call(text: str) -> None:
    for parent in (document(text), seed(text) if text else document(text)):
        ((draft,), ask) = drafts(Backtranslation(), parent)
        assert draft.dropped == "backtranslation: no text of fitting length" and not ask.asked


def test_documents_are_cut_at_blank_lines_and_headings() -> None:
    text = "# Rivers\n\none two three\n \nfour five six\n\nseven eight\n\n# Lakes\n\nnine ten\n\n" + "eleven " * 9
    cut = [text[begin:end] for begin, end in segments(text, 2, 6)]
    assert cut == ["one two three\n \nfour five six", "seven eight", "nine ten"]
    assert segments("", 1, 9) == [] and segments(" \n\n \n", 1, 9) == []
    assert segments("  一二三四五六  \n\n七八九", 2, 4) == [(2, 8), (12, 15)]


def test_a_long_document_makes_some_rows_in_their_order() -> None:
    text = "\n\n".join(f"{n} one two three four five six seven eight nine" for n in range(9))
    method = Backtranslation(max_words=10, max_segments=3)
    made, ask = drafts(method, document(text), "How so?", "What for?", "Why not?")
    begins = [int(draft.tags["segment"].partition(":")[0]) for draft in made]
    assert len(made) == 3 and begins == sorted(set(begins))
    whole, _ = curated(method, document(text), made[1], grades(0, 0, 1, 0, 0))
    assert whole.messages[1].text in text and whole.messages[1].text in ask.asked[1][1]["prefix"]


def test_system_sentences_tell_seeds_from_documents() -> None:
    method = Backtranslation(system_sentences=True)
    said = {}
    for name, parent in {"seed": seed(RIVER), "document": document(RIVER), "zh": document(HAN, "zh")}.items():
        (draft,), _ = drafts(method, parent, "Where does it end?")
        assert [turn.role for turn in draft.messages] == ["system", "user"]
        said[name] = draft.messages[0].text
    assert len(set(said.values())) == 3 and "web" in said["document"] and "assistant" in said["seed"]
