"""The select job with the real encoder."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gristmill.cluster.models.encoder import Embedding
from gristmill.cluster.models.encoder_torch import TorchEncoder
from gristmill.cluster.store.store import Store
from gristmill.selection.data.matrix import Float32
from gristmill.selection.data.parts import parts_of
from gristmill.selection.data.samples import open_samples
from gristmill.selection.data.vectors import matrix_of
from gristmill.selection.job import Select
from gristmill.selection.selectors.diversity import Diversity
from gristmill.selection.selectors.exact import Exact
from gristmill.selection.selectors.semantic import Semantic
from tests.invariants import check_dataset
from tests.selection.made import made, put, run_of, work_for
from tests.selection.test_job import select, step_of

PAIRS = (
    ("Write a short poem about autumn leaves.", "Write a brief poem about the leaves of autumn."),
    ("How do I boil an egg?", "How can I boil an egg?"),
    ("Translate this sentence into French: Good morning.", "Please translate this sentence into French: Good morning."),
    ("Sort the list of numbers in ascending order: 4, 2, 9", "Sort this list of numbers in ascending order: 4, 2, 9"),
)
STRANGERS = ("Name three rivers in Germany.", "Explain how taxes work.", "Write a dialogue between a cat and a dog.")


def dies_once(marker: Path) -> type[TorchEncoder]:
    """The real encoder in a process that is killed with its second shard."""

    class Dying(TorchEncoder):
        def __init__(self, settings: Embedding) -> None:
            super().__init__(settings)
            self.calls = 0

        def encode(self, texts: Sequence[str]) -> Float32:
            self.calls += 1
            if self.calls == 2 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().encode(texts)

    return Dying


@pytest.mark.flow
def test_paraphrases_go_and_strangers_stay_though_the_encoder_is_killed(
    ray_session: None, store: Store, tmp_path: Path
) -> None:
    texts = [*(text for pair in PAIRS for text in pair), *STRANGERS]
    samples = [made(text, "an answer " * (len(texts) + 5 - n)) for n, text in enumerate(texts)]
    put(store, "generate-x", samples)
    settings = Select(steps=(Exact(), Semantic(min_cosine=0.9), Diversity(method="k_center", budget=6)), shard_rows=4)
    work = work_for(settings, "generate-x")
    marker = tmp_path / "killed"
    figures = select(settings, run_of(store, tmp_path), work, dies_once(marker))
    assert marker.exists()
    assert figures.embedded == len(texts)
    pool, _ = open_samples(parts_of(store, "generate-x"), "generate-x")
    place = np.searchsorted(pool.ids, [s.id.encode() for s in samples])
    vectors = matrix_of(store, store.manifest(work.output).metadata["vectors"], pool).take(place)
    assert vectors.shape == (11, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    cosines = vectors @ vectors.T
    twins = [float(cosines[n, n + 1]) for n in range(0, 8, 2)]
    others = [float(cosines[a, b]) for a in range(11) for b in range(a) if not (a < 8 and a // 2 == b // 2)]
    assert min(twins) > 0.9
    assert max(others) < 0.6
    out = check_dataset(store, work.output)
    assert step_of(figures, "semantic").kept == len(texts) - 4
    assert figures.kept == 6
    lost = {s.id: s.tags["lost_to"] for s in out if (s.dropped or "").startswith("semantic")}
    assert lost == {samples[n + 1].id: samples[n].id for n in range(0, 8, 2)}
