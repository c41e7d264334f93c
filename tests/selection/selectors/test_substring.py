"""Long shared spans against brute force, and what is left of a conversation that loses one."""

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.selection.contracts import Choice, View
from gristmill.selection.selectors.substring import Substring, cut_spans
from tests.selection.made import kept_of, made, view_of

SPAN = "as a careful assistant I must remind you that this is no advice and that you should ask a doctor first"
CHINESE = "作为一名严谨的助手我必须提醒你以上内容不构成任何医疗建议请务必先咨询专业医生"


def outcome(view: View, **settings: object) -> tuple[Choice, set[str]]:
    step = Substring.model_validate({"min_units": 10, **settings})
    choice = step.pick(view, Random(1))
    return choice, kept_of(view, choice)


def cut_of(view: View, choice: Choice, sample: Sample) -> list[str]:
    return [content for _, content in choice.cut[view.ids.tolist().index(sample.id.encode())]]


def chat(*turns: str, system: str = "", judge: float = 0) -> Sample:
    roles = ["system"] * bool(system) + ["user", "assistant"] * (len(turns) // 2)
    said = [system] * bool(system) + list(turns)
    base = made("\n".join(said))
    messages = tuple(map(Message, roles, said))
    return Sample(base.id, messages, method="m", round=1, scores={"judge": judge}, origin=base.origin)


def brute_force(texts: Sequence[list[str]], order: Sequence[int], size: int, max_cut: float) -> list[tuple[int, int]]:
    """(row that it loses to or -1, units held by better rows), from the definition."""
    holder: dict[tuple[str, ...], int] = {}
    found = [(-1, 0)] * len(texts)
    for row in order:
        windows = [tuple(texts[row][at : at + size]) for at in range(len(texts[row]) - size + 1)]
        held = [at for at, window in enumerate(windows) if window in holder]
        covered = len({at + n for at in held for n in range(size)})
        if covered > max_cut * len(texts[row]):
            found[row] = (holder[windows[held[0]]], covered)
        else:
            found[row] = (-1, covered)
            for window in windows:
                holder.setdefault(window, row)
    return found


@pytest.mark.parametrize("max_cut", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [2, 5, 8])
def test_what_is_shared_is_what_brute_force_finds(size: int, max_cut: float) -> None:
    rng = np.random.default_rng(size)
    pieces = [[f"w{n}" for n in rng.integers(0, 40, size=12)] for _ in range(6)]
    texts = []
    for number in range(60):
        own = [f"own{number}x{n}" for n in range(rng.integers(1, 12))]
        piece = pieces[rng.integers(6)]
        begin, length = rng.integers(0, 6), rng.integers(0, 12)
        texts.append([*own, *piece[begin : begin + length], *(own[:2] if number % 2 else [])])
    samples = [made(f"question {n}", " ".join(t), judge=float(rng.integers(3))) for n, t in enumerate(texts)]
    view = view_of(samples)
    choice, kept = outcome(view, min_units=size, max_cut=max_cut, prefer=("judge",))
    by_id = {sample.id.encode(): n for n, sample in enumerate(samples)}
    rows = [by_id[bytes(name)] for name in view.ids]
    truth = brute_force([texts[n] for n in rows], view.order(("judge",)).tolist(), size, max_cut)
    assert choice.lost_to is not None
    assert 0 < sum(winner >= 0 for winner, _ in truth) < 60 or max_cut == 1
    for row, (winner, covered) in enumerate(truth):
        assert choice.lost_to[row] == (view.ids[winner] if winner >= 0 else b"")
        share = choice.scores["own_share"][row]
        assert np.isnan(share) if not covered else share == pytest.approx(1 - covered / len(texts[rows[row]]))
        if winner < 0 and covered:
            assert len(choice.cut[row][1][1].split()) == len(texts[rows[row]]) - covered
    assert kept == {samples[n].id for n, (winner, _) in zip(rows, truth, strict=True) if winner < 0}


def test_a_span_is_cut_out_of_all_but_the_best_sample() -> None:
    own = ["Drink water often, and rest for two whole days.", "Go to bed early; take long walks in the evening."]
    best = made("cold?", f"{SPAN}: {own[0]}", judge=5)
    lesser = made("tired?", f"{own[1]} {SPAN.upper()}. Sleep well, and do not read the news at night!", judge=3)
    view = view_of([lesser, best, made("else?", "something short", judge=1)])
    choice, kept = outcome(view, max_cut=0.6)
    assert len(kept) == 3
    assert list(choice.cut) == [view.ids.tolist().index(lesser.id.encode())]
    assert cut_of(view, choice, lesser) == ["tired?", f"{own[1]} Sleep well, and do not read the news at night!"]
    assert choice.figures == {"samples cut": 1, "words cut": len(SPAN.split())}
    dropping, left = outcome(view, max_cut=0)
    assert left == kept - {lesser.id}
    assert not dropping.cut
    assert dropping.lost_to is not None
    assert best.id.encode() in dropping.lost_to
    assert dropping.reasons == ("substring: a long span is in a better sample",)


def test_a_chinese_span_is_cut_at_characters() -> None:
    one = made("感冒怎么办", f"多喝热水，注意休息，按时吃饭，保持室内空气流通，必要时服药。{CHINESE}。", judge=2)
    two = made(
        "失眠怎么办",
        f"{CHINESE}，睡前不要看手机，可以听一些舒缓的音乐，也可以喝一杯温牛奶帮助入睡，坚持运动。",
        judge=1,
    )
    view = view_of([one, two])
    choice, kept = outcome(view, min_units=20, max_cut=0.6)
    assert kept == {one.id, two.id}
    assert (
        cut_of(view, choice, two)[1] == "睡前不要看手机，可以听一些舒缓的音乐，也可以喝一杯温牛奶帮助入睡，坚持运动。"
    )


def test_a_shared_system_prompt_is_no_span_and_stays() -> None:
    samples = [chat(f"question {n}", f"answer {n}", system=SPAN) for n in range(5)]
    assert len(outcome(view_of(samples), part="conversation", max_cut=0)[1]) == 5
    holder = chat("why?", SPAN, judge=5)
    shares = chat("how?", f"{SPAN} {' '.join(map(str, range(40)))}", system=SPAN)
    choice, kept = outcome(view_of([*samples, holder, shares]))
    assert len(kept) == 7
    (turns,) = choice.cut.values()
    assert turns == (("system", SPAN), ("user", "how?"), ("assistant", " ".join(map(str, range(40)))))


def test_a_sample_that_holds_a_span_and_goes_holds_nothing() -> None:
    other = " ".join(f"other{n}" for n in range(12))
    best = made("a", " ".join(f"first{n}" for n in range(12)), judge=5)
    goes = made("b", f"{best.answer} {other}", judge=4)
    last = made("c", other, judge=3)
    assert outcome(view_of([best, goes, last]), max_cut=0)[1] == {best.id, last.id}


def test_a_sample_that_would_keep_an_empty_turn_goes_and_another_holds_what_it_held() -> None:
    more = " ".join(f"more{n}" for n in range(40))
    best = made("a", SPAN, judge=5)
    hollow = chat("b", SPAN, "and then?", more, judge=3)
    copy = made(
        "c", f"{more} and a word of its own at the end of this answer which is long enough to stay here", judge=0
    )
    view = view_of([best, hollow, copy])
    choice, kept = outcome(view, prefer=("judge",), max_cut=0.6)
    assert kept == {best.id, copy.id}
    assert not choice.cut, "the copy keeps what only the sample that goes had before it"
    assert choice.lost_to is not None
    assert best.id.encode() in choice.lost_to


def test_turns_are_shortened_where_the_spans_lie() -> None:
    turns = [("system", "one two"), ("user", "ask"), ("assistant", "one two, three. Four"), ("assistant", "five six")]
    asked = [("system", "x"), ("user", "a b c")]
    spans = [np.array([span]) for span in ((1, 3), (3, 5), (0, 1), (0, 4), (0, 2))]
    found = list(cut_spans([turns, turns, turns, turns, asked], "answer", spans))
    assert found[0] == (*turns[:2], ("assistant", "one Four"), turns[3])
    assert found[1] == (*turns[:2], ("assistant", "one two, three."), ("assistant", "six"))
    assert found[2] == (*turns[:2], ("assistant", "two, three. Four"), turns[3])
    assert found[3] is None
    assert found[4] == (("system", "x"), ("user", "c"))


def test_the_order_of_the_samples_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    words = ["red", "blue", "green", "pink"]
    samples = [made(f"question {n}", " ".join(rng.choice(words, size=rng.integers(5, 40)))) for n in range(50)]
    found = []
    for some in (samples, samples[::-1]):
        view = view_of(some)
        choice, kept = outcome(view, min_units=4)
        assert choice.lost_to is not None
        found.append((kept, choice.lost_to.tolist(), choice.cut))
    assert found[0] == found[1]
    assert len(found[0][0]) < 50


def test_small_data_and_copies() -> None:
    assert outcome(view_of([]))[1] == set()
    short = made("q", "too short")
    assert outcome(view_of([short]))[1] == {short.id}
    copies = [made(f"question {n}", SPAN, judge=n) for n in range(6)]
    choice, kept = outcome(view_of(copies))
    assert kept == {copies[5].id}
    assert choice.lost_to is not None
    assert set(choice.lost_to.tolist()) == {b"", copies[5].id.encode()}
    repeats = made("again", f"{SPAN}. {SPAN}. {SPAN}.")
    assert outcome(view_of([repeats]))[1] == {repeats.id}
    assert not outcome(view_of([repeats]))[0].cut
