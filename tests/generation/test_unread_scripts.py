"""In a script that the encoder does not know, no step judges by meaning, and the run names the script."""

import asyncio
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.encoder import Embedding
from gristmill.cluster.text.scripts import script_of
from gristmill.generation.contracts import Filter, Snapshot, Verdict
from gristmill.generation.filters.discriminator import Discriminator
from gristmill.generation.filters.on_topic.filter import OnTopic
from gristmill.generation.filters.seed_label import SeedLabel
from gristmill.generation.filters.self_consistency import SelfConsistency
from gristmill.generation.methods.augment.method import Augment
from gristmill.generation.pipeline.worker import Embedder
from gristmill.generation.prompting.search import By, find, index
from tests.fakes import HashingEncoder, ScriptedAsk

RUSSIAN = ("Чайник кипит семь минут.", "Поезд в Берлин опаздывает.", "Музей закрыт по понедельникам.")
ENGLISH = ("The kettle boils for 7 minutes.", "The train to Berlin is late.", "The museum is closed on Mondays.")


class KnowsLatin(HashingEncoder):
    """Makes one vector of every text that is not in Latin letters."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return super().encode([text if script_of(text) == "Latin" else "?" for text in texts])

    def unknown(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([script_of(text) != "Latin" for text in texts], np.float32)


class Ask(ScriptedAsk):
    """Embeds as a worker does."""

    embedder = Embedder(Embedding(), lambda settings: KnowsLatin())

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return await self.embedder.embed(texts)


def sample(text: str, label: str = "good", answer: str = "", *, place: int = 0) -> Sample:
    turns = (Message("user", text), *([Message("assistant", answer)] if answer else []))
    return Sample(f"{text}-{place}", turns, method="x", tags={"label": label, "language": "en"})


def seeds(texts: Sequence[str]) -> list[Sample]:
    return [
        sample(f"{texts[place % 3]} {place}", ("good", "bad")[place % 3 == 0], "A.", place=place) for place in range(60)
    ]


def test_the_run_names_the_scripts_and_their_vectors_are_nan() -> None:
    embedder = Embedder(Embedding(), lambda settings: KnowsLatin())
    assert embedder.notes() == []
    vectors = asyncio.run(embedder.embed([RUSSIAN[0], ENGLISH[0]]))
    assert np.isnan(vectors).all(axis=1).tolist() == [True, False]
    (note,) = embedder.notes()
    assert "encoder.model: builtin:all-minilm-l6-v2 does not know the script Cyrillic" in note


@pytest.mark.parametrize("step", [OnTopic(), SeedLabel(), Discriminator(min_rows=10)])
def test_filters_that_learn_from_the_seeds_do_not_judge(step: Filter) -> None:
    snapshot = Snapshot(2, seeds=seeds(ENGLISH), made=[sample(text, place=n) for n in range(10) for text in RUSSIAN])
    ask = Ask()
    ask.prepared = asyncio.run(step.prepare(snapshot, None, ask))
    assert asyncio.run(step.judge(sample(RUSSIAN[0]), ask)) == Verdict()
    unread = asyncio.run(step.prepare(Snapshot(0, seeds=seeds(RUSSIAN)), None, ask))
    if not isinstance(step, Discriminator):
        assert any("the encoder" in note and "script" in note for note in step.notes(unread))


def test_free_answers_are_not_compared_but_results_are() -> None:
    ask = Ask(*[RUSSIAN[1]] * 5)
    free = sample(RUSSIAN[0], answer="Он опаздывает, потому что на пути стоит другой поезд.")
    assert asyncio.run(SelfConsistency().judge(free, ask)) == Verdict()
    answers = Ask(*["Ответ: 7"] * 5)
    assert asyncio.run(SelfConsistency().judge(sample(RUSSIAN[0], answer="7"), answers)).scores


def test_variants_are_not_measured() -> None:
    ask = Ask("Чайник закипает за семь минут.")
    method = Augment(operations=("paraphrase",), variants=1)
    ask.prepared = asyncio.run(method.prepare(Snapshot(0), None, ask))
    (draft,) = asyncio.run(method.expand([sample(RUSSIAN[0], answer="good")], ask, Random(0)))
    assert draft.dropped is None and "cosine" not in draft.scores


@pytest.mark.parametrize(
    ("by", "text", "count"), [("both", RUSSIAN[0], 1), ("meaning", RUSSIAN[0], 0), ("meaning", ENGLISH[0], 2)]
)
def test_texts_are_found_by_their_words_alone(by: By, text: str, count: int) -> None:
    some = [sample(other) for other in (*RUSSIAN[1:], f"{RUSSIAN[0]} Да.", *ENGLISH[1:])]
    where = asyncio.run(index(some, by, Ask()))
    hits = asyncio.run(find(where, text, 5, Ask(), weight=1.0, without=()))
    assert len(hits) == count
    assert all(script_of(hit.sample.instruction) == script_of(text) for hit in hits)
