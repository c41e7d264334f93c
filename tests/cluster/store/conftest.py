"""Stores of both kinds: in a folder, and in an object store."""

from collections.abc import Iterator

import pytest

from gristmill.cluster.store import lease
from gristmill.cluster.store.store import Store
from tests.fake_objects import Objects, serving


@pytest.fixture
def server() -> Iterator[Objects]:
    """An object store without objects."""
    with serving() as found:
        yield found


@pytest.fixture
def away(server: Objects) -> Store:
    """An empty store of objects."""
    return Store(server.uri)


@pytest.fixture(params=["files", "objects"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store of each kind. Leases of objects are looked at often, as those of files are."""
    monkeypatch.setattr(lease, "LOOK_AT_OBJECT_S", 0.1)
    found: Store = request.getfixturevalue("store" if request.param == "files" else "away")
    return found
