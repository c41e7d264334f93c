"""The encoder as every package sees it: its settings, and a sentence-transformers checkpoint behind one call.

The only file that imports sentence_transformers.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from cluster import models
from cluster.dtypes import DTypeChoice, choose
from cluster.errors import JobError, RunError
from cluster.step import Settings

Float32 = NDArray[np.float32]
Pooling = Literal["checkpoint", "mean", "cls", "last", "weighted_mean"]
POOLING_MODES = {"mean": "mean", "cls": "cls", "last": "lasttoken", "weighted_mean": "weightedmean"}
"""Our names for poolings as sentence-transformers calls them."""
PLAIN: Any = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
"""A text is tokenised as it is; by default the library would put it into the chat template of a model that has one."""
SHORTEST = 1e-12
"""A vector that is shorter has no direction."""


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
    """A sentence-transformers checkpoint or, with a `pooling`, any model that `AutoModel` loads: `builtin:…`, a folder,
    or a name that the hub knows."""
    pooling: Pooling = "checkpoint"
    """How the vectors of the tokens become one: as the sentence-transformers checkpoint says, or, of the last layer,
    their `mean`, the first (`cls`), the `last`, or the mean weighted by the place, i / Σ i (`weighted_mean`, for models
    that look backwards only). Padding never counts."""
    backend: Literal["torch", "vllm"] = "torch"
    """What runs the model; vLLM must be installed, and knows no `weighted_mean`."""
    max_tokens: int = Field(default=128, gt=0)
    """Tokens of a text that are read; the rest is cut off."""
    batch: int = Field(default=32, gt=0)
    """Texts encoded at once; texts of like length stand together. vLLM makes its own batches."""
    dtype: Literal["float32", "float16"] = "float16"
    """How a number of a vector is stored."""
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What the model computes in. `auto` is what the machine computes fastest: on a CPU bfloat16 or float32, by a short
    timed product; on a GPU float16, or bfloat16 where the weights are. Vectors keep the type that they began with."""
    actors: int = Field(default=1, gt=0)
    """Processes that embed, each with the whole model."""
    cpus: float | None = Field(default=None, gt=0)
    """Cores of one actor; without GPU all cores of the cluster shared evenly, with GPU one."""
    gpus: float | None = Field(default=None, ge=0)
    """GPUs of one actor; one where the cluster has any, else none."""

    @model_validator(mode="after")
    def _known_to_backend(self) -> "Embedding":
        if self.backend == "vllm" and self.pooling == "weighted_mean":
            raise ValueError('pooling "weighted_mean" is not one of vLLM\'s; take backend = "torch"')
        return self

    def identity(self) -> dict[str, Any]:
        """Return what decides the vectors: the weights themselves rather than where they lie."""
        value = super().identity()
        value["fields"]["model"] = models.identity(self.model)
        return value


OpenEncoder = Callable[[Embedding], Encoder]


def open_embedding(settings: Embedding) -> Encoder:
    """Load the model on the backend that the settings name."""
    if settings.backend == "torch":
        return Checkpoint(settings)
    from cluster.encoder_vllm import VllmCheckpoint

    return VllmCheckpoint(settings)


def choose_dtype(settings: Embedding) -> DTypeChoice:
    """Return what this process computes the model in; takes seconds the first time on a machine."""
    if settings.compute_dtype != "auto":
        return DTypeChoice(settings.compute_dtype, "as the recipe says")
    found = choose(settings.model)
    if found.seconds:
        return found
    weights = models.weights_dtype(settings.model)
    return DTypeChoice("bfloat16" if weights == "bfloat16" else "float16", f"the GPU has it, the weights are {weights}")


def unit_rows(vectors: NDArray[np.floating], model: str) -> Float32:
    """Return [n, d] rows scaled to length 1.

    Raises:
        RunError: when a row holds a number that is not finite, or nothing but zeros.
    """
    rows = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > SHORTEST)))
    if len(wrong):
        raise RunError(
            f"encoder.model: {model} gives {len(wrong)} of {len(rows)} texts a vector of length "
            f"{lengths[wrong[0], 0]}, must be finite and above 0; take another model or pooling"
        )
    return np.asarray(rows / lengths, np.float32)


class Checkpoint:
    """A checkpoint of sentence-transformers, or any model of transformers with a pooling, as an `Encoder`."""

    def __init__(self, settings: Embedding) -> None:
        """Load it on the GPU if the process sees one, else on its share of cores."""
        import torch

        self._name, self._batch = settings.model, settings.batch
        dtype = choose_dtype(settings).dtype
        self._model = _load(settings, dtype).to(getattr(torch, dtype))  # a checkpoint may have layers after the model's
        tokenizer = self._model.tokenizer
        # behind a text padding changes nothing; before it, it moves the places of the tokens
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        longest = self._model.max_seq_length or settings.max_tokens
        self._model.max_seq_length = min(longest, settings.max_tokens)
        self.dim = int(self._model.get_embedding_dimension() or 0)

    def encode(self, texts: Sequence[str]) -> Float32:
        """Return unit vectors, [texts, dim]; the library batches texts of like length together."""
        vectors = self._model.encode(
            [text or " " for text in texts],  # of an empty text many tokenizers make no token at all
            batch_size=self._batch,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return unit_rows(np.asarray(vectors, np.float32).reshape(len(texts), self.dim), self._name)


def require_pooling(settings: Embedding) -> None:
    """Refuse a model that says nothing of its pooling where the settings do not either.

    Raises:
        JobError: naming the model.
    """
    from sentence_transformers.util import is_sentence_transformer_model

    if settings.pooling == "checkpoint" and not is_sentence_transformer_model(models.local(settings.model)):
        raise JobError(
            f"encoder.pooling: {settings.model} is no checkpoint of sentence-transformers and says none, must be "
            'named; set one, such as "mean", or "last" for a model that looks backwards only'
        )


def _load(settings: Embedding, dtype: str) -> Any:  # noqa: ANN401 - a SentenceTransformer
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling as PoolingModule
    from sentence_transformers.sentence_transformer.modules import Transformer

    require_pooling(settings)
    name, weights = models.local(settings.model), {"dtype": dtype}
    try:
        if settings.pooling == "checkpoint":
            return SentenceTransformer(name, model_kwargs=weights)
        plain = {"modality_config": PLAIN, "module_output_name": "token_embeddings"}
        tokens = Transformer(name, model_kwargs=weights, **plain)
        pooling = PoolingModule(tokens.get_embedding_dimension(), POOLING_MODES[settings.pooling])
        return SentenceTransformer(modules=[tokens, pooling])
    except (OSError, ValueError) as error:
        raise JobError(f"encoder.model: {settings.model} cannot be loaded: {error}") from error
