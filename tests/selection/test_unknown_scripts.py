"""Samples in a script that the encoder does not know, through a real actor."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gristmill.cluster.store.store import Store
from gristmill.cluster.text.scripts import script_of
from gristmill.selection.data.matrix import Float32
from gristmill.selection.job import NOT_COMPARED, Select
from gristmill.selection.selectors.diversity import Diversity
from gristmill.selection.selectors.semantic import Semantic
from tests.fakes import HashingEncoder
from tests.invariants import check_dataset
from tests.selection.made import made, put, run_of, work_for
from tests.selection.test_job import rows, select, step_of


class KnowsNoThai(HashingEncoder):
    """Makes one vector of every Thai text, as an encoder does to which all of its tokens are one."""

    def __init__(self, settings: object) -> None:
        del settings

    def encode(self, texts: Sequence[str]) -> Float32:
        return super().encode(["?" if script_of(text) == "Thai" else text for text in texts])

    def unknown(self, texts: Sequence[str]) -> Float32:
        return np.array([script_of(text) == "Thai" for text in texts], np.float32)


@pytest.mark.ray
def test_nothing_is_compared_in_a_script_that_the_encoder_does_not_know(
    ray_session: None, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    thai = [made(f"แมวตัวที่ {n} นอนอยู่บนเก้าอี้", f"คำตอบ {n}") for n in range(12)]
    twins = [made(f"Explain how rain forms above the sea{end}", "By steam.") for end in (", please.", " please")]
    samples = put(store, "generate-x", [*thai, *twins, *(s for s in rows() if s.dropped is None)])
    steps = (Semantic(min_cosine=0.9, min_overlap=0), Diversity(method="k_center", budget=0.5))
    work = work_for(Select(steps=steps, shard_rows=10, topics=3), samples)
    figures = select(Select(steps=steps, shard_rows=10, topics=3), run_of(store, tmp_path), work, KnowsNoThai)
    (unknown,) = figures.unknown_scripts
    assert (unknown.script, unknown.rows, unknown.unknown) == ("Thai", 12, 1.0)
    assert "does not know the script Thai: 100% of the tokens of 12 samples" in caplog.text
    names = {sample.id for sample in thai}
    gone = [s for s in check_dataset(store, work.output) if s.id in names and s.dropped is not None]
    assert len(gone) == 6
    assert all((s.dropped or "").startswith("diversity") and "lost_to" not in s.tags for s in gone)
    assert step_of(figures, "semantic").kept < step_of(figures, "semantic").rows
    topic = next(topic for topic in figures.topics if topic.name == NOT_COMPARED)
    assert (topic.rows, topic.kept) == (12, 6)
