"""Persona: persons out of texts, persons out of persons, requests through a person."""

import asyncio
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.replies import stripped
from gristmill.cluster.text.words import tokens
from gristmill.generation.contracts import Draft, Snapshot
from gristmill.generation.methods.persona import Persona, PersonaIndex, Personas
from tests.fakes import ScriptedAsk

ENGLISH = Sample("e", (Message("user", "How do I bake rye bread?"), Message("assistant", "Slowly.")))
CHINESE = Sample("z", (Message("user", "怎样烤黑麦面包？"), Message("assistant", "慢慢烤。")))
BAKER, MILLER = " baker in a village who sells rye bread.", " miller who grinds rye in a mill by the river."
REQUEST = " List three breads that keep for a week."


NOBODY = PersonaIndex()


def drafted(
    method: Persona, *replies: Reply | str, parent: Sample = ENGLISH, used: PersonaIndex = NOBODY, seed: int = 0
) -> tuple[Draft, ScriptedAsk]:
    ask = ScriptedAsk(*replies, parents=(parent,), prepared=used)
    (draft,) = asyncio.run(method.expand((parent,), ask, Random(seed)))
    return draft, ask


def test_the_persona_of_a_text_is_a_shared_call_and_the_request_is_not() -> None:
    draft, ask = drafted(Persona(max_hops=0), BAKER, REQUEST)
    assert [bool(settings.get("shared")) for _, settings in ask.asked] == [True, False]
    assert "Text: How do I bake rye bread?\nSlowly.\nPerson: A" in ask.asked[0][1]["prefix"]
    assert ask.asked[1][1]["prefix"].endswith("Person: A baker in a village who sells rye bread.\nUser prompt:")
    assert draft.messages == (Message("user", "List three breads that keep for a week."),)
    assert dict(draft.tags) == {
        "language": "en",
        "want": "instruction",
        "persona": "A baker in a village who sells rye bread.",
        "hops": "0",
    }
    assert draft.dropped is None and not draft.complete


def test_chinese_texts_make_chinese_persons() -> None:
    draft, ask = drafted(
        Persona(max_hops=0), "在村里卖黑麦面包的面包师。", "请推荐三种能放一周的面包。", parent=CHINESE
    )
    assert ask.asked[0][1]["prefix"].endswith("人物：一位")
    assert draft.tags["persona"] == "一位在村里卖黑麦面包的面包师。"
    assert ask.asked[1][1]["prefix"].endswith("人物：一位在村里卖黑麦面包的面包师。\n用户请求：")
    assert draft.tags["language"] == "zh" and draft.dropped is None


def test_another_language_can_be_asked_for() -> None:
    draft, ask = drafted(Persona(max_hops=0, languages=("zh",)), "在村里卖面包的老面包师。", "请推荐三种面包给我。")
    assert draft.tags["language"] == "zh" and "人物" in ask.asked[0][1]["prefix"]


@pytest.mark.parametrize(("want", "marker"), [("math", "Math problem:"), ("logic", "Logic problem:")])
def test_problems_are_asked_for_with_their_marker(want: Any, marker: str) -> None:
    draft, ask = drafted(
        Persona(max_hops=0, wants=(want,)), BAKER, " A baker has 9 loaves and sells 4. How many are left?"
    )
    assert ask.asked[1][1]["prefix"].endswith(marker)
    assert draft.tags["want"] == want and draft.dropped is None


def test_hops_lead_from_person_to_person_and_are_six_at_most() -> None:
    """Section 2.2 of the paper expands a persona up to six times."""
    with pytest.raises(ValidationError):
        Persona(max_hops=7)
    seen = set()
    for seed in range(40):
        draft, ask = drafted(Persona(max_hops=2), BAKER, *([MILLER] * 2), REQUEST, REQUEST, seed=seed)
        hops = int(draft.tags["hops"])
        seen.add(hops)
        assert sum(bool(settings.get("shared")) for _, settings in ask.asked) == hops + 1
        if hops:
            assert "Person: A baker in a village who sells rye bread.\nWho: " in ask.asked[1][1]["prefix"]
    assert seen == {0, 1, 2}


def made(*personas: str) -> list[Sample]:
    return [Sample(str(n), (Message("user", "x"),), tags={"persona": persona}) for n, persona in enumerate(personas)]


def prepared(rows: list[Sample], before: PersonaIndex | None = None) -> PersonaIndex:
    return asyncio.run(Persona().prepare(Snapshot(2, made=rows), before, ScriptedAsk()))


def test_a_person_who_was_used_leads_on_to_another_or_to_a_drop() -> None:
    used = prepared(made("A baker in a village who sells rye bread"))
    hopped = [drafted(Persona(max_hops=1), BAKER, MILLER, REQUEST, used=used, seed=seed)[0] for seed in range(8)]
    assert {draft.tags["hops"] for draft in hopped} == {"1"}
    assert all(draft.tags["persona"].startswith("A miller") and draft.dropped is None for draft in hopped)
    draft, ask = drafted(Persona(max_hops=0), BAKER, used=used)
    assert draft.dropped == "persona: persona used before" and len(ask.asked) == 1


