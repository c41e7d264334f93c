"""Fixtures of all layers: one Ray session and one tiny model for the run, stores in temporary folders."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gristmill.cluster.runtime.session import session
from gristmill.cluster.store.store import Store
from tests.fakes import two_layer_model

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell starts what runs in the background so, and the programs that tests start and interrupt would ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray of two CPUs for all tests of the ray layer."""
    with session(None, 2, 0, dashboard=True):
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of the two-layer model, written once and only read.

    Its products take one core: shared out between two busy cores, tests of gradients took four times as long.
    """
    import torch

    torch.set_num_threads(1)
    return two_layer_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty local store."""
    return Store(str(tmp_path / "store"))
