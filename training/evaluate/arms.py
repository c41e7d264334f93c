"""The arms of a lift comparison: labelled texts that a probe learns from, and the accuracy that the probe then has."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gristmill.cluster.contract.ids import digest
from gristmill.cluster.contract.sample import Message, Sample, to_table
from gristmill.cluster.text.keys import key
from gristmill.training.data.families import near_to
from gristmill.training.evaluate.probe import Features, Floats, Ints
from gristmill.training.evaluate.self_training import SEED_WEIGHT, self_train
from gristmill.training.evaluate.statistics import Interval, by_family, interval

SEEDS, BUILT, RANDOM, PEOPLE, SELF_TRAINED = "seeds", "built", "random", "people's labels", "self-training"
NEAR = "near copy of a test item"
PARAGRAPH = "\n\n"
ROLES = ("test", "seeds", "labelled", "samples", "unlabelled")
"""Roles of the inputs of a lift job. A text with several roles is kept in the one that comes first here."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """All texts of a lift job, numbered from 0."""

    samples: Sequence[Sample]
    texts: Sequence[str]
    labels: Ints
    """[n] number of each text's label, which is a person's or a built one; -1 without a label."""
    names: Sequence[str]
    """Names of the labels, by their numbers."""
    places: Mapping[str, Ints]
    """By role, the numbers of its texts."""
    left_out: Mapping[str, Mapping[str, int]]
    """By role and reason, the number of rows that take no part."""

    def kept(self, role: str) -> Ints:
        """Return the texts of a role that no earlier job dropped, by their numbers."""
        rows = self.places[role]
        return rows[[self.samples[n].dropped is None for n in rows]] if len(rows) else rows


def corpus_of(rows: Mapping[str, Sequence[Sample]]) -> Corpus:
    """Return the texts of all roles as a corpus. Rows that cannot take part are counted by reason.

    The order of the rows does not matter; of two rows with the same text, a kept one comes first. A row is left out if
    an earlier role in `ROLES` has the same text. It is also left out if it is a near copy of a test item, so that no
    probe learns from test items. Texts of `labelled` and of `samples` may come again in later roles, because people's
    and built labels of the same texts are compared.
    """
    near = _near_test(rows)
    names = sorted({label_of(sample) for sample in rows["seeds"]} - {""})
    numbers = {name: n for n, name in enumerate(names)}
    samples: list[Sample] = []
    labels: list[int] = []
    seen: dict[str, str] = {}
    places: dict[str, Ints] = {}
    left_out: dict[str, dict[str, int]] = {}
    for role in ROLES:
        found, reasons = [], Counter[str]()
        known = dict(seen) if role in ("labelled", "samples") else seen  # arms whose texts others may have too
        for sample in sorted(rows.get(role, ()), key=lambda sample: (sample.dropped is not None, sample.id)):
            reason = _refused(sample, role, numbers, known) or (NEAR if sample.id in near[role] else "")
            if reason:
                reasons[reason] += 1
                continue
            known[key(sample.instruction)] = role
            found.append(len(samples))
            samples.append(sample)
            labels.append(-1 if role == "unlabelled" else numbers[label_of(sample)])
        places[role], left_out[role] = np.array(found, np.int64), dict(sorted(reasons.items()))
    return Corpus(samples, [s.instruction for s in samples], np.array(labels, np.int64), names, places, left_out)


def without_instruction(built: Sequence[Sample], people: Sequence[Sample]) -> tuple[list[Sample], dict[str, str]]:
    """Return built samples without the instruction of their method, and the instructions that were removed, by method.

    The rows of `targeted`, for example, begin with the request to label a text. People's texts have none, so a probe
    would tell both kinds by it. An instruction is the first paragraph of a text, if all kept texts of a method and
    language begin with it, if more text follows, and if no text of people begins with it. Rows that lose it have a new
    id, and the old one as their parent.
    """
    begins: dict[tuple[str, str], Counter[str]] = {}
    for sample in built:
        if sample.dropped is None:
            head, gap, rest = sample.instruction.partition(PARAGRAPH)
            begins.setdefault(_kind(sample), Counter())[f"{head}{gap}" if gap and rest.strip() else ""] += 1
    known = tuple(sample.instruction for sample in people)
    given = {
        kind: head
        for kind, counts in begins.items()
        for head in counts
        if head and len(counts) == 1 and counts[head] > 1 and not any(text.startswith(head) for text in known)
    }
    removed = {method: head.strip() for (method, _), head in sorted(given.items())}
    return [_bare(sample, given.get(_kind(sample), "")) for sample in built], removed


def _kind(sample: Sample) -> tuple[str, str]:
    return sample.method, sample.tags.get("language", "")


def _bare(sample: Sample, head: str) -> Sample:
    """Return a sample whose first user turn does not begin with `head`."""
    if not head or not sample.instruction.startswith(head):
        return sample
    place = next(n for n, turn in enumerate(sample.messages) if turn.role == "user")
    turn = Message("user", sample.messages[place].text[len(head) :].lstrip())
    turns = (*sample.messages[:place], turn, *sample.messages[place + 1 :])
    return replace(sample, id=digest("bare", sample.id), parents=(sample.id,), messages=turns)


def label_of(sample: Sample) -> str:
    """Return the label of a sample: its tag `label`, else its answer."""
    return sample.tags.get("label", sample.answer).strip()


def _refused(sample: Sample, role: str, numbers: Mapping[str, int], seen: Mapping[str, str]) -> str:
    """Return the reason why a row takes no part, or the empty string."""
    if not sample.instruction.strip():
        return "no text"
    if role != "unlabelled" and label_of(sample) not in numbers:
        return "label that no seed has"
    before = seen.get(key(sample.instruction))
    return f"text of {'its own' if before == role else before}" if before else ""


def _near_test(rows: Mapping[str, Sequence[Sample]]) -> dict[str, set[str]]:
    """Return the ids of the rows that are near copies of a test item, by role."""
    test = to_table([replace(sample, dropped=None) for sample in rows["test"]])
    found: dict[str, set[str]] = {}
    for role in ROLES:
        samples = [replace(sample, dropped=None) for sample in rows.get(role, ())] if role != "test" else []
        near = near_to(to_table(samples), np.ones(len(samples), np.bool_), [test]) if samples else ()
        found[role] = {sample.id for sample, copy in zip(samples, near, strict=True) if copy}
    return found


@dataclass(frozen=True, slots=True)
class Arm:
    """Labelled texts that a probe learns from. If they are chosen at random, there are several draws."""

    name: str
    draws: Sequence[tuple[Ints, Ints, Floats]]
    """For each draw: numbers of the texts, labels and weights, each [m]."""

    @property
    def rows(self) -> int:
        """Number of texts in one draw."""
        return len(self.draws[0][0])


def arms_of(corpus: Corpus, features: Features, shares: Floats, *, draws: int, seed: int) -> Iterator[Arm]:
    """Yield the arms: first the seeds alone, then the seeds with each kind of further texts, people's labels last.

    Args:
        corpus: all texts.
        features: their features.
        shares: [labels] expected share of each label among the texts without a label.
        draws: number of draws of the random arm.
        seed: seed of the draws.
    """
    seeds, built = corpus.places["seeds"], corpus.kept("samples")
    labels, texts, rng = corpus.labels, corpus.places["unlabelled"], np.random.default_rng(seed)

    def with_seeds(name: str, *added: tuple[Ints, Ints]) -> Arm:
        drawn = [(np.concatenate([seeds, more]), np.concatenate([labels[seeds], given])) for more, given in added]
        weights = np.full(len(seeds), SEED_WEIGHT)
        return Arm(name, [(rows, given, np.append(weights, np.ones(len(rows) - len(seeds)))) for rows, given in drawn])

    yield with_seeds(SEEDS, (seeds[:0], seeds[:0]))
    if len(built):
        yield with_seeds(f"{SEEDS} + {BUILT}", (built, labels[built]))
        every = corpus.places["samples"]
        if len(every) > len(built):
            chosen = [np.sort(rng.choice(every, len(built), replace=False)) for _ in range(draws)]
            yield with_seeds(f"{SEEDS} + {RANDOM}", *((rows, labels[rows]) for rows in chosen))
    methods = np.array([corpus.samples[n].method for n in built])
    for method in sorted({*methods}) if len({*methods}) > 1 else ():
        rows = built[methods == method]
        yield with_seeds(f"{SEEDS} + {method}", (rows, labels[rows]))
    if len(texts):
        starts = {f"{SEEDS} + {SELF_TRAINED}": built[:0]}
        if len(built):
            starts[f"{SEEDS} + {BUILT} + {SELF_TRAINED}"] = built
        for name, more in starts.items():
            rows = np.concatenate([seeds, more])
            counts = np.append(np.full(len(seeds), SEED_WEIGHT), np.ones(len(more)))
            taken = {key(corpus.texts[n]) for n in more}
            left = texts[[key(corpus.texts[n]) not in taken for n in texts]]
            if not len(left):
                continue
            found = self_train(features, rows, labels[rows], counts, left, shares)
            yield with_seeds(name, (np.concatenate([more, found.places]), np.concatenate([labels[more], found.labels])))
    people = corpus.places["labelled"]
    if len(people):
        yield with_seeds(PEOPLE, (people, labels[people]))


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one arm on one part of people's test items."""

    arm: str
    rows: int
    accuracy: float
    lift: Interval
    """Accuracy of the arm minus that of the seeds alone, paired by item."""