def test_near_duplicates_are_those_at_a_similarity_of_nine_tenths() -> None:
    """Section 2.3 of the paper: 0.9."""
    words = [f"w{n}" for n in range(20)]
    used = prepared(made(" ".join(words)))
    assert used.near(" ".join(words[:18]), 0.9)  # 18 of 20
    assert not used.near(" ".join(words[:17]), 0.9)
    assert not used.near(" ".join([*words[:18], "x", "y"]), 0.9)  # 18 of 22
    assert not used.near("", 0.9)
    chinese = prepared(made("一位在山谷里种菜的退休邮递员"))
    assert chinese.near("一位在山谷里种菜的退休邮递员。", 0.9)
    assert not chinese.near("一位在海边养羊的年轻兽医", 0.9)


def test_the_index_finds_what_all_pairs_find() -> None:
    rng, used, before = Random(7), PersonaIndex(), list[set[str]]()
    texts = [" ".join(rng.sample([f"w{n}" for n in range(14)], rng.randint(1, 12))) for _ in range(300)]
    found = 0
    for text in texts:
        words = set(tokens(text))
        near = any(len(words & other) / len(words | other) >= 0.8 for other in before)
        assert used.near(text, 0.8) == near
        before.append(words)
        found += near
        used = PersonaIndex((*used.layers, Personas([text])))
    assert 20 < found < 280


def test_only_new_rows_are_read_in_a_later_round_and_the_earlier_index_stays() -> None:
    first = prepared(made("A baker who bakes rye bread"))
    second = prepared(made("IGNORED", "A miller who grinds the rye"), first)
    assert (first.rows, second.rows) == (1, 2) and second.layers[0] is first.layers[0]
    assert second.near("A baker who bakes rye bread", 0.9) and second.near("A miller who grinds the rye", 0.9)
    assert not first.near("A miller who grinds the rye", 0.9) and not second.near("IGNORED", 0.9)
    again = prepared(made("A baker who bakes rye bread", "A smith who shoes the horses"), first)
    assert again.near("A smith who shoes the horses", 0.9) and not second.near("A smith who shoes the horses", 0.9)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(" baker who", "length", 9, 80), "persona cut off"),
        (Reply(" baker.", "stop", 9, 2), "persona too short"),
        (Reply("", "stop", 9, 0), "persona too short"),
        (Reply(" person. Person: a man of letters here", "stop", 9, 9), "persona repeats words of the prompt"),
        (Reply("", "error: prompt has 9000 tokens", 0, 0), "error: prompt has 9000 tokens"),
    ],
)
def test_bad_persons_are_dropped(reply: Reply, reason: str) -> None:
    draft, ask = drafted(Persona(max_hops=0), reply)
    assert draft.dropped == f"persona: {reason}" and len(ask.asked) == 1


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("List three breads that keep.", "stop", None),
        ("请推荐三种能放一周的面包。", "stop", None),
        ("Bread?", "stop", "request too short"),
        ("面包？", "stop", "request too short"),
        ("word " * 201, "stop", "request too long"),
        ("List three breads that", "length", "request cut off"),
        ("As this persona I want three breads.", "stop", "request repeats words of the prompt"),
        ("List three breads.\nUser prompt: List four breads.", "stop", "request repeats words of the prompt"),
        ("What is two and two?\nSolution: four", "stop", "request repeats words of the prompt"),
        ("二加二等于几？\n解答：四", "stop", "request repeats words of the prompt"),
        ("", "error: boom", "error: boom"),
    ],
)
def test_requests_are_validated(text: str, finish: str, reason: str | None) -> None:
    assert Persona().refusal(text, finish) == reason


@pytest.mark.parametrize(
    ("text", "marker", "left"),
    [
        (" User prompt: Name a bread.", "User prompt:", "Name a bread."),
        ('"Name a bread."', "User prompt:", "Name a bread."),
        ('"I don\'t bake rye."', "User prompt:", "I don't bake rye."),
        ('"', "User prompt:", '"'),
        ("“说出一种面包。”", "用户请求：", "说出一种面包。"),
        ('Say "rye" and "oat"', "User prompt:", 'Say "rye" and "oat"'),
        ('"Rye" is not "oat"', "User prompt:", '"Rye" is not "oat"'),
        ("用户请求：说出一种面包。", "用户请求：", "说出一种面包。"),
        ("", "User prompt:", ""),
    ],
)
def test_markers_and_quotes_are_stripped(text: str, marker: str, left: str) -> None:
    assert stripped(text, marker) == left


def test_what_was_shown_is_neither_a_person_nor_a_request() -> None:
    draft, _ = drafted(
        Persona(max_hops=0), "位退休邮递员，在多雨的山谷里种菜，吃不完的就卖给邻居。"[1:], parent=CHINESE
    )
    assert draft.dropped == "persona: persona repeats words of the prompt"
    again = " Suggest five names for a video channel about cheap vegetarian dinners."
    assert drafted(Persona(max_hops=0), BAKER, again)[0].dropped == "persona: request repeats words of the prompt"


def test_the_answer_does_not_see_the_person() -> None:
    draft = Draft((Message("user", "Name a bread."),), {"language": "en", "persona": "A baker"})
    ask = ScriptedAsk("Rye bread.")
    whole = asyncio.run(Persona().answer(draft, ask))
    assert ask.asked[0][0] == draft.messages
    assert whole.complete and whole.tags == draft.tags


def test_texts_are_walked_through_documents_first() -> None:
    snapshot = Snapshot(0, seeds=(ENGLISH,), documents=(CHINESE, ENGLISH))
    assert [Persona().draw(snapshot, turn, Random(0))[0].id for turn in range(3)] == ["z", "e", "z"]
