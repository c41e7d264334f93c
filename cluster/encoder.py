"""The encoder as every package sees it: its settings, and a sentence-transformers checkpoint behind one call.

The only file that imports sentence_transformers.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cluster import models
from cluster.errors import JobError
from cluster.step import Settings

Float32 = NDArray[np.float32]


class Encoder(Protocol):
    """A model that turns texts into unit vectors; it lives inside one actor."""

    dim: int
    """Numbers in one vector."""

    def encode(self, texts: Sequence[str]) -> Float32:
        """Return [len(texts), dim] float32 with rows of length 1, the same for the same texts."""


class Embedding(Settings):
    """`[select.encoder]` and `[generate.encoder]`: which model makes the vectors, on how many actors."""

    not_identity: ClassVar[frozenset[str]] = frozenset({"actors", "cpus", "gpus"})

    model: str = models.MINILM
    """A sentence-transformers checkpoint: `builtin:…`, a folder, or a name that the hub knows."""
    max_tokens: int = Field(default=128, gt=0)
    """Tokens of a text that are read; the rest is cut off."""
    batch: int = Field(default=32, gt=0)
    """Texts encoded at once; texts of like length stand together."""
    dtype: Literal["float32", "float16"] = "float32"
    """How a number of a vector is stored."""
    actors: int = Field(default=1, gt=0)
    """Processes that embed, each with the whole model."""
    cpus: float | None = Field(default=None, gt=0)
    """Cores of one actor; without GPU all cores of the cluster shared evenly, with GPU one."""
    gpus: float | None = Field(default=None, ge=0)
    """GPUs of one actor; one where the cluster has any, else none."""

    def identity(self) -> dict[str, Any]:
        """Return what decides the vectors: the weights themselves rather than where they lie."""
        value = super().identity()
        value["fields"]["model"] = models.identity(self.model)
        return value


OpenEncoder = Callable[[Embedding], Encoder]


class Checkpoint:
    """A sentence-transformers checkpoint as an `Encoder`."""

    def __init__(self, settings: Embedding) -> None:
        """Load it on the GPU if the process sees one, else on its share of cores."""
        from sentence_transformers import SentenceTransformer

        self._batch = settings.batch
        try:
            self._model = SentenceTransformer(models.local(settings.model))
        except (OSError, ValueError) as error:
            raise JobError(
                f"encoder.model: {settings.model} is no checkpoint of sentence-transformers: {error}"
            ) from error
        longest = self._model.max_seq_length or settings.max_tokens
        self._model.max_seq_length = min(longest, settings.max_tokens)
        self.dim = int(self._model.get_embedding_dimension() or 0)

    def encode(self, texts: Sequence[str]) -> Float32:
        """Return unit vectors, [texts, dim]; the library batches texts of like length together."""
        vectors = self._model.encode(
            list(texts),
            batch_size=self._batch,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, dtype=np.float32).reshape(len(texts), self.dim)
