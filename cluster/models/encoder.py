"""The interface of the encoder: its settings, how it is opened, and the code that both backends share."""

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from gristmill.cluster.contract.errors import JobError, RunError
from gristmill.cluster.contract.settings import Settings
from gristmill.cluster.models import names as models
from gristmill.cluster.models.dtypes import DTypeChoice, choose
from gristmill.cluster.text.scripts import HANGUL, UNSPACED, script_of

_WHOLE = re.compile(f"[{UNSPACED}{HANGUL}]")
"""A character that is a unit by itself."""
Float32 = NDArray[np.float32]
Pooling = Literal["checkpoint", "mean", "cls", "last", "weighted_mean"]
BACKENDS = {
    "torch": "gristmill.cluster.models.encoder_torch:TorchEncoder",
    "vllm": "gristmill.cluster.models.encoder_vllm:VllmEncoder",
}
"""Class of each backend; strings, because either library may be missing."""
SHORTEST = 1e-12
"""A shorter vector has no direction."""
UNKNOWN = 0.4
"""Share of unknown tokens above which an encoder does not know a script. Measured with the English MiniLM: 0.9 to 1 for
Cyrillic, Arabic, Greek, Korean, Thai, Khmer and Amharic, 0.67 for kana, 0.65 for Chinese, 0.5 for Georgian and Tamil;
0 for English. Of 20 sentences with a paraphrase each, the paraphrase was the nearest of all in 5 to 12 % in the first
four, in 28 % in Chinese and in 100 % in English. multilingual-e5-small has 0 to 0.14, in one sentence up to 0.38, and
finds 85 to 100 %."""


class Encoder(Protocol):
    """A model that turns texts into unit vectors; it lives inside one actor."""

    dim: int
    """Numbers in one vector."""

    def encode(self, texts: Sequence[str]) -> Float32:
        """Return [len(texts), dim] float32 with rows of length 1, the same for the same texts."""

    def unknown(self, texts: Sequence[str]) -> Float32:
        """Return [len(texts)] the share of unknown tokens in each text, see `unknown_shares`."""


class Embedding(Settings):
    """`[select.encoder]` and `[generate.encoder]`: the model that makes the vectors, and its actors."""

    not_identity: ClassVar[frozenset[str]] = frozenset({"actors", "cpus", "gpus"})

    model: str = models.MINILM
    """A sentence-transformers checkpoint or, with a `pooling`, any model that `AutoModel` loads: `builtin:…`, a folder,
    or a name that the hub knows."""
    pooling: Pooling = "checkpoint"
    """How the token vectors of the last layer become one vector. `checkpoint`: as the sentence-transformers checkpoint
    says; else their `mean`, the first (`cls`), the `last`, or the mean weighted by place, i / Σ i (`weighted_mean`, for
    causal models). Padding never counts."""
    backend: Literal["torch", "vllm"] = "torch"
    """Library that runs the model. vLLM must be installed, and it has no `weighted_mean`."""
    max_tokens: int = Field(default=128, gt=0)
    """Tokens of a text that are read; the rest is cut."""
    batch: int = Field(default=32, gt=0)
    """Texts encoded at once; texts of similar length are put together. vLLM makes its own batches."""
    dtype: Literal["float32", "float16"] = "float16"
    """Type in which a number of a vector is stored."""
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type that the model computes in. `auto` is the fastest on the machine: on a CPU bfloat16 or float32, by a short
    timed product; on a GPU float16, or bfloat16 where the weights are bfloat16. A set of vectors keeps the type that it
    began with."""
    actors: int = Field(default=1, gt=0)
    """Processes that embed, each with the whole model."""
    cpus: float | None = Field(default=None, gt=0)
    """Cores of one actor. By default one with a GPU; without one, an even share of all cores, at most a machine's."""
    gpus: float | None = Field(default=None, ge=0)
    """GPUs of one actor. By default one where the cluster has any, else none."""

    @model_validator(mode="after")
    def _known_to_backend(self) -> "Embedding":
        if self.backend == "vllm" and self.pooling == "weighted_mean":
            raise ValueError('pooling "weighted_mean" is not one of vLLM\'s; take backend = "torch"')
        return self

    def identity(self) -> dict[str, Any]:
        """Return what decides the vectors: the digest of the weights instead of their path."""
        value = super().identity()
        value["fields"]["model"] = models.identity(self.model)
        return value


OpenEncoder = Callable[[Embedding], Encoder]


def open_embedding(settings: Embedding) -> Encoder:
    """Load the model on the backend that the settings name."""
    module, name = BACKENDS[settings.backend].split(":")
    encoder: Encoder = getattr(import_module(module), name)(settings)
    return encoder


def choose_dtype(settings: Embedding) -> DTypeChoice:
    """Return the type that this process computes the model in; takes seconds the first time on a machine."""
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
        RunError: when a row holds a number that is not finite, or only zeros.
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


def default_prompt(model: str) -> str:
    """Return the prefix that the checkpoint in a folder needs before each text, such as `query: `, or nothing."""
    path = Path(models.local(model)) / "config_sentence_transformers.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return str((said.get("prompts") or {}).get(said.get("default_prompt_name") or "", ""))


def unknown_shares(tokenizer: Any, texts: Sequence[str], longest: int) -> Float32:  # noqa: ANN401 - of transformers
    """Return [len(texts)] the share of each text's tokens that have no meaning for the model.

    These are the unknown token, and letters by themselves: a vocabulary without the words of a script may have its
    letters, and spells each word. Not so in Latin, nor where a character is a unit, such as a Chinese one or a Korean
    syllable. The tokens of a model that reads bytes are no letters of the script, so it has 0.
    """
    if not texts:
        return np.zeros(0, np.float32)
    found = tokenizer(list(texts), add_special_tokens=False, truncation=True, max_length=longest)["input_ids"]
    shares = np.zeros(len(texts), np.float32)
    for row, (text, tokens) in enumerate(zip(texts, found, strict=True)):
        unknown = tokens.count(tokenizer.unk_token_id)
        if (script := script_of(text)) not in {"", "Latin"}:
            unknown += sum(_letter_of(token) == script for token in tokenizer.convert_ids_to_tokens(tokens))
        shares[row] = unknown / max(1, len(tokens))
    return shares


@lru_cache(maxsize=65536)
def _letter_of(token: str) -> str:
    """Return the script of a token that is one letter, else the empty string."""
    letter = token.removeprefix("##").lstrip("▁")
    return script_of(letter) if len(letter) == 1 and not _WHOLE.match(letter) else ""


def require_pooling(settings: Embedding) -> None:
    """Refuse a model without a pooling, unless the settings name one.

    Raises:
        JobError: naming the model.
    """
    from sentence_transformers.util import is_sentence_transformer_model

    if settings.pooling == "checkpoint" and not is_sentence_transformer_model(models.local(settings.model)):
        raise JobError(
            f"encoder.pooling: {settings.model} is no checkpoint of sentence-transformers and names none, must be "
            'named; set one, such as "mean", or "last" for a causal model'
        )
