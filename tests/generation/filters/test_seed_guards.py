"""Guards that learn from the seeds: a text on their topic, and a label that they do not speak against."""

import asyncio
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.jobs.job import Work
from gristmill.cluster.store.store import Store
from gristmill.generation.contracts import Snapshot, Verdict
from gristmill.generation.filters.on_topic.background import BACKGROUND
from gristmill.generation.filters.on_topic.filter import OnTopic
from gristmill.generation.filters.seed_label import SeedLabel
from gristmill.generation.job import Generate
from gristmill.generation.methods.annotate import Annotate
from gristmill.generation.methods.targeted.method import Targeted
from gristmill.generation.pipeline.frames import Unframed, frames_of
from gristmill.generation.prompting.regression import boundary
from tests.fakes import ScriptedAsk
from tests.generation.ground import ground, job, with_seeds

KETTLES = ("The {} kettle boils a litre of water in {} minutes", "My {} kettle leaks at the spout after {} weeks")
WORDS = ("red", "old", "new", "small", "steel", "cheap", "heavy", "round", "blue", "white", "grey", "tall")


def texts(form: str, count: int = 12) -> list[str]:
    return [form.format(WORDS[n % len(WORDS)], n + 2) for n in range(count)]


def labelled(text: str, label: str, language: str = "en") -> Sample:
    return Sample(text, (Message("user", text),), method="targeted", tags={"label": label, "language": language})


SEEDS = [labelled(text, label) for form, label in zip(KETTLES, ("good", "bad"), strict=True) for text in texts(form)]


def prepared(step: OnTopic | SeedLabel, seeds: list[Sample]) -> ScriptedAsk:
    ask = ScriptedAsk()
    ask.prepared = asyncio.run(step.prepare(Snapshot(0, seeds=seeds), None, ask))
    return ask


def verdict(step: OnTopic | SeedLabel, ask: ScriptedAsk, sample: Sample) -> Verdict:
    return asyncio.run(step.judge(sample, ask))


def test_a_text_unlike_the_seeds_and_like_everything_else_is_dropped() -> None:
    ask = prepared(step := OnTopic(), SEEDS)
    assert not step.notes(ask.prepared) and step.figures(ask.prepared)["power en"] > 0.5
    kept = verdict(step, ask, labelled("The green kettle boils a litre of water in seven minutes", "good"))
    assert kept.dropped is None and kept.scores["on_topic"] > 0.5
    lost = verdict(step, ask, labelled("The parliament spoke of the treaty on Thursday.", "good"))
    assert lost.dropped == "on_topic: off the topic of the seeds" and lost.scores["on_topic"] < 0.5


def test_seeds_on_everything_have_no_topic_to_be_off() -> None:
    rng = Random(1)
    mixed = [labelled(text, "x") for text in rng.sample(BACKGROUND["en"], 40)]
    ask = prepared(step := OnTopic(), mixed)
    assert "on_topic judges nothing: en: the encoder cannot tell the topic" in step.notes(ask.prepared)[0]
    assert verdict(step, ask, labelled("My parcel is late.", "x")) == Verdict()


@pytest.mark.parametrize(
    ("seeds", "why"),
    [
        ([], "there are no seeds"),
        (SEEDS[:6], "en: 6 seeds, must be at least 10"),
        ([replace(seed, tags={**seed.tags, "language": "th"}) for seed in SEEDS], "th: there are no background texts"),
    ],
)
def test_where_nothing_can_be_judged_nothing_is_and_it_is_said(seeds: list[Sample], why: str) -> None:
    ask = prepared(step := OnTopic(), seeds)
    assert why in step.notes(ask.prepared)[0]
    assert verdict(step, ask, labelled("Anything at all.", "good")) == Verdict()


