"""The quickstart on a machine with an NVIDIA GPU, at reduced size: one engine and one training worker a GPU."""

from pathlib import Path

import pytest

from gristmill.cluster.store.store import Store
from tests.flow.test_quickstart import RECIPE, SMALL, gristmill
from tests.invariants import check_dataset

pytestmark = pytest.mark.gpu


def test_the_quickstart_runs_on_the_gpu(tmp_path: Path) -> None:
    import torch

    assert torch.cuda.is_available()
    gristmill(tmp_path, "run", RECIPE, *SMALL, "--set", f"train.workers={torch.cuda.device_count()}")
    store = Store(str(tmp_path / "runs"))
    made = {manifest.job: manifest for manifest in store.entries()[0]}
    check_dataset(store, made["generate"].name, made["ingest"].name)
    assert store.figures(made["generate"].name)["tokens_per_s"] > 0
