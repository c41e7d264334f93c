"""Fixtures of all layers: one Ray session for the run, stores in temporary folders."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gristmill.cluster.runtime.session import session
from gristmill.cluster.store.store import Store


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray of two CPUs for all tests of the ray layer."""
    with session(None, 2, 0, dashboard=True):
        yield


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty local store."""
    return Store(str(tmp_path / "store"))