def test_a_label_that_the_seeds_speak_against_is_dropped() -> None:
    ask = prepared(step := SeedLabel(min_seeds=10), SEEDS)
    assert not step.notes(ask.prepared)
    text = "The green kettle boils a litre of water in seven minutes"
    assert verdict(step, ask, labelled(text, "good")).dropped is None
    assert verdict(step, ask, labelled(text, "bad")).dropped == "seed_label: the seeds speak for another label"
    assert verdict(step, ask, labelled(text, "strange")) == Verdict()
    assert verdict(step, ask, replace(SEEDS[0], tags={"label": "bad", "language": "en"})) == Verdict()


def test_labels_that_cannot_be_told_apart_or_have_few_seeds_are_named() -> None:
    mixed = [labelled(seed.instruction, ("good", "bad")[(place + place // 12) % 2]) for place, seed in enumerate(SEEDS)]
    few = [labelled(text, "rare") for text in texts("It is the {} one of {}", 3)]
    notes = SeedLabel().notes(prepared(SeedLabel(min_seeds=10), mixed).prepared)
    assert any("good (en): the encoder cannot tell it from the other labels" in note for note in notes)
    notes = SeedLabel().notes(prepared(SeedLabel(min_seeds=10), SEEDS + few).prepared)
    assert any("rare (en): 3 seeds with it and 24 with others, must be at least 10" in note for note in notes)


def test_a_boundary_loses_about_as_much_as_it_may() -> None:
    rng = np.random.default_rng(0)

    def some(centre: float, count: int) -> NDArray[np.float64]:
        found = rng.normal(size=(count, 16))
        found[:, 0] += centre
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float64)

    lost, found = [], []
    for _ in range(5):
        edge = boundary(some(2, 40), some(-2, 60), 0.05)
        lost.append(float((edge.log_odds(some(2, 1000)) < edge.threshold).mean()))
        found.append(float((edge.log_odds(some(-2, 1000)) < edge.threshold).mean()))
        assert edge.threshold <= 0 and edge.power == pytest.approx(found[-1], abs=0.15)
    assert np.mean(lost) < 0.08 and np.mean(found) > 0.9


def test_what_cannot_be_judged_is_printed_and_stays_in_the_figures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    methods = [{"kind": "targeted", "labels": ["x", "y"], "check": False}]
    with caplog.at_level("WARNING"):
        figures = ground(with_seeds(Store(str(tmp_path))), job(methods=methods, filters=[{"kind": "on_topic"}]))
    few = "on_topic judges nothing: en: 6 seeds, must be at least 10"
    assert few in figures.notes and f"generate: {few}" in caplog.messages


def test_a_plan_says_what_embedding_costs() -> None:
    work = Work("generate-abc", "abc" * 11, {})
    plan = Generate(methods=(Targeted(labels=["a", "b"]),)).plan(Store("/nonexistent"), work)
    assert any(note.startswith("on_topic, seed_label: builtin:all-minilm-l6-v2 in each worker") for note in plan.notes)
    assert not any("encoded" in note for note in Generate().plan(Store("/nonexistent"), work).notes)


def test_seeds_that_an_earlier_job_has_framed_are_seen_without_their_frame() -> None:
    method = Targeted(labels=["good", "bad"])
    begin, end = method.frames()[0]
    framed = labelled(f"{begin}It boils well.{end}", "good")
    (bare,) = Unframed([framed, *SEEDS], frames_of([method]))[:1]
    assert bare.instruction == "It boils well." and bare.id == framed.id
    assert [seed.instruction for seed in Unframed(SEEDS, frames_of([method]))] == [seed.instruction for seed in SEEDS]


def test_the_guards_of_the_seeds_are_on_for_labelled_texts_and_see_them_without_their_frame() -> None:
    job = Generate(methods=(Targeted(labels=["good", "bad"]), Annotate(labels=("good", "bad"))))
    bound = {step.kind: step.methods for step in job.filters if step.methods}
    assert bound == {"on_topic": ("targeted",), "seed_label": ("targeted", "annotate")}
    assert OnTopic.unframed and SeedLabel.unframed
