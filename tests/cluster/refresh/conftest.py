"""A line of three rounds that is made once, and a base model that is only read."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.refresh import machine


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return machine.base_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    machine.install(monkeypatch.setattr)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, base: str) -> Iterator[Path]:
    """Folder of a line whose rounds are promoted, inconclusive, and promoted; it is only read."""
    folder = tmp_path_factory.mktemp("line")
    with pytest.MonkeyPatch.context() as patch:
        machine.install(patch.setattr)
        machine.grade(folder, 0.9, 0.9, 1.0)
        path = machine.recipe(folder, base)
        for number in (1, 2, 3):
            assert machine.tick(path, number) == 0
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def line(made: Path) -> Iterator[Path]:
    """The folder of that line, which may be changed; afterwards it is as before. Recipes name it by its path."""
    copy = made.with_name(f"{made.name}-copy")
    shutil.copytree(made, copy)
    yield made
    shutil.rmtree(made)
    copy.rename(made)
