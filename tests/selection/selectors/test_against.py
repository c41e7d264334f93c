"""What older datasets have already goes, however it is compared, and their index is made once."""

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.io.ingest import Source
from gristmill.selection.contracts import Choice, VectorsOf, View
from gristmill.selection.data.matrix import Float32, Matrix
from gristmill.selection.data.memo import StoreMemo
from gristmill.selection.selectors.against import Against
from tests.selection.made import kept_of, made, unit, view_of

OLD, OLDER = Source(path=("release-1.jsonl",)), Source(path=("release-0.jsonl",))
TEXTS = [
    "Explain in three short sentences why the sky looks blue during the day.",
    "List the ingredients of a simple tomato soup for four people.",
    "用三句话解释为什么白天的天空看起来是蓝色的，并举一个例子。",
    "Write a polite letter to a landlord about a broken heater in winter.",
]


def step(*datasets: Source, **settings: Any) -> Against:
    return Against(datasets=datasets or (OLD,), **{"answers": False} | settings)


def seen(view: View, of: Against, *older: View) -> tuple[View, Choice]:
    view = replace(view, beside=dict(zip(of.sources(), older, strict=True)))
    return view, of.pick(view, Random(0))


def lost_of(view: View, choice: Choice) -> dict[str, tuple[str, str]]:
    assert choice.lost_to is not None
    kept_of(view, choice)
    return {
        view.ids[row].decode(): (choice.lost_to[row].decode(), choice.reasons[choice.reason[row]])
        for row in np.flatnonzero(~choice.kept)
    }


def test_the_same_text_goes_in_two_languages_and_what_is_new_stays() -> None:
    old = [made(text, "old") for text in TEXTS]
    new = [made(TEXTS[0].upper(), "new"), made(TEXTS[2].replace("，", " "), "new"), made("Something new altogether")]
    view, choice = seen(view_of(new), step(by=("exact",)), view_of(old))
    reason = "against: has the text of an older one"
    assert lost_of(view, choice) == {new[0].id: (old[0].id, reason), new[1].id: (old[2].id, reason)}
    assert choice.scores["against_distance"][~choice.kept].tolist() == [0, 0]
    assert np.isnan(choice.scores["against_distance"][choice.kept]).all()
    assert choice.figures == {"exact 1-release-1.jsonl": 2}


def test_copies_among_the_new_ones_are_no_concern_of_this_step() -> None:
    new = [made("Twice the same", "a"), made("Twice the same", "b"), made(TEXTS[0], "c")]
    view, choice = seen(view_of(new), step(), view_of([made(TEXTS[0])]))
    assert set(lost_of(view, choice)) == {new[2].id}


def test_nearly_the_same_text_goes_by_minhash_with_its_similarity() -> None:
    old = [made(text, "old") for text in TEXTS]
    new = [made(TEXTS[0].replace("short ", "shrot "), "x"), made(TEXTS[2].replace("举一个例子", "举出一个例子"), "x")]
    new += [made("Explain why cats like to sleep on warm laptops in the evening.", "x"), made("a", "too short")]
    view, choice = seen(view_of(new), step(by=("exact", "minhash")), view_of(old))
    reason = "against: nearly has the text of an older one"
    assert lost_of(view, choice) == {new[0].id: (old[0].id, reason), new[1].id: (old[2].id, reason)}
    distance = choice.scores["against_distance"][~choice.kept]
    assert ((distance > 0) & (distance <= 0.35)).all()


def named(number: int) -> str:
    return "q" + str(number).translate(str.maketrans("0123456789", "abcdefghij"))


def planted(seed: int = 1) -> tuple[list[Sample], Float32, list[Sample], Float32]:
    """300 older samples and 200 new ones, the first 60 of which are near to an older one each."""
    rng = np.random.default_rng(seed)
    old_vectors, vectors = unit(rng.normal(size=(300, 24))), unit(rng.normal(size=(200, 24)))
    vectors[:60] = unit(old_vectors[:60] + rng.normal(size=(60, 24)) * 0.02)
    old = [made(f"the subject of older sample {named(n)}", "old") for n in range(300)]
    new = [
        made(f"older sample {named(n)} and its subject" if n < 60 else f"new question {named(n)}", "new")
        for n in range(200)
    ]
    return old, old_vectors, new, vectors


