"""The pool in virtual time: what deaths of actors and losses of machines cost, and whom it blames."""

from collections import Counter
from itertools import pairwise

import pytest

from gristmill.cluster.contract.errors import BusyError, RunError
from gristmill.cluster.runtime.pool import MAX_DEATHS, Pool, feed_from
from tests.virtual import VirtualActor, VirtualCalls


class Squares:
    """Squares numbers on virtual actors, each piece in 3 s; three at a time on each actor, as in a batch."""

    def __init__(self, calls: VirtualCalls, deadly: frozenset[int] = frozenset()) -> None:
        self.calls, self.deadly = calls, deadly
        self.made: list[tuple[float, int, int]] = []  # when, on which place, what
        self.began = Counter[int]()
        self.said: list[str] = []
        self.gave_up: list[int] = []

    def call(self, actor: VirtualActor, number: int) -> object:
        assert actor.up and not actor.dead, "an actor that has not started gets nothing"
        self.began[number] += 1
        ref = self.calls.call(actor)
        if number in self.deadly:
            self.calls.after(1.0, lambda: self.calls.kill(actor))
        self.calls.after(3.0, lambda: self.calls.finish(ref, number * number))
        return ref

    def run(self, numbers: int, actors: int, wait_s: float = 120.0) -> float:
        """Return the seconds that it took."""

        def done(number: int, square: int) -> None:
            assert square == number * number
            self.made.append((self.calls.clock, 0, number))

        with Pool[int, int](
            self.calls.spawn, self.call, actors, 3, give_up=lambda number, error: self.gave_up.append(number),
            job="square", wait_s=wait_s, say=self.said.append, calls=self.calls,
        ) as pool:  # fmt: skip
            pool.run(feed_from(range(numbers)), done, lambda: None)
        assert sorted([*self.gave_up, *(number for _, _, number in self.made)]) == list(range(numbers))
        return self.calls.clock

    def rate(self, begin: float, end: float) -> float:
        return sum(begin < when <= end for when, _, _ in self.made) / (end - begin)


def unbroken(numbers: int, actors: int) -> float:
    return Squares(VirtualCalls({"a": actors})).run(numbers, actors)


def test_a_death_costs_only_the_pieces_that_were_under_way() -> None:
    calls = VirtualCalls({"a": 2})
    squares = Squares(calls)
    calls.after(31.0, lambda: calls.kill(calls.actors[0]))
    seconds = squares.run(120, 2)
    assert sum(squares.began.values()) == 120 + 3, "three were lost and made again"
    assert seconds <= unbroken(120, 2) + 6.0


def test_a_deadly_piece_is_found_and_no_other_one_is_given_up() -> None:
    for deadly in range(12):
        calls = VirtualCalls({"a": 2})
        squares = Squares(calls, frozenset({deadly}))
        squares.run(60, 2)
        assert squares.gave_up == [deadly]
        assert squares.began[deadly] <= 4


def test_two_deadly_pieces_on_one_actor_are_found() -> None:
    squares = Squares(VirtualCalls({"a": 1}), frozenset({1, 2}))
    squares.run(30, 1)
    assert sorted(squares.gave_up) == [1, 2]


def test_without_a_spare_the_other_machine_goes_on_at_its_rate_and_nobody_is_blamed() -> None:
    calls = VirtualCalls({"a": 1, "b": 1})
    squares = Squares(calls)
    calls.after(30.5, lambda: calls.lose("b"))
    squares.run(300, 2)
    assert squares.rate(31, 61) >= 0.95, "three pieces in three seconds on one actor"
    assert squares.gave_up == []
    assert sum(squares.began.values()) == 303
    assert squares.said == [
        "square: a machine is lost, with worker 1; 1 of 2 workers go on, the others wait for a machine"
    ]


def test_a_machine_that_comes_back_is_used() -> None:
    calls = VirtualCalls({"a": 1, "b": 1})
    squares = Squares(calls)
    calls.after(30.5, lambda: calls.lose("b"))
    calls.after(60.5, lambda: calls.add("b", 1))
    squares.run(300, 2)
    assert squares.rate(70, 100) >= 1.9
    assert squares.said[1:] == ["square: worker 1 runs again on a machine, after 31 s"]


def test_the_loss_of_large_machines_does_not_end_a_run() -> None:
    calls = VirtualCalls({"a": 8, "b": 8, "c": 8})
    squares = Squares(calls)
    for machine in ("b", "c"):
        calls.after(10.2, lambda machine=machine: calls.lose(machine))  # type: ignore[misc]
    squares.run(600, 24)
    assert MAX_DEATHS <= 2 * 8, "more deaths than may follow each other"
    assert [line.partition(";")[0] for line in squares.said] == [
        "square: a machine is lost, with worker 8, 9, 10, 11, 12, 13, 14, 15",
        "square: a machine is lost, with worker 16, 17, 18, 19, 20, 21, 22, 23",
    ]


def test_full_memory_is_nobodys_fault() -> None:
    calls = VirtualCalls({"a": 1})
    squares = Squares(calls)
    for moment in (10.0, 20.0, 30.0, 40.0):
        calls.after(moment, lambda: calls.kill(calls.actors[0], "memory"))
    squares.run(60, 1)
    assert squares.gave_up == []


def test_with_no_machine_left_the_run_waits_and_then_says_to_try_again() -> None:
    calls = VirtualCalls({"a": 1})
    squares = Squares(calls)
    calls.after(10.0, lambda: calls.lose("a"))
    with pytest.raises(BusyError, match=r"no machine has had room for any of 1 workers for 6. s, .* run again"):
        squares.run(60, 1, wait_s=60.0)
    again = Squares(late := VirtualCalls({"a": 1}))
    late.after(10.0, lambda: late.lose("a"))
    late.after(60.0, lambda: late.add("b", 1))
    assert again.run(60, 1, wait_s=60.0) < 60 + unbroken(60, 1)


def test_actors_that_die_at_once_and_always_end_the_run() -> None:
    calls = VirtualCalls({"a": 64}, start_s=5.0)
    squares = Squares(calls, frozenset(range(1000)))
    squares.deadly = frozenset(range(1000))
    with pytest.raises(RunError, match=f"actors died {MAX_DEATHS} times without one finishing"):
        squares.run(1000, 64)
    assert calls.clock < 60


def test_the_figures_of_actors_are_looked_at_by_time_and_not_by_piece() -> None:
    calls, ticks = VirtualCalls({"a": 16}), list[float]()
    squares = Squares(calls)
    with Pool[int, int](calls.spawn, squares.call, 16, 3, calls=calls) as pool:
        pool.run(feed_from(range(4800)), lambda number, square: None, lambda: ticks.append(calls.clock))
    assert len(ticks) <= calls.clock
    assert max(later - tick for tick, later in pairwise(ticks)) <= 3.0