def right(arm: Arm, corpus: Corpus, features: Features, items: Ints) -> Floats:
    """Return for each item the share of draws with which the probe labels it correctly, [items]."""
    found = np.zeros(len(items))
    for rows, labels, weights in arm.draws:
        chances = features.fit(rows, labels, weights).chances(items, len(corpus.names))
        found += chances.argmax(axis=1) == corpus.labels[items]
    return found / len(arm.draws)


def compare(
    arms: Sequence[Arm], rights: Sequence[Floats], families: Ints, *, bootstrap: int, seed: int
) -> list[Result]:
    """Return each arm's accuracy, and its lift over the first arm.

    Args:
        arms: the arms, of which the first is the seeds alone.
        rights: the result of `right` for each arm, [items].
        families: [items] family of each item, numbered from 0 without a gap. A family is one observation.
        bootstrap: number of bootstrap draws of families.
        seed: seed of the draws.
    """
    sizes = by_family(np.ones(len(families)), families)
    return [
        Result(
            arm.name,
            arm.rows,
            float(found.mean()),
            interval(by_family(found - rights[0], families), sizes, draws=bootstrap, seed=seed),
        )
        for arm, found in zip(arms, rights, strict=True)
    ]


def recommended(validation: Sequence[Result]) -> str:
    """Return the name of the arm that helps most on the validation items.

    The interval of the arm's lift must be above 0. If no arm has such an interval, the seeds alone are returned. The
    arm with people's labels is never recommended, because these labels are the cost to be saved.
    """
    helps = [r for r in validation[1:] if r.arm != PEOPLE and r.lift.low is not None and r.lift.low > 0]
    return max(helps, key=lambda r: r.lift.value).arm if helps else validation[0].arm


def written(arm: Arm, corpus: Corpus) -> list[Sample]:
    """Return the samples of an arm as they are trained on: each text with its label as the answer."""
    rows, labels, _ = arm.draws[0]
    found = []
    for row, label in zip(rows, labels, strict=True):
        sample, name = corpus.samples[row], corpus.names[label]
        if corpus.labels[row] >= 0:
            found.append(replace(sample, dropped=None))
            continue
        turns = (*(turn for turn in sample.messages if turn.role != "assistant"), Message("assistant", name))
        new = digest("self_training", sample.id, name)
        tags = {**sample.tags, "label": name, "label_source": "self_training"}
        found.append(replace(sample, id=new, parents=(sample.id,), method="self_training", messages=turns, tags=tags))
    return sorted(found, key=lambda sample: sample.id)
