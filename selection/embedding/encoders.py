"""The encoder for each kind of settings, and the files that must exist before an actor can open an encoder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import JobError, RunError
from gristmill.cluster.contract.settings import Settings
from gristmill.cluster.models.encoder import Embedding, Encoder, open_embedding
from gristmill.cluster.runtime.deaths import deaths, ended
from gristmill.cluster.runtime.resources import call
from gristmill.selection.contracts import VectorsOf, View, budget_rows
from gristmill.selection.embedding.actors import encoder_need
from gristmill.selection.relevance.gradients import GradientEncoder, Gradients, warm_up


def open_encoder(settings: Settings) -> Encoder:
    """Load the encoder of these settings; call this in the actor that will use the encoder.

    Raises:
        JobError: when the settings are of an unknown kind, or the model cannot be loaded.
    """
    if isinstance(settings, Embedding):
        return open_embedding(settings)
    if isinstance(settings, Gradients):
        return GradientEncoder(settings)
    raise JobError(f"encoder: {type(settings).__name__} describes none, must be an Embedding or Gradients")


def prepare_encoder(wanted: VectorsOf, view: View, folder: Callable[[], Path]) -> VectorsOf:
    """Make the files that must exist before an actor opens the encoder, and return `wanted` with their folder.

    Gradients need a model that was fine-tuned on a few of the samples, the same model for samples and targets. It is
    trained here, on one machine of the cluster, if no earlier build has done so.

    Args:
        wanted: the vectors that a step asks for. Settings other than `Gradients`, and settings with checkpoints, are
            returned unchanged.
        view: the samples to choose from, even if `wanted` is for the views in `beside`.
        folder: returns the folder of the checkpoints, which all machines must see.

    Raises:
        RunError: when the training process dies more often than Ray repeats it, or the memory of its machine is full.
    """
    settings = wanted.encoder
    if not isinstance(settings, Gradients) or settings.checkpoints or not len(view):
        return wanted
    import ray

    few = budget_rows(settings.warmup.share, len(view))
    path = folder() / f"warmup-{settings.trained_on(ids.of_bytes(view.ids[:few].tobytes()))[: ids.SHORT_HEX]}"
    if not path.exists():
        try:
            call(warm_up, encoder_need(settings), settings, view.some(wanted.part, np.arange(few)), path)
        except ray.exceptions.RayTaskError:  # raised by a living process
            raise
        except deaths() as error:
            raise RunError(
                f"select: {ended('the warm-up of gradients', error)}; lower the batch or share of its warmup"
            ) from error
    return wanted._replace(encoder=settings.model_copy(update={"checkpoints": str(path)}))
