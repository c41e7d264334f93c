"""Filters that are bound to methods, and what `novelty` compares of the rows of methods with a frame."""

import pytest

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.store.store import Store
from gristmill.cluster.text.template import parse
from gristmill.generation.filters.length import Length
from gristmill.generation.filters.novelty import Novelty
from gristmill.generation.job import Generate
from gristmill.generation.methods.targeted.method import Targeted
from gristmill.generation.pipeline.frames import Frames, frames_of, unframed
from gristmill.generation.pipeline.settle import Progress
from tests.generation.ground import WORK, ground, job, with_seeds
from tests.invariants import samples_of

LABELS = {
    "en": (
        "a complaint about a price that is too high",
        "a fault of a thing that broke or never worked from the start",
    ),
    "zh": ("抱怨东西卖得太贵而且一点也不值这个价", "报告东西坏了或者从一开始就没有好用过"),
}
BETWEEN = {"en": ", ", "zh": "、"}
TEXTS = {
    "en": ("My kettle leaks at the spout", "Eighty euros is far too much", "My kettle leaks at the lid"),
    "zh": ("水壶的壶嘴一直漏水", "八十块钱实在太贵了", "水壶的壶盖一直漏水"),
}
TARGETED = {language: Targeted(labels=list(labels)) for language, labels in LABELS.items()}


def asked(text: str, id_: str = "") -> Sample:
    return Sample(id_ or text, (Message("user", text),), method="targeted")


def framed(text: str, language: str) -> Sample:
    template = parse(TARGETED[language].instruction_prompts[language])
    return asked(template.text(labels=BETWEEN[language].join(sorted(LABELS[language])), text=text), text)


def settled(frames: Frames, *rows: Sample, seeds: tuple[Sample, ...] = ()) -> list[bool]:
    progress = Progress(None, (Novelty(),), frames=frames)
    progress.remember(seeds)
    return [row.dropped is None for row in progress.settle(rows, len(rows))]


def test_a_filter_may_judge_the_rows_of_some_methods_alone(store: Store) -> None:
    filters = [
        {"kind": "length", "max_answer_words": 1, "methods": ["respond"]},
        {"kind": "length", "methods": ["self_instruct"]},
        {"kind": "novelty", "max_similarity": 0.5, "methods": ["self_instruct"]},
    ]
    methods = [{"kind": "respond"}, {"kind": "self_instruct"}]
    ground(with_seeds(store), job(methods=methods, filters=filters, target=12))
    dropped = {(row.method, (row.dropped or "").partition(" near ")[0]) for row in samples_of(store, WORK.output)}
    assert ("respond", "length: answer too long") in dropped
    assert ("self_instruct", "novelty: too") in dropped
    assert not {("self_instruct", "length: answer too long"), ("respond", "novelty: too")} & dropped


def test_a_filter_is_bound_to_methods_of_its_job() -> None:
    with pytest.raises(ValueError, match=r"filters\[0\].methods: 'magpie' is no method of this job.*\(self_instruct\)"):
        Generate(filters=(Length(methods=("magpie",)),))
    with pytest.raises(ValueError, match="length appears twice"):
        Generate(filters=(Length(), Length(methods=("self_instruct",))))


def test_methods_change_the_fingerprint_of_a_filter_only_where_they_are_set() -> None:
    assert "methods" not in Length().identity()["fields"]
    assert Length().fingerprint() != Length(methods=("respond",)).fingerprint()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_novelty_compares_what_a_method_wrote_and_not_the_frame_of_its_task(language: str) -> None:
    first, other, copy = (framed(text, language) for text in TEXTS[language])
    frames = frames_of([TARGETED[language]])
    assert settled(frames, first, other, copy) == [True, True, False]
    assert settled((), first, other) == [True, False], "with the frame any two texts are alike"
    seed = asked(TEXTS[language][0], "seed")  # which has no frame
    assert settled(frames, first, other, copy, seeds=(seed,)) == [False, True, False]


def test_a_frame_is_taken_off_where_it_fits_whole() -> None:
    frames = frames_of([TARGETED["en"]])
    row = framed("Too much for a kettle", "en")
    turns = (Message("system", "Be brief."), *row.messages, Message("assistant", "price"))
    bare = unframed(Sample("x", turns), frames)
    assert [turn.content for turn in bare.messages] == ["Be brief.", "Too much for a kettle", "price"]
    begin = next(begin for begin, _ in frames if begin.startswith("Which"))
    for text in ("Too much for a kettle", begin, "", f"So: {begin}a kettle"):
        assert unframed(asked(text), frames).instruction == text
