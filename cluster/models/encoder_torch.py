"""A checkpoint of sentence-transformers, or any model of transformers with a pooling, as an `Encoder`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.models import names as models
from gristmill.cluster.models.encoder import (
    Embedding,
    Float32,
    choose_dtype,
    require_pooling,
    unit_rows,
    unknown_shares,
)

POOLING_MODES = {"mean": "mean", "cls": "cls", "last": "lasttoken", "weighted_mean": "weightedmean"}
"""The names of poolings in sentence-transformers, by our names."""
PLAIN: Any = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
"""Option by which texts are tokenised unchanged. By default the library applies a model's chat template, if any."""


class TorchEncoder:
    """A checkpoint of sentence-transformers, or any model of transformers with a pooling, as an `Encoder`."""

    def __init__(self, settings: Embedding) -> None:
        """Load the model on the GPU if the process sees one, else on its share of the cores."""
        import torch

        self._name, self._batch = settings.model, settings.batch
        dtype = choose_dtype(settings).dtype
        self._model = _load(settings, dtype).to(getattr(torch, dtype))  # a checkpoint may have layers after the model's
        tokenizer = self._model.tokenizer
        # padding after a text changes nothing; padding before a text would move the positions of its tokens
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        longest = self._model.max_seq_length or settings.max_tokens
        self._model.max_seq_length = min(longest, settings.max_tokens)
        self.dim = int(self._model.get_embedding_dimension() or 0)

    def encode(self, texts: Sequence[str]) -> Float32:
        """Return unit vectors, [len(texts), dim]. The library puts texts of similar length into one batch."""
        vectors = self._model.encode(
            [text or " " for text in texts],  # many tokenizers make no token from an empty text
            batch_size=self._batch,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return unit_rows(np.asarray(vectors, np.float32).reshape(len(texts), self.dim), self._name)

    def unknown(self, texts: Sequence[str]) -> Float32:
        """Return the share of unknown tokens in each text, [len(texts)]."""
        return unknown_shares(self._model.tokenizer, texts, self._model.max_seq_length)


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
