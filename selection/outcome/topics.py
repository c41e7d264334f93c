"""Topics: clusters of the samples' vectors, each named by the words that distinguish it from the other clusters."""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from gristmill.cluster.text.scripts import HAN
from gristmill.selection.contracts import Bool, View
from gristmill.selection.data.columns import Int
from gristmill.selection.duplicates import clusters

MAX_TOPICS = 24
"""Most topics that are made by default."""
ROWS_PER_TOPIC = 20
"""By default there is one topic for so many samples, but there are at least 2 and at most `MAX_TOPICS` topics."""
NAMED_BY = 300
"""Most samples of a topic that are read to find its name."""
NAMED_CHARS = 600
"""Most characters of each sample that are read to find the name."""
TERMS = 3
"""Number of words in the name of a topic."""
EXAMPLES = 3
_RUNS = re.compile(rf"[{HAN}]+|[^\W_{HAN}]+(?:['’][^\W_{HAN}]+)?")
_HAN = re.compile(f"[{HAN}]")
_STOP_WORDS = """
a about above after again all also am an and any are as at be because been before being below between both but by can
cannot could did do does doing don't down during each either else etc even every few for from further get give given
go had has have having he her here hers him his how i if in into is isn't it it's its itself just let let's like made
make many may me might more most much must my need no nor not now of off on once one only or other our out over own
per please put said same say see she should so some such take than that that's the their them then there these they
this those through to too two under until up upon us use used using very was we well were what what's when where
whether which while who whom whose why will with within without would yes yet you you're your yours following write
answer question one's i'm can't doesn't didn't won't
的 了 和 是 在 我 有 就 不 人 都 一 一个 上 也 很 到 说 要 去 你 会 着 没有 看 好 自己 这 那 他 她 它 们
我们 你们 他们 它们 这个 那个 这些 那些 什么 怎么 如何 为什么 哪些 哪个 可以 请 请问 以及 或者 还是 如果 因为 所以
但是 而且 并且 一下 一种 一些 进行 使用 以下 根据 关于 对于 通过 之间 其中 例如 比如 这样 那样 需要 能够 可能 应该
已经 还有 不是 就是 时候 问题 回答 给出 一篇 一段
"""
_STOP = frozenset(_STOP_WORDS.split())


def topics(view: View, kept: Bool, *, num: int | None = None, seed: int = 0) -> tuple[list[dict[str, Any]], list[str]]:
    """Return (the topics, the largest first; the name of each sample's topic).

    Args:
        view: the samples, with vectors.
        kept: [n] whether a sample stays.
        num: number of topics; by default one for each 20 samples, from 2 to 24. Empty topics are left out.
        seed: seed of the clustering.

    Returns:
        topics: dicts with the keys `name`, `rows`, `kept` and `examples`, the ids of the samples nearest to the centre.
        labels: [n] the name of each sample's topic; no two topics have the same name.
    """
    vectors = view.unit("topics")
    if not len(view):
        return [], []
    wanted = num or int(np.clip(len(view) // ROWS_PER_TOPIC, 2, MAX_TOPICS))
    near, cosines = clusters.assign(vectors, clusters.fit(vectors, wanted, seed=seed))
    label, cosine = near[:, 0].astype(np.int64), cosines[:, 0]
    sizes = np.bincount(label)
    order = np.lexsort((np.arange(len(sizes)), -sizes))[: np.count_nonzero(sizes)]
    place = np.zeros(len(sizes), np.int64)
    place[order] = np.arange(len(order))
    label = place[label]
    by_nearness = np.lexsort((-cosine, label))
    starts = np.concatenate([[0], np.cumsum(sizes[order])])
    nearest = [by_nearness[start:stop] for start, stop in pairwise(starts)]
    names = name_topics(_texts(view, nearest, np.random.default_rng(seed)))
    found = [
        {
            "name": name,
            "rows": len(rows),
            "kept": int(kept[rows].sum()),
            "examples": [view.ids[row].decode() for row in rows[:EXAMPLES].tolist()],
        }
        for name, rows in zip(names, nearest, strict=True)
    ]
    return found, [names[place] for place in label.tolist()]


def name_topics(groups: Sequence[Iterable[str]]) -> list[str]:
    """Return a name for each group of texts: its words with the highest weights; a repeated name gets a number.

    Source: Grootendorst 2022, BERTopic, arXiv:2203.05794, section 3.3 (class-based TF-IDF): the weight of a word is its
    frequency in the group times log(1 + words of a mean group / frequency in all groups). Departures: a word counts
    once for each text, so that one long text does not decide the name. Words that are in only one text of a group are
    left out, unless all words are.
    """
    counts = [Counter(word for text in texts for word in dict.fromkeys(terms(text))) for texts in groups]
    every: Counter[str] = sum(counts, Counter())
    mean = every.total() / max(1, len(counts))
    names: list[str] = []
    for count in counts:
        often = {word: n for word, n in count.items() if n > 1} or count
        ranked = sorted(often, key=lambda word: (-often[word] * np.log1p(mean / every[word]), word))
        names.append(", ".join(ranked[:TERMS]) or "no words")
    first: Counter[str] = Counter()
    for place, name in enumerate(names):
        first[name] += 1
        names[place] = f"{name} ({first[name]})" if first[name] > 1 else name
    return names


def terms(text: str) -> list[str]:
    """Return the words of a text that can be part of a name: without stop words, words with digits, and short words."""
    found: list[str] = []
    for run in _RUNS.findall(unicodedata.normalize("NFKC", text[:NAMED_CHARS]).casefold()):
        found += _jieba().cut(run) if _HAN.match(run) else [run]
    return [word for word in found if len(word) > (1 if _HAN.match(word) else 2) and _names_topic(word)]


def _names_topic(word: str) -> bool:
    return word.replace("’", "'") not in _STOP and not any(c.isdigit() for c in word)


def _texts(view: View, nearest: Sequence[Int], rng: np.random.Generator) -> list[list[str]]:
    """Return the instructions from which each topic gets its name, of up to `NAMED_BY` random samples."""
    drawn = [np.sort(rng.permutation(rows)[:NAMED_BY]) for rows in nearest]
    some = view.some("instruction", np.concatenate(drawn))
    ends = np.cumsum([0, *map(len, drawn)])
    return [some[start:stop] for start, stop in pairwise(ends)]


@cache
def _jieba() -> Any:  # noqa: ANN401 - a tokenizer
    import jieba

    jieba.setLogLevel(logging.WARNING)
    return jieba.Tokenizer()
