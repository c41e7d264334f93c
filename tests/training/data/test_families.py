"""No row that is trained on is kin of one held out, whatever way the rows were made."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Message, Sample, seed, to_table
from gristmill.cluster.text.keys import overlap
from gristmill.cluster.text.keys import words as words_of
from gristmill.training.data import families

WORDS = [
    begin + end for begin in ("ba", "re", "ti", "so", "mu", "kla", "vor") for end in ("n", "ster", "lu", "go", "x")
]


def words(rng: Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) + str(rng.randrange(9)) for _ in range(count))


def row(rng: Random, parents: Sequence[Sample] = (), text: str = "") -> Sample:
    text = text or words(rng, 20)
    made = seed([Message("user", text), Message("assistant", words(rng, 5))])
    return replace(made, parents=tuple(parent.id for parent in parents), method="made" if parents else "seed")


def seeds(rng: Random, count: int = 40) -> list[Sample]:
    return [row(rng) for _ in range(count)]


def augmented(rng: Random) -> list[Sample]:
    """Five edits of each seed, which is not in the dataset."""
    return [row(rng, [parent], edited(rng, parent.instruction)) for parent in seeds(rng) for _ in range(5)]


def evolved(rng: Random) -> list[Sample]:
    """Chains: each row is made from the one before."""
    made = []
    for oldest in seeds(rng):
        chain = [oldest]
        for _ in range(rng.randrange(1, 5)):
            chain.append(row(rng, [chain[-1]]))
        made += chain[1:]
    return made


def demonstrated(rng: Random) -> list[Sample]:
    """Six seeds and two rows of earlier rounds are shown for each row."""
    pool, made = seeds(rng), list[Sample]()
    for n in range(120):
        made.append(row(rng, [*rng.sample(pool, 6), *(rng.sample(made[: n // 2], 2) if n > 40 else ())]))
    return made


def labelled(rng: Random) -> list[Sample]:
    """Three seeds of one label out of two are shown for each row."""
    pools = [seeds(rng, 10), seeds(rng, 10)]
    return [row(rng, rng.sample(pools[n % 2], 3)) for n in range(100)]


def copied(rng: Random) -> list[Sample]:
    """Near copies that no parent links."""
    return [row(rng, text=edited(rng, base.instruction)) for base in seeds(rng) for _ in range(3)]


def mixed(rng: Random) -> list[Sample]:
    return [*augmented(rng), *demonstrated(rng), *copied(rng)]


def edited(rng: Random, text: str) -> str:
    found = text.split()
    found[rng.randrange(len(found))] = words(rng, 1)
    return " ".join(found)


METHODS: list[Callable[[Random], list[Sample]]] = [augmented, evolved, demonstrated, labelled, copied, mixed]


def kin(rows: Sequence[Sample]) -> set[tuple[int, int]]:
    """Pairs of rows of which one is the other's parent, or that are near copies."""
    place = {sample.id: n for n, sample in enumerate(rows)}
    parents = {(n, place[parent]) for n, sample in enumerate(rows) for parent in sample.parents if parent in place}
    texts = [words_of(sample.instruction) for sample in rows]
    return parents | {(n, m) for m in range(len(rows)) for n in range(m) if overlap(texts[n], texts[m]) >= 0.9}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", range(4))
def test_no_row_trained_on_is_kin_of_one_held_out(method: Callable[[Random], list[Sample]], number: int) -> None:
    rows = method(Random(number))
    usable = np.array([n % 11 > 0 for n in range(len(rows))])
    found = families.split(to_table(rows), usable, 0.1)
    trained = usable & ~found.held & ~found.left_out
    assert [pair for pair in kin(rows) if found.held[[*pair]].any() and trained[[*pair]].any()] == []
    assert not (found.held & ~usable).any()
    assert not (found.held & found.left_out).any()
    assert 0 < found.held.sum() <= 0.2 * usable.sum() + 1
    assert trained.sum() > 0.6 * usable.sum()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [2, 5])
def test_folds_hold_out_each_row_once_and_no_kin_of_a_row_trained_on(
    method: Callable[[Random], list[Sample]], count: int
) -> None:
    rows = method(Random(count))
    usable = np.array([n % 11 > 0 for n in range(len(rows))])
    found = families.folds(to_table(rows), usable, count)
    assert np.array_equal(sum(fold.held.astype(int) for fold in found), usable)
    related = kin(rows)
    for fold in found:
        trained = usable & ~fold.held & ~fold.left_out
        assert [pair for pair in related if fold.held[[*pair]].any() and trained[[*pair]].any()] == []
        sides = {family: fold.held[usable & (fold.families == family)] for family in np.unique(fold.families[usable])}
        assert all(held.all() or not held.any() for held in sides.values()), "a family is in two folds"
        assert 0.4 / count < fold.held.sum() / usable.sum() < 2 / count


