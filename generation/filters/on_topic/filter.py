"""On topic: a text must resemble the seeds more than background texts, by a regression on embeddings."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.language import language_of
from gristmill.generation.contracts import Ask, Filter, Snapshot, Stage, Verdict
from gristmill.generation.filters.on_topic.background import BACKGROUND
from gristmill.generation.prompting.draws import chosen
from gristmill.generation.prompting.regression import Boundary, Float, boundary

DIGITS = 3
"""Number of decimals of log-odds and probabilities. Later digits depend on which texts share a batch."""
MIN_POWER = 0.1
"""Nothing is judged if a smaller share of the background texts would be dropped."""
_MARK = re.compile(r"\[([^\[\]]+)\]\([^()]+\)")
"""A marked word of a seed, such as `[Berlin](city)`."""


@dataclass(frozen=True)
class Topics:
    """The boundary between the seeds and other texts, by language, and notes on languages without a boundary."""

    known: Mapping[str, Boundary]
    sizes: Mapping[str, int]
    notes: tuple[str, ...] = ()


class OnTopic(Filter[Topics]):
    """Drop a text that resembles texts on other topics more than it resembles the seeds.

    A logistic regression on embeddings is trained once in each language: the seeds against about a hundred short
    background texts on many topics. Background texts that are as near to a seed as half of the seeds are to their
    nearest seed are left out. A text is dropped if its log-odds are below a threshold. By cross-validation, nearly all
    new seeds would be above it, so nothing is dropped if the seeds are about everything. The score `on_topic` is the
    probability of the topic. If any seeds have the tag `label`, only these seeds count. Twenty seeds a label work well.
    Ten seeds in all are too few for a varied topic.

    Nothing is judged in these cases, and the run says so: a language has no background texts (English and Chinese have
    them); it has fewer than `min_seeds` seeds; the encoder does not know the script, such as Chinese with the builtin
    encoder; or the encoder cannot recognise the topic, because fewer than a tenth of the background texts would be
    dropped.

    Each text is encoded once, for all filters together. Measured with the builtin encoder and 12, 20, 40 and 100 film
    reviews as seeds: of 800 other film reviews, 1.3, 1.1, 1.6 and 2.5 % were dropped; of 175 instructions on many
    topics, 56, 65, 75 and 86 %.

    Source: Tunstall et al. 2022, SetFit, arXiv:2209.11055, section 3 (few-shot classification by a logistic regression
    on sentence embeddings). Departures: the encoder is not tuned; the other class is a background; the threshold is
    ours.
    """

    kind: Literal["on_topic"] = "on_topic"
    revision: ClassVar[int] = 2  # nothing is compared in a script that the encoder does not know
    stages: ClassVar[tuple[Stage, ...]] = ("instruction",)
    embeds: ClassVar[bool] = True
    unframed: ClassVar[bool] = True

    max_loss: float = Field(default=0.02, gt=0, lt=0.5)
    """Accepted share of dropped texts among texts like the seeds."""
    min_seeds: int = Field(default=10, ge=4)
    """Smallest number of seeds of a language. In a language with fewer seeds, nothing is judged."""
    max_seeds: int = Field(default=200, gt=0)
    """Largest number of seeds of a language to learn from. The choice of these seeds is fixed."""

    async def prepare(self, snapshot: Snapshot, before: Topics | None, ask: Ask) -> Topics:
        """Return the topic of each language. It is learned only once, because the seeds never change."""
        if before is not None:
            return before
        seeds = chosen(snapshot.seeds, 4 * self.max_seeds, self.kind)
        labelled = [seed for seed in seeds if "label" in seed.tags]
        texts: dict[str, dict[str, None]] = {}
        for seed in labelled or seeds:
            texts.setdefault(language_of(seed), {})[_MARK.sub(r"\1", seed.instruction)] = None
        known, notes = dict[str, Boundary](), [] if texts else ["there are no seeds"]
        for language, some in sorted(texts.items()):
            found = await self._learned(language, list(some)[: self.max_seeds], ask)
            if isinstance(found, Boundary):
                known[language] = found
            else:
                notes.append(f"{language}: {found}")
        sizes = {language: min(len(some), self.max_seeds) for language, some in texts.items()}
        return Topics(known, sizes, tuple(f"{self.kind} judges nothing: {note}" for note in notes))

    async def _learned(self, language: str, seeds: Sequence[str], ask: Ask) -> Boundary | str:
        """Return the topic of one language, or why there is none."""
        if language not in BACKGROUND:
            return f"there are no background texts in it, only in {', '.join(BACKGROUND)}"
        if len(seeds) < self.min_seeds:
            return f"{len(seeds)} seeds, must be at least {self.min_seeds}"
        own, others = [_readable(await ask.embed(some)) for some in (seeds, BACKGROUND[language])]
        if len(own) < self.min_seeds or not len(others):
            return (
                f"the encoder knows the script of {len(own)} of {len(seeds)} seeds, must be at least {self.min_seeds}"
            )
        near = own @ own.T
        np.fill_diagonal(near, -1.0)
        apart = (others @ own.T).max(1) < np.median(near.max(1))
        found = boundary(own, others[apart] if 2 * apart.sum() > len(others) else others, self.max_loss)
        share = f"{found.power:.0%} of the texts on everything else would be found off it"
        return found if found.power >= MIN_POWER else f"the encoder cannot tell the topic of the seeds, {share}"

    def figures(self, prepared: Topics) -> Mapping[str, float]:
        """Return the number of seeds by language, and the share of background texts that would be dropped."""
        sizes = {f"seeds {language}": float(size) for language, size in prepared.sizes.items()}
        return sizes | {f"power {language}": round(found.power, 3) for language, found in prepared.known.items()}

    def notes(self, prepared: Topics) -> tuple[str, ...]:
        """Return the languages in which nothing is judged, with the reasons."""
        return prepared.notes

    async def judge(self, sample: Sample, ask: Ask[Topics]) -> Verdict:
        """Return `on_topic`, 0 to 1, if the topic is known in the sample's language."""
        topic = ask.prepared.known.get(language_of(sample))
        if topic is None or not sample.instruction:
            return Verdict()
        odds = round(float(topic.log_odds((await ask.embed([sample.instruction])).astype(np.float64))[0]), DIGITS)
        if math.isnan(odds):
            return Verdict()
        scores = {"on_topic": round(0.5 * (1.0 + math.tanh(0.5 * odds)), DIGITS)}
        return Verdict(scores, f"{self.kind}: off the topic of the seeds" if odds < topic.threshold else None)


def _readable(vectors: NDArray[np.float32]) -> Float:
    """Return the vectors without NaN. A text in a script that the encoder does not know has NaN."""
    return vectors[~np.isnan(vectors).any(axis=1)].astype(np.float64)