@pytest.mark.parametrize("shuffle", [None, 0, 1])
def test_the_same_meaning_goes_whatever_the_order_of_the_samples(shuffle: int | None) -> None:
    old, old_vectors, new, vectors = planted()
    order = np.arange(200) if shuffle is None else np.random.default_rng(shuffle).permutation(200)
    older = view_of(old, old_vectors)
    view, choice = seen(view_of([new[n] for n in order], vectors[order]), step(by=("semantic",)), older)
    reason = "against: means the same as an older one"
    assert lost_of(view, choice) == {new[n].id: (old[n].id, reason) for n in range(60)}
    assert (choice.scores["against_distance"][~choice.kept] <= 0.05).all()


def test_the_nearest_of_several_older_ones_is_named() -> None:
    angles = np.deg2rad([0, 5, 10])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    old = [made("turn the wheel", str(n)) for n in range(2)]
    new = made("turn the wheel", "new")
    view, choice = seen(view_of([new], vectors[2:]), step(by=("semantic",)), view_of(old, vectors[:2]))
    assert lost_of(view, choice)[new.id][0] == old[1].id


def test_texts_without_a_word_in_common_are_strangers_to_semantic() -> None:
    vectors = unit(np.ones((1, 4)))
    old, new = view_of([made("推荐一部周末观影的电影")], vectors), view_of([made("为恐怖故事写一个开场")], vectors)
    assert seen(new, step(by=("semantic",)), old)[1].kept.all()
    assert not seen(new, step(by=("semantic",), min_overlap=0), old)[1].kept.any()


def test_the_index_of_an_older_dataset_is_made_once_and_one_more_adds_its_own(tmp_path: Path) -> None:
    old, old_vectors, new, vectors = planted()
    halves = [view_of(old[at : at + 150], old_vectors[at : at + 150]) for at in (0, 150)]
    folders = [tmp_path / "release-1", tmp_path / "release-0"]
    halves = [replace(h, samples=replace(h.samples, memo=StoreMemo(f))) for h, f in zip(halves, folders, strict=True)]
    ways = ("exact", "minhash", "semantic")
    alone = lost_of(*seen(view_of(new, vectors), step(OLD, by=ways), halves[0]))
    made_once = {path.name: path.stat().st_mtime_ns for path in folders[0].iterdir()}
    assert made_once
    assert not folders[1].exists()
    both = lost_of(*seen(view_of(new, vectors), step(OLD, OLDER, by=ways), *halves))
    assert {path.name: path.stat().st_mtime_ns for path in folders[0].iterdir()} == made_once
    assert len(list(folders[1].iterdir())) == len(made_once)
    whole = lost_of(*seen(view_of(new, vectors), step(OLD, by=ways), view_of(old, old_vectors)))
    assert alone.items() <= both.items()
    assert both == whole
    assert len(both) == 60


def test_a_way_that_needs_no_vectors_asks_for_none() -> None:
    job = VectorsOf(None, "instruction")
    assert step().wants(job) is None
    assert step().wants_beside(job) is None
    assert step(by=("exact", "semantic")).wants(job) is job
    assert step(OLD, OLDER).sources() == {"1-release-1.jsonl": OLD, "2-release-0.jsonl": OLDER}
    with pytest.raises(ValidationError, match="at least 1"):
        Against(datasets=())


def test_nothing_new_and_nothing_older() -> None:
    vectors = unit(np.ones((1, 4)))
    ways = ("exact", "minhash", "semantic")
    empty = view_of([], np.empty((0, 4), np.float32))
    assert len(seen(empty, step(by=ways), view_of([made("a")], vectors))[1].kept) == 0
    assert seen(view_of([made("a")], vectors), step(by=ways), empty)[1].kept.all()
    one = replace(view_of([made("a")]), vectors=Matrix(vectors))
    assert not seen(one, step(by=ways), one)[1].kept.any()
