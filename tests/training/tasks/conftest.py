"""The tiny models, written once for all tests of this folder."""

import pytest

from tests.training.tasks.models import write


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> dict[str, str]:
    """Folders of tiny models by their kind."""
    kinds = ("bert", "distilbert", "xlm-roberta")
    return {"llama": tiny, **{kind: write(tmp_path_factory.mktemp(kind), kind) for kind in kinds}}
