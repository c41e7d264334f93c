"""Topics: planted groups are found, counted and named; the weight of a word is the paper's."""

from collections import Counter
from math import log

import numpy as np

from gristmill.cluster.contract.sample import Sample
from gristmill.selection.data.matrix import Float32
from gristmill.selection.outcome.topics import name_topics, terms, topics
from tests.selection.made import made, unit, view_of

SUBJECTS = [
    ("Write a poem about the moon and the lonely harbour, number {}", 30),
    ("Explain how a database index speeds up this query, number {}", 20),
    ("请介绍一下长江流域的水稻种植历史，第{}次", 10),
]


def planted() -> tuple[list[Sample], Float32]:
    rng = np.random.default_rng(5)
    centres = np.eye(8)[:3]
    samples, rows = [], []
    for centre, (text, size) in zip(centres, SUBJECTS, strict=True):
        for n in range(size):
            samples.append(made(text.format(n), f"answer {n}"))
            rows.append(centre + 0.02 * (n + 1) * rng.normal(size=8) / size)
    return samples, unit(np.array(rows))


def test_planted_groups_are_counted_named_and_shown() -> None:
    samples, vectors = planted()
    view = view_of(samples, vectors)
    place = {sample.id: n for n, sample in enumerate(samples)}
    of = np.array([place[name.decode()] for name in view.ids])
    found, labels = topics(view, of >= 15, num=3)
    assert [(topic["rows"], topic["kept"]) for topic in found] == [(30, 15), (20, 20), (10, 10)]
    assert {"moon", "poem"} & set(found[0]["name"].split(", "))
    assert {"database", "index", "query"} & set(found[1]["name"].split(", "))
    assert "水稻" in found[2]["name"] or "长江流域" in found[2]["name"]
    assert [labels[row] == found[0]["name"] for row in range(60)] == (of < 30).tolist()
    for topic, begin in zip(found, (0, 30, 50), strict=True):
        mine = [n for n in range(60) if begin <= n < begin + topic["rows"]]
        centre = vectors[mine].mean(axis=0)
        nearest = sorted(mine, key=lambda n: -vectors[n] @ centre)
        assert [place[name] for name in topic["examples"]] == nearest[:3]


def test_the_order_of_the_samples_changes_nothing() -> None:
    samples, vectors = planted()
    one = topics(view_of(samples, vectors), np.ones(60, np.bool_), num=5)
    assert one == topics(view_of(samples[::-1], vectors[::-1]), np.ones(60, np.bool_), num=5)
    assert len({topic["name"] for topic in one[0]}) == len(one[0])


def test_small_and_equal_data() -> None:
    assert topics(view_of([], np.empty((0, 4), np.float32)), np.ones(0, np.bool_)) == ([], [])
    found, labels = topics(view_of([made("...")], unit(np.ones((1, 4)))), np.ones(1, np.bool_))
    assert (found[0]["rows"], found[0]["kept"], labels) == (1, 1, ["no words"])
    same = view_of([made("the same question", f"{n}") for n in range(9)], unit(np.ones((9, 4))))
    found, _ = topics(same, np.zeros(9, np.bool_))
    assert sum(topic["rows"] for topic in found) == 9
    assert sum(topic["kept"] for topic in found) == 0


def test_words_weigh_what_the_paper_says() -> None:
    groups = [["river river boat", "river stone", "boat stone lake"], ["stone lake", "stone mill", "mill lake lake"]]
    counts = [Counter(word for text in texts for word in set(text.split())) for texts in groups]
    every = counts[0] + counts[1]
    mean = sum(every.values()) / 2

    def weight(group: int, word: str) -> float:
        return counts[group][word] * log(1 + mean / every[word])

    for group, name in enumerate(name_topics(groups)):
        named = name.split(", ")
        ranked = sorted((w for w in counts[group] if counts[group][w] > 1), key=lambda w: (-weight(group, w), w))
        assert named == ranked[:3]


def test_equal_names_are_told_apart() -> None:
    assert name_topics([["red boat"], ["red boat"], []]) == ["boat, red", "boat, red (2)", "no words"]


def test_terms_leave_out_what_names_nothing() -> None:
    assert terms("What is the 3rd LARGEST river of Poland, 1999?") == ["largest", "river", "poland"]
    assert terms("请问什么是量子计算？") == ["量子", "计算"]
