"""Search: the texts of a corpus that are near a query, by words (BM25) and by meaning, fused and made diverse.

This is the only file that imports bm25s. It does so inside a function.
"""

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.scripts import UNSPACED
from gristmill.generation.contracts import Ask

By = Literal["both", "words", "meaning"]
Float32 = NDArray[np.float32]
K1, B = 1.5, 0.75
"""Parameters of BM25. `K1`: how soon repeated words stop counting. `B`: how much long texts are penalised."""
FUSION = 60
"""Parameter of reciprocal rank fusion. With a larger value the first ranks matter less."""
CANDIDATES = 100
"""Number of texts of each ranking that are fused."""
VARIED = 5
"""The candidates are this many times as many texts as are wanted. If variety counts, the choice is made from these."""
EMBEDDED_AT_ONCE = 1024
_TERM = re.compile(rf"[{UNSPACED}]+|[^\W_{UNSPACED}]+(?:['’][^\W\d_{UNSPACED}]+)?")
_UNSPACED = re.compile(rf"[{UNSPACED}]")


@dataclass(frozen=True, slots=True)
class Hit:
    """A sample that a search has found."""

    sample: Sample
    score: float
    """1 for a text that is the first in every ranking, lower for later ranks."""


def terms(text: str) -> list[str]:
    """Return the lower-case words of a text. Runs of a script without spaces become overlapping pairs of characters."""
    found: list[str] = []
    for run in _TERM.findall(unicodedata.normalize("NFKC", text).lower()):
        pairs = _UNSPACED.match(run) and len(run) > 1
        found += [run[n : n + 2] for n in range(len(run) - 1)] if pairs else [run]
    return found


def fuse(rankings: Sequence[Sequence[int]], k: int = FUSION) -> dict[int, float]:
    """Return the fused score of each place, best first: the sum of 1 / (k + rank) over the rankings, ranks from 1.

    Scores are divided by the largest possible score, so they are between 0 and 1. Of equal scores, the smaller place
    comes first.
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, place in enumerate(ranking, 1):
            scores[place] = scores.get(place, 0.0) + 1.0 / (k + rank)
    most = len(rankings) / (k + 1)
    return {place: scores[place] / most for place in sorted(scores, key=lambda place: (-scores[place], place))}


def diverse(relevance: Sequence[float], similarity: NDArray[np.floating[Any]], count: int, weight: float) -> list[int]:
    """Return up to `count` places by maximal marginal relevance, in the order of choice.

    The next place is always the one with the largest weight * relevance - (1 - weight) * s, where s is its largest
    similarity to a chosen place.
    """
    gains = np.asarray(relevance, np.float64)  # [n]
    nearest = np.zeros(len(gains))
    taken: list[int] = []
    while len(taken) < min(count, len(gains)):
        worth = weight * gains - (1 - weight) * nearest
        worth[taken] = -np.inf
        best = int(np.argmax(worth))
        taken.append(best)
        nearest = np.maximum(nearest, similarity[best])
    return taken


class SearchIndex:
    """The first user turns of a corpus, to be searched by words, by meaning, or by both; never changed."""

    def __init__(self, samples: Sequence[Sample], by: By = "both", vectors: Float32 | None = None) -> None:
        """Index the texts, about 0.3 ms for 45 words.

        `vectors` are unit vectors, [samples, d]. A text with a vector of NaN is found only by its words.
        """
        self.samples, self.by, self._vectors = samples, by, vectors
        words = [terms(sample.instruction) for sample in samples]
        self._bags = [frozenset(found) for found in words] if vectors is None else []
        self._bm25 = _bm25(words) if by != "meaning" and any(words) else None

    def find(
        self, text: str, vector: Float32 | None, count: int, *, weight: float = 1.0, without: Collection[str] = ()
    ) -> list[Hit]:
        """Return up to `count` samples, the best first, without the query's own text and the ids in `without`.

        `weight`, 0 to 1, is the weight of relevance against variety; with 1 only relevance counts.
        """
        rankings = []
        if self._bm25 is not None:
            found = terms(text)
            scores = self._bm25.get_scores(found) if found else np.zeros(len(self.samples))
            rankings.append(self._ranked(scores, text, without, above=0.0))
        if self._vectors is not None and vector is not None and not np.isnan(vector).any():
            cosines = np.nan_to_num(self._vectors @ vector, nan=-1.0)
            rankings.append(self._ranked(cosines, text, without, above=-1.0))
        fused = fuse(rankings) if rankings else {}
        places, relevance = list(fused)[: VARIED * count], list(fused.values())[: VARIED * count]
        chosen = range(min(count, len(places)))
        if weight < 1:
            chosen = diverse(relevance, self._similarity(places), count, weight)  # type: ignore[assignment]
        return [Hit(self.samples[places[n]], relevance[n]) for n in chosen]

    def _ranked(self, scores: NDArray[Any], text: str, without: Collection[str], above: float) -> list[int]:
        """Return the places of the best scores, best first. Of equal scores, the smaller place comes first."""
        some = min(len(scores), CANDIDATES + len(without) + 1)
        best = np.argpartition(-scores, some - 1)[:some]
        ordered = best[np.lexsort((best, -scores[best]))]
        fine = (int(place) for place in ordered if scores[place] > above)
        return [place for place in fine if self._other(self.samples[place], text, without)][:CANDIDATES]

    def _other(self, sample: Sample, text: str, without: Collection[str]) -> bool:
        return sample.id not in without and sample.instruction != text

    def _similarity(self, places: Sequence[int]) -> NDArray[np.floating[Any]]:
        """Return similarities [n, n]: cosines if there are vectors, else common words over all words."""
        if self._vectors is not None:
            some = self._vectors[list(places)]
            cosines: NDArray[np.floating[Any]] = np.nan_to_num(some @ some.T)
            return cosines
        bags = [self._bags[place] for place in places]
        return np.array([[len(a & b) / max(1, len(a | b)) for b in bags] for a in bags]).reshape(len(bags), len(bags))


async def index(samples: Sequence[Sample], by: By, ask: Ask) -> SearchIndex:
    """Return the index of a corpus. The job's encoder makes vectors, unless the search is only by words."""
    if by == "words" or not len(samples):
        return SearchIndex(samples, by)
    texts = [sample.instruction for sample in samples]
    parts = [await ask.embed(texts[n : n + EMBEDDED_AT_ONCE]) for n in range(0, len(texts), EMBEDDED_AT_ONCE)]
    return SearchIndex(samples, by, np.concatenate(parts))


async def find(
    where: SearchIndex, text: str, count: int, ask: Ask, *, weight: float, without: Collection[str]
) -> list[Hit]:
    """Return the result of `SearchIndex.find` for a text. The text is embedded first if the index uses meaning."""
    vector = None if where.by == "words" or not len(where.samples) else (await ask.embed([text]))[0]
    return where.find(text, vector, count, weight=weight, without=without)


def _bm25(words: Sequence[Sequence[str]]) -> Any:  # noqa: ANN401 - untyped library
    try:
        import bm25s
    except ImportError as error:
        raise JobError("search by words needs bm25s, which is not installed; install gristmill[documents]") from error
    found = bm25s.BM25(k1=K1, b=B)
    found.index(words, show_progress=False)
    return found
