"""Contamination: n-grams of evaluation items against brute force, and what must not count."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from gristmill.cluster.contract.sample import Sample
from gristmill.selection.contracts import Choice, View
from gristmill.selection.duplicates import ngrams
from gristmill.selection.selectors.decontaminate import Decontaminate
from tests.selection.made import kept_of, made, unit, view_of

UNITS = re.compile(r"[\u3005\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3005\u3040-\u30ff\u3400-\u9fff]+")
RIVER = "Which of the three long rivers of the northern plain carries more water in spring than in late autumn?"
HILLS = "它从北方的群山流下，穿过平原上的十二座城市，最后在东边的海湾入海，全长两千公里"


def units_of(text: str) -> list[str]:
    return UNITS.findall(unicodedata.normalize("NFKC", text).casefold())


def step(**settings: object) -> Decontaminate:
    return Decontaminate.model_validate({"sets": ["held/quiz.jsonl"], **settings})


def outcome(view: View, items: View, **settings: object) -> tuple[Choice, set[str]]:
    view = View(view.samples, view.rows, view.vectors, {"quiz": items})
    choice = step(**settings).pick(view, Random(1))
    return choice, kept_of(view, choice)


def row_of(view: View, sample: Sample) -> int:
    return int(np.flatnonzero(view.ids == sample.id.encode())[0])


@pytest.mark.parametrize(
    "text",
    [
        "The cat, the CAT; thé cat! 5.3 x_y don't",
        "上海Python3很好，全角ＡＢＣ１２ ok",
        "emoji 🙂 here, ひらがな カタカナ 𠀀字 end",
        "",
        "  ...  ",
        "Straße ÉTÉ Ωmega привет, МИР",
    ],
)
def test_units_are_words_and_single_characters_whatever_their_case_and_width(text: str) -> None:
    found = ngrams.units(pa.array(["before", text, "after"], pa.large_string()))
    words = units_of(text.replace("𠀀", "㐀").replace("ß", "s"))
    assert found.ends[2] - found.ends[1] == len(words)
    raw = text.encode()
    inside = slice(found.ends[1], found.ends[2])
    said = [raw[a:b].decode() for a, b in zip(found.starts[inside], found.stops[inside], strict=True)]
    assert [units_of(w.replace("𠀀", "㐀").replace("ß", "s"))[0] for w in said] == words
    alone = ngrams.units(pa.array([unicodedata.normalize("NFKC", text).upper()], pa.large_string()))
    if "ß" not in text:
        assert alone.hashes.tolist() == found.hashes[inside].tolist()
    assert len(set(found.hashes.tolist())) == len({"before", "after", *words})


def test_windows_are_equal_exactly_where_the_words_are() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["a", "b", "c"], size=n)) for n in (0, 1, 3, 4, 5, 30, 30)]
    found = ngrams.units(pa.array(texts, pa.large_string()))
    ends, hashes = ngrams.windows(found, 4)
    words = [tuple(text.split()[at : at + 4]) for text in texts for at in range(len(text.split()) - 3)]
    assert len(hashes) == len(words) == ends[-1]
    assert len(set(hashes.tolist())) == len(set(words)) == len(set(zip(hashes.tolist(), words, strict=True)))
    keys = np.unique(hashes)
    assert (keys[ngrams.Table.of(keys).find(hashes)] == hashes).all()
    assert (ngrams.Table.of(keys).find(keys + np.uint64(1)) == -1).all()


def brute_force(sample: Sample, items: Sequence[Sample], n: int) -> dict[str, float]:
    """Share by item id, from the definition."""

    def grams(text: str) -> set[tuple[str, ...]]:
        words = ["#" if word[0].isdigit() else word for word in units_of(text)]
        return {tuple(words[at : at + n]) for at in range(len(words) - n + 1)}

    shares = {}
    for item in items:
        question, answer = grams(item.instruction), grams(item.answer)
        mine = grams(f"{sample.instruction}\n{sample.answer}")
        held = [len(part & mine) for part in (question, answer)]
        share = max(held[0] / (len(question) or 1), sum(held) / ((len(question) or 1) + len(answer)))
        equal = len(question) < 5 and units_of(sample.instruction) == units_of(item.instruction)
        shares[item.id] = 1.0 if equal else share if sum(held) >= 5 else 0.0
    return shares


def test_the_score_is_the_share_of_the_items_n_grams_that_brute_force_finds() -> None:
    rng = np.random.default_rng(4)
    words = [f"word{chr(97 + n)}" for n in range(20)] + ["河", "SIX", "7"]

    def text(low: int, high: int) -> str:
        return " ".join(rng.choice(words, size=rng.integers(low, high)))

    items = [made(f"{text(0, 30)} {n}", text(1, 20)) for n in range(12)]
    samples = [made(items[3].instruction, "strange")]
    for n in range(80):
        piece = items[n % 12].instruction.split()[rng.integers(0, 8) :]
        samples.append(made(f"{text(1, 9)} {' '.join(piece)} {text(1, 9)} {n + 20}", text(1, 15)))
    view, of = view_of(samples), view_of(items)
    choice, kept = outcome(view, of, min_overlap=0.6)
    by_id = {sample.id: sample for sample in samples}
    assert 5 < len(kept) < len(samples) - 5
    for row, name in enumerate(view.ids):
        shares = brute_force(by_id[name.decode()], sorted(items, key=lambda i: i.id), 4)
        best = max(shares.values())
        score = choice.scores["contamination"][row]
        assert (0 if np.isnan(score) else score) == pytest.approx(best, abs=1e-6)
        assert (name.decode() in kept) == (best < 0.6 - 1e-6)
        if choice.reason[row] >= 0:
            first = next(item for item, share in shares.items() if share == pytest.approx(best, abs=1e-6))
            assert choice.lost_to is not None
            assert choice.lost_to[row].decode() == first


@pytest.mark.parametrize("edit", ["numbers", "names", "words", "half", "typos"])
def test_an_item_that_was_edited_is_found(edit: str) -> None:
    item = (
        "Natalia sold 48 clips to her friends in April, and then she sold half as many clips to the neighbours in May. "
        "How many clips did Natalia sell altogether in April and May, if 3 of them came back?"
    )
    edits = {
        "numbers": item.replace("48", "96").replace("3", "7"),
        "names": item.replace("Natalia", "Yuki"),
        "words": item.replace("friends", "cousins").replace("neighbours", "teachers").replace("altogether", "overall"),
        "half": item[: len(item) // 2],
        "typos": item.replace("friends", "freinds")
        .replace("sold half", "sodl half")
        .replace("Natalia sell", "Natlia sell"),
    }
    other = made("Weng sold 12 cakes to her class in June, and half as many in July. How many cakes were left?", "6")
    view = view_of([made(edits[edit], "72"), other])
    assert outcome(view, view_of([made(item, "72")]))[1] == {other.id}


def test_a_template_alone_is_no_hit_in_a_set_of_four() -> None:
    head = "Read the short passage that follows, think about it step by step, and then choose the letter that fits. "
    asked = ("Which planet is red?", "Who swims?", "What burns?", "Where is north?")
    items = view_of([made(head + question, "B") for question in asked])
    samples = [made(head + question, "x") for question in ("How many legs has a crab?", "Why is the sea salt?")]
    assert outcome(view_of(samples), items)[1] == {sample.id for sample in samples}


def test_the_item_its_set_and_the_words_are_told() -> None:
    item = made(RIVER, "The second.")
    leak = made(f"Answer this, please.\n\n{RIVER.upper().replace('?', '')} Tell me.", "I do not know.")
    view = view_of([leak, made("Name three rivers of the northern plain", "Rhine, Elbe, Oder")])
    choice, kept = outcome(view, view_of([item, made("Who wrote Faust?", "Goethe")]))
    row = row_of(view, leak)
    assert leak.id not in kept
    assert len(kept) == 1
    assert choice.lost_to is not None
    assert choice.lost_to[row].decode() == item.id
    assert choice.reasons[choice.reason[row]] == "decontaminate: shares n-grams with an evaluation item"
    assert choice.tags["evaluation_set"][row] == "quiz"
    assert choice.tags["overlap"][row] == RIVER.upper().replace("?", "")
    assert choice.figures == {"items of quiz found": "1 of 2"}
    assert [tag for tag in choice.tags["overlap"] if tag] == [RIVER.upper().replace("?", "")]


def test_one_hit_in_a_long_item_is_scored_and_kept() -> None:
    words = [f"word{n}" for n in range(60)]
    item, sample = made(" ".join(words), "yes"), made("Explain: " + " ".join(words[10:24]), "well")
    choice, kept = outcome(view_of([sample]), view_of([item]))
    assert kept == {sample.id}
    assert choice.scores["contamination"][0] == pytest.approx(11 / 57)


def test_chinese_items_are_found_by_characters() -> None:
    item = made(f"请问：{HILLS}是哪一条河？", "长河")
    leak, other = made(f"续写下面的句子。{HILLS}。", "好的"), made("请介绍一条从北方的群山流下的河", "长河很长")
    view = view_of([leak, other])
    choice, kept = outcome(view, view_of([item]))
    assert kept == {other.id}
    assert choice.tags["overlap"][row_of(view, leak)] == HILLS


def test_short_questions_must_be_equal_as_a_whole() -> None:
    items = view_of([made("What is 5-3?", "2"), made("谁写了《红楼梦》？", "曹雪芹")])
    same = [made("what is 5-3", "two"), made("谁写了《红楼梦》", "不知道")]
    different = [
        made("What is 5/3?", "1.67"),
        made("What is 5-3? Explain it to a child.", "two"),
        made("What is two?", "2"),
    ]
    view = view_of([*same, *different])
    choice, kept = outcome(view, items)
    assert kept == {sample.id for sample in different}
    assert {choice.reasons[r] for r in choice.reason if r >= 0} == {
        "decontaminate: asks the same as an evaluation item"
    }
    assert np.isnan(choice.scores["contamination"][row_of(view, different[0])])


def test_a_copied_solution_counts_and_a_copied_short_answer_does_not() -> None:
    solution = "First we add the seven red marbles to the nine blue ones, then we take away half of all of them."
    items = view_of([made("How many?", solution), made("Which city is meant here?", "Paris")])
    copied, fine = made("Count them, if you please", solution), made("Capital of France", "Paris")
    assert outcome(view_of([copied, fine]), items)[1] == {fine.id}


def test_what_a_whole_set_shares_is_its_template() -> None:
    head = "The following is a multiple choice question about the history of the world, answer with one letter:"
    items = view_of([made(f"{head} what happened in the year {1500 + n}?", "B") for n in range(30)])
    innocent = made(f"{head} who won the game of chess?", "C")
    leak = made(f"{head} what happened in the year 1503?", "A")
    assert outcome(view_of([innocent, leak]), items)[1] == {innocent.id}


HEAD = "You are a careful student of the eighth grade, so read the problem that follows twice and then solve it. "
QUESTIONS = [
    f"{name} has {n} {thing} and gives {m} of them to {other}; how many {thing} are left for the {place}?"
    for n, (name, thing, other, place) in enumerate(
        [("Ann", "pears", "a neighbour", "market"), ("Weng", "old coins", "his sister", "museum")] * 12
    )
    for m in (n,)
]


@pytest.mark.parametrize("tail", ["", " Explain every step of it to a friend who was not at school today, please."])
def test_what_many_samples_share_with_one_item_alone_is_a_template(tail: str) -> None:
    item = (
        "A baker sells 40 loaves of rye bread in the morning and half as many rolls at noon. What does he sell in all?"
    )
    items = view_of([made(HEAD + item + tail, "60"), made("Who wrote Faust?", "Goethe")])
    innocent = [made(HEAD + question + tail, f"{n}") for n, question in enumerate(dict.fromkeys(QUESTIONS))]
    leak = made(HEAD + item.replace("baker", "farmer").replace("40", "90") + tail, "135")
    assert len(innocent) >= 20
    assert outcome(view_of([*innocent, leak]), items)[1] == {sample.id for sample in innocent}


@pytest.mark.parametrize("edit", ["numbers", "names", "words"])
def test_many_edited_copies_of_one_item_are_no_template(edit: str) -> None:
    item = (
        "Natalia sold 48 clips to her friends in April, and then Natalia sold half as many clips in May of that year."
    )
    asked = " How many clips did Natalia sell altogether in April and May, if the last 3 of them came back to her?"
    names = ["Yuki", "Carlos", "Ingrid", "Kofi", "Fatima", "Tomas", "Priya", "Nadia", "Weng", "Olga", "Ravi", "Lena"]
    rng = Random(3)

    def edited(n: int) -> str:
        if edit == "numbers":
            return (item + asked).replace("48", f"{n + 10}")
        if edit == "names":
            return (item + asked).replace("Natalia", names[n])
        words = (item + asked).split()
        for place in rng.sample(range(len(words)), 4):
            words[place] = "other"
        return " ".join(words)

    copies = [made(edited(n), f"{n}") for n in range(12)]
    assert outcome(view_of(copies), view_of([made(item + asked, "72")]))[1] == set()


def test_by_embedding_as_well_where_it_is_asked_for() -> None:
    rng = np.random.default_rng(2)
    vectors = unit(rng.normal(size=(5, 8)))
    items = view_of([made("What colour is the sky?", "blue"), made("Who?", "I")], vectors[:2])
    samples = [made("Tell me the hue of the heavens", "azure"), made("Name a fish", "carp"), made("Name a bird", "tit")]
    near = unit(vectors[:1] + 0.01 * vectors[4:5])
    view = view_of(samples, np.concatenate([near, vectors[2:4]]))
    choice, kept = outcome(view, items, min_cosine=0.95)
    row = row_of(view, samples[0])
    assert kept == {samples[1].id, samples[2].id}
    assert choice.reasons[choice.reason[row]] == "decontaminate: means the same as an evaluation item"
    assert choice.lost_to is not None
    assert choice.lost_to[row].decode() == made("What colour is the sky?", "blue").id
    brute = view.unit("test").whole() @ items.unit("test").whole().T
    np.testing.assert_allclose(choice.scores["evaluation_cosine"], brute.max(axis=1), atol=1e-6)
    assert "evaluation_cosine" not in outcome(view, items)[0].scores


def test_what_the_encoder_cannot_read_is_not_compared_with_an_item() -> None:
    one = unit(np.ones((1, 8)))
    samples = [made("Tell me the hue of the heavens", "azure"), made("Name a fish", "carp")]
    items = view_of([made("What colour is the sky?", "blue"), made("Who?", "I")], np.repeat(one, 2, axis=0))
    view = view_of(samples, np.repeat(one, 2, axis=0))
    assert view.vectors is not None
    assert items.vectors is not None
    half = replace(view, vectors=replace(view.vectors, readable=np.array([True, False])))
    choice, _ = outcome(half, items, min_cosine=0.95)
    assert choice.kept.tolist() == [False, True]
    assert np.isnan(choice.scores["evaluation_cosine"][1])
    strange = replace(items, vectors=replace(items.vectors, readable=np.zeros(2, np.bool_)))
    assert outcome(view, strange, min_cosine=0.95)[0].kept.all()


def test_the_order_of_samples_and_items_changes_nothing() -> None:
    rng = np.random.default_rng(7)
    words = [f"word{chr(97 + n)}" for n in range(20)]
    items = [made(" ".join(rng.choice(words, size=10)) + f" {n}", "yes") for n in range(8)]
    samples = [
        made(items[n % 8].instruction[n:] + " ".join(rng.choice(words, size=4)) + f" {n}", "no") for n in range(40)
    ]
    settings = {"ngram": 3, "min_overlap": 0.3}
    found = []
    for turn in (1, -1):
        view = view_of(samples[::turn])
        choice, kept = outcome(view, view_of(items[::turn]), **settings)
        assert choice.lost_to is not None
        found.append((kept, choice.lost_to.tolist(), choice.tags["overlap"]))
    assert found[0] == found[1]
    assert len(found[0][0]) < 40


def test_small_and_empty_data() -> None:
    items = view_of([made(RIVER, "The second.")])
    assert outcome(view_of([]), items)[1] == set()
    alone = made("...", "?!")
    assert outcome(view_of([alone]), items)[1] == {alone.id}
    assert outcome(view_of([alone]), view_of([]))[1] == {alone.id}
    assert outcome(view_of([alone]), view_of([made("...", "!")]))[1] == set()


def test_sets_are_named_by_their_files() -> None:
    sets = ["a/gsm8k_test.jsonl.gz", "b/gsm8k_test.parquet", {"path": "mmlu.csv"}]
    assert list(step(sets=sets).sources()) == ["gsm8k_test", "gsm8k_test-2", "mmlu"]
    with pytest.raises(ValidationError):
        step(sets=[])
