"""Encoders by their settings, and the warm-up that comes before gradients."""

from pathlib import Path

import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.settings import Settings
from gristmill.cluster.models.encoder import Embedding
from gristmill.cluster.models.encoder_torch import TorchEncoder
from gristmill.selection.contracts import VectorsOf
from gristmill.selection.embedding.encoders import open_encoder, prepare_encoder
from gristmill.selection.relevance.gradients import GradientEncoder, Gradients, TargetGradients, Warmup
from tests.selection.made import made, view_of

SAMPLES = [made(f"Name {n} rivers.", f"Here are {n}.") for n in range(8)]


def test_settings_say_which_encoder_is_opened(tiny: str) -> None:
    assert isinstance(open_encoder(Embedding(model=tiny, pooling="mean")), TorchEncoder)
    with pytest.raises(JobError, match="holds no checkpoints"):
        open_encoder(Gradients())
    with pytest.raises(JobError, match="Settings describes none, must be an Embedding or Gradients"):
        open_encoder(Settings())


def test_what_needs_no_warm_up_comes_back_as_it_is(tmp_path: Path) -> None:
    view = view_of(SAMPLES)
    for wanted in (VectorsOf(Embedding(), "instruction"), VectorsOf(Gradients(checkpoints="/there"), "chat")):
        assert prepare_encoder(wanted, view, lambda: tmp_path) == wanted
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
def test_a_warm_up_is_made_once_and_shared_by_samples_and_targets(ray_session: None, tmp_path: Path, tiny: str) -> None:
    plain = Gradients(model=tiny, warmup=Warmup(share=0.5, epochs=1, r=2, alpha=4), dim=64, cpus=1)
    view = view_of(SAMPLES)
    mine = prepare_encoder(VectorsOf(plain, "chat"), view, lambda: tmp_path)
    folder = Path(mine.encoder.checkpoints)
    written = (folder / "schedule.json").stat().st_mtime_ns
    theirs = prepare_encoder(
        VectorsOf(TargetGradients(**dict(plain)), "chat"), view_of(SAMPLES[::-1]), lambda: tmp_path
    )
    assert theirs.encoder.checkpoints == str(folder)
    assert (folder / "schedule.json").stat().st_mtime_ns == written
    encoder = open_encoder(mine.encoder)
    assert isinstance(encoder, GradientEncoder)
    assert encoder.encode(view.texts("chat").to_pylist()).shape == (8, 64)
    other = prepare_encoder(VectorsOf(plain, "chat"), view_of(SAMPLES[:4]), lambda: tmp_path)
    assert other.encoder.checkpoints != str(folder)