def test_folds_do_not_depend_on_the_order_of_rows() -> None:
    rows = augmented(Random(1))
    one, other = (families.folds(to_table(some), np.ones(len(rows), np.bool_), 4) for some in (rows, rows[::-1]))
    assert [fold.held.tolist() for fold in one] == [fold.held[::-1].tolist() for fold in other]


def test_more_folds_than_families_are_refused() -> None:
    rows = to_table([row(Random(1), text=f"{'so ' * 30}{n}") for n in range(6)])
    with pytest.raises(JobError, match=r"train\.folds: 3, but the 6 rows are only 1 families"):
        families.folds(rows, np.ones(6, np.bool_), 3)


def test_siblings_of_one_seed_stay_together() -> None:
    rows = augmented(Random(0))
    found = families.split(to_table(rows), np.ones(len(rows), np.bool_), 0.1)
    sides: dict[tuple[str, ...], set[bool]] = {sample.parents: set() for sample in rows}
    for sample, held in zip(rows, found.held.tolist(), strict=True):
        sides[sample.parents].add(held)
    assert all(len(side) == 1 for side in sides.values())
    assert not found.left_out.any()
    assert found.relatives == 0


def test_shared_demonstrations_are_said_where_they_cannot_be_kept_apart() -> None:
    rows = demonstrated(Random(0))
    found = families.split(to_table(rows), np.ones(len(rows), np.bool_), 0.1)
    assert found.relatives == found.held.sum() == 12


def test_a_label_is_not_held_out_whole() -> None:
    rows = labelled(Random(0))
    found = families.split(to_table(rows), np.ones(len(rows), np.bool_), 0.1)
    assert {n % 2 for n in np.flatnonzero(~found.held).tolist()} == {0, 1}


def test_rows_are_linked_by_rows_that_were_dropped() -> None:
    rng = Random(0)
    first, second = seeds(rng, 2)
    middle = row(rng, [first]).drop("length: short")
    rows = [middle, row(rng, [middle]), row(rng, [first]), row(rng, [second]), row(rng, [second])]
    found = families.families(to_table(rows))
    assert found[0] == found[1] == found[2] != found[3] == found[4]


def test_candidates_of_one_group_are_one_family() -> None:
    rng = Random(0)
    rows = [replace(row(rng), tags={"group": name}) for name in "aabb"]
    assert families.families(to_table(rows)).tolist() == [0, 0, 1, 1]


def test_the_order_of_rows_does_not_change_who_is_held_out() -> None:
    rows = mixed(Random(1))
    held = [families.split(to_table(some), np.ones(len(rows), np.bool_), 0.1).held for some in (rows, rows[::-1])]
    assert held[0].tolist() == held[1][::-1].tolist()


def test_rows_without_kin_keep_their_lot_when_the_dataset_grows() -> None:
    rows = seeds(Random(2), 400)
    few, many = (families.split(to_table(some), np.ones(len(some), np.bool_), 0.1).held for some in (rows[:200], rows))
    assert few.tolist() == many[:200].tolist()
    assert 0.05 < many.mean() < 0.16


def test_at_least_one_row_is_held_out_and_one_is_not() -> None:
    rows = to_table(seeds(Random(3), 5))
    assert families.split(rows, np.ones(5, np.bool_), 1e-9).held.sum() == 1
    assert families.split(rows, np.ones(5, np.bool_), 0.999999999).held.sum() == 4


def test_copies_of_one_row_alone_cannot_be_split() -> None:
    rng = Random(4)
    base = row(rng)
    rows = to_table([row(rng, text=edited(rng, base.instruction)) for _ in range(5)])
    with pytest.raises(JobError, match="all 5 rows are near copies"):
        families.split(rows, np.ones(5, np.bool_), 0.2)


def test_descendants_are_found_over_rows_of_any_kind() -> None:
    rng = Random(5)
    first, second = seeds(rng, 2)
    child = row(rng, [first, second]).drop("length: short")
    rows = [child, row(rng, [child]), row(rng, [second]), first]
    assert families.descendants(to_table(rows), [first.id]).tolist() == [True, True, False, True]
