"""The actor pool on a real Ray session: everything is done once, the dead are replaced, a deadly shard ends the run."""

import os
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.contract.errors import RunError, SchemaError
from gristmill.cluster.runtime.pool import Pool, feed_from

pytestmark = pytest.mark.ray


class Worker:
    """Squares numbers; dies at `deadly` as often as its marker file has room for."""

    def __init__(self, folder: str, deadly: int, deaths: int) -> None:
        self.folder, self.deadly, self.deaths = Path(folder), deadly, deaths

    def square(self, number: int) -> int:
        if number == self.deadly and len(list(self.folder.iterdir())) < self.deaths:
            (self.folder / str(os.getpid())).touch()
            os._exit(1)
        if number < 0:
            raise SchemaError(f"{number}: negative, must not be")
        return number * number


def work(folder: Path, numbers: list[int], deadly: int = -1, deaths: int = 0) -> dict[int, int]:
    import ray

    results: dict[int, int] = {}
    actor: Any = ray.remote(Worker)

    def done(number: int, square: int) -> None:
        assert number not in results
        results[number] = square

    with Pool[int, int](
        lambda _: actor.options(num_cpus=0).remote(str(folder), deadly, deaths), lambda a, n: a.square.remote(n), 2
    ) as pool:
        pool.run(feed_from(numbers), done, lambda: None)
    return results


def test_every_piece_is_done_once(ray_session: None, tmp_path: Path) -> None:
    assert work(tmp_path, list(range(20))) == {n: n * n for n in range(20)}


def test_a_dead_actor_is_replaced_and_loses_nothing(ray_session: None, tmp_path: Path) -> None:
    assert work(tmp_path, list(range(20)), deadly=7, deaths=1) == {n: n * n for n in range(20)}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_piece_that_takes_every_actor_down_ends_the_run_by_name(ray_session: None, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^7: took two actors down"):
        work(tmp_path, [7], deadly=7, deaths=99)


def test_an_error_of_ours_comes_through_with_its_message(ray_session: None, tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="-3: negative"):
        work(tmp_path, [1, -3])
