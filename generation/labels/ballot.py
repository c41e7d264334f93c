"""Ballots: the votes of annotators and people on samples as one matrix, and their agreement."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gristmill.cluster.contract.sample import Sample
from gristmill.generation.figures import Agreement
from gristmill.generation.labels import votes as labelling
from gristmill.generation.labels.people import HumanAnswer
from gristmill.generation.labels.votes import ABSTAINED, Floats, Votes

VOTE = "vote:"
"""Prefix of tags with a vote; the annotator's name follows."""
SURE = "confidence:"
"""Prefix of scores with an annotator's confidence in its vote."""
PEOPLE = "people"
"""Name in the figures for the answer of most people."""


@dataclass(frozen=True)
class Ballot:
    """All votes on all samples. A vote is the index of a label in the list of labels."""

    samples: Sequence[Sample]
    labels: tuple[str, ...]
    annotators: tuple[str, ...]
    votes: Votes
    """[samples, annotators] votes of the annotators."""
    weights: Floats
    """[samples, annotators] confidence of each annotator in its vote, 0 to 1; 1 if it gave none."""
    people: NDArray[np.int64]
    """[samples] the answer of most people, or `ABSTAINED`."""
    persons: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The answers of each person, by sample id."""

    def columns(self) -> dict[str, NDArray[np.int64]]:
        """Return the votes by annotator."""
        return {name: self.votes[:, n] for n, name in enumerate(self.annotators)}

    def person_votes(self) -> Votes:
        """Return the answer of each person, [samples, persons]."""
        place = {label: n for n, label in enumerate(self.labels)}
        rows = [[place.get(said.get(s.id, ""), ABSTAINED) for said in self.persons.values()] for s in self.samples]
        return np.array(rows, np.int64).reshape(len(self.samples), len(self.persons))

    def gold(self) -> NDArray[np.int64]:
        """Return the label in each sample's tag `gold`, [samples], or `ABSTAINED`."""
        place = {label: n for n, label in enumerate(self.labels)}
        return np.array([place.get(s.tags.get("gold", ""), ABSTAINED) for s in self.samples], np.int64)

    def answers(self, name: str) -> Counter[str]:
        """Return the answers of people about one sample, by its id, with the number of people for each answer."""
        return Counter(said[name] for said in self.persons.values() if name in said)

    def chances(self, combine: str, smoothing: float, truth: NDArray[np.int64] | None = None) -> Floats:
        """Return the probability of each label, [samples, labels]; `truth`, [samples], has the known labels."""
        if combine == "majority" or not self.votes.size:
            return labelling.majority(self.votes, len(self.labels), self.weights)
        given = labelling.counts(self.votes, len(self.labels))
        return labelling.dawid_skene(given, truth=truth, smoothing=smoothing).posterior


def ballot_of(samples: Sequence[Sample], said: Sequence[HumanAnswer], labels: Sequence[str], *, label: bool) -> Ballot:
    """Return all votes. If a person answered a sample twice, the last answer counts. Text answers have no votes."""
    persons: dict[str, dict[str, str]] = {}
    for one in said:
        persons.setdefault(one.person, {})[one.sample] = one.answer
    persons = dict(sorted(persons.items()))
    names = sorted({tag.removeprefix(VOTE) for s in samples for tag in s.tags if tag.startswith(VOTE)}) if label else []
    if not label:
        none = np.zeros((len(samples), 0), np.int64)
        return Ballot(samples, (), (), none, none.astype(np.float64), np.full(len(samples), ABSTAINED), persons)
    voted = {s.tags[f"{VOTE}{name}"] for s in samples for name in names if f"{VOTE}{name}" in s.tags}
    voted |= {s.tags["label"] for s in samples if "label" in s.tags}
    known = tuple(labels) or tuple(sorted(voted | {one.answer for one in said}))
    place = {name: n for n, name in enumerate(known)}
    rows = [[place.get(s.tags.get(f"{VOTE}{name}", ""), ABSTAINED) for name in names] for s in samples]
    votes = np.array(rows, np.int64).reshape(len(samples), len(names))
    sure = [[s.scores.get(f"{SURE}{name}", 1.0) for name in names] for s in samples]
    weights = np.array(sure, np.float64).reshape(votes.shape).clip(0, 1)
    ballot = Ballot(samples, known, tuple(names), votes, weights, np.full(len(samples), ABSTAINED), persons)
    settled = (most(ballot.answers(s.id)) for s in samples)
    return replace(ballot, people=np.array([place.get(s, ABSTAINED) for s in settled], np.int64))


def most(answers: Counter[str]) -> str:
    """Return the answer of most people; empty if there is none or two answers tie."""
    first, second = [*answers.most_common(2), ("", 0), ("", 0)][:2]
    return first[0] if first[1] > second[1] else ""


def agreement(ballot: Ballot) -> dict[str, Any]:
    """Return the agreement of annotators and people, as figures for each pair and for each group."""
    said = ballot.person_votes()
    annotators = {**ballot.columns(), **({PEOPLE: ballot.people} if ballot.persons else {})}
    persons = {f"person {name}": said[:, n] for n, name in enumerate(ballot.persons)}
    groups = {"annotators": ballot.votes, PEOPLE: said}
    return {
        "agreement": (*_pairs(annotators), *_pairs(persons)),
        "fleiss_kappa": round_known({name: labelling.fleiss_kappa(votes) for name, votes in groups.items()}),
        "krippendorff_alpha": round_known(
            {name: labelling.krippendorff_alpha(votes) for name, votes in groups.items()}
        ),
    }


def _pairs(columns: Mapping[str, NDArray[np.int64]]) -> Iterator[Agreement]:
    """Yield the agreement of each pair that labelled at least one sample in common."""
    for (first, one), (second, other) in combinations(columns.items(), 2):
        both = (one != ABSTAINED) & (other != ABSTAINED)
        if both.any():
            agree = {"agree": float((one == other)[both].mean()), "kappa": labelling.cohen_kappa(one, other)}
            yield Agreement(first=first, second=second, rows=int(both.sum()), **round_known(agree))


def round_known(values: Mapping[str, float]) -> dict[str, float]:
    """Return the values that are not NaN, rounded to four places."""
    return {name: round(value, 4) for name, value in values.items() if not math.isnan(value)}
