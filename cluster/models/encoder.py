"""The interface of the encoder: its settings, the function that opens it, and the code that both backends share."""

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
"""Matches a character that is a unit of meaning by itself."""
Float32 = NDArray[np.float32]
Pooling = Literal["checkpoint", "mean", "cls", "last", "weighted_mean"]
BACKENDS = {
    "torch": "gristmill.cluster.models.encoder_torch:TorchEncoder",
    "vllm": "gristmill.cluster.models.encoder_vllm:VllmEncoder",
}
"""Class of each backend as `module:class`. It is a string, because either library may be missing."""
SHORTEST = 1e-12
"""Least length of a vector. A shorter one has no direction."""
UNKNOWN = 0.4
"""Share of unknown tokens above which an encoder does not know a script.

Measured with the English MiniLM, the share is 0.9 to 1 for Cyrillic, Arabic, Greek, Korean, Thai, Khmer and Amharic. It
is 0.67 for kana, 0.65 for Chinese, 0.5 for Georgian and Tamil, and 0 for English. For 20 sentences, each with a
paraphrase, the paraphrase was the nearest of all for 5 to 12 % of them in the first four scripts, for 28 % in Chinese
and for 100 % in English. multilingual-e5-small has a share of 0 to 0.14, and of 0.38 for one sentence. It finds 85 to
100 % of the paraphrases.
"""


class Encoder(Protocol):
    """A model that turns texts into unit vectors. It is loaded inside one actor."""

    dim: int
    """Number of dimensions of a vector."""

    def encode(self, texts: Sequence[str]) -> Float32:
        """Return a [len(texts), dim] array with rows of length 1. The same texts always give the same array."""

    def unknown(self, texts: Sequence[str]) -> Float32:
        """Return the share of unknown tokens in each text, [len(texts)], as `unknown_shares` does."""


class Embedding(Settings):
    """`[select.encoder]` and `[generate.encoder]`: the model that makes the vectors, and its actors."""

    not_identity: ClassVar[frozenset[str]] = frozenset({"actors", "cpus", "gpus"})

    model: str = models.MINILM
    """`builtin:…`, a folder, or a name on the hub. The model must be a checkpoint of sentence-transformers. If
    `pooling` is set, it may be any model that `AutoModel` of transformers loads."""
    pooling: Pooling = "checkpoint"
    """How the token vectors of the last layer become one vector. `checkpoint` does what the checkpoint of
    sentence-transformers says. `mean` is their mean, `cls` the first, and `last` the last of them. `weighted_mean`, for
    causal models, is their mean with the weights i / Σ i, where i is the place of a token. Padding never counts."""
    backend: Literal["torch", "vllm"] = "torch"
    """Library that runs the model. vLLM must be installed, and it has no `weighted_mean`."""
    max_tokens: int = Field(default=128, gt=0)
    """Number of tokens at the beginning of a text that are read. The other tokens do not count."""
    batch: int = Field(default=32, gt=0)
    """Number of texts in a batch. Texts of similar length are in the same batch. vLLM makes its own batches."""
    dtype: Literal["float32", "float16"] = "float16"
    """Type in which the numbers of a vector are stored."""
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type that the model computes in. `auto` is the fastest on the machine. On a CPU, a short timed product decides
    between bfloat16 and float32. On a GPU it is bfloat16 if the weights are bfloat16, else float16. A set of vectors
    keeps the type that it began with."""
    actors: int = Field(default=1, gt=0)
    """Number of processes that embed texts. Each has its own copy of the model."""
    cpus: float | None = Field(default=None, gt=0)
    """Cores of one actor. By default an actor with a GPU has one core. The actors without a GPU share all cores evenly,
    and none has more cores than the largest machine."""
    gpus: float | None = Field(default=None, ge=0)
    """GPUs of one actor. By default it is 1 if the cluster has any GPU, else 0."""

    @model_validator(mode="after")
    def _known_to_backend(self) -> "Embedding":
        if self.backend == "vllm" and self.pooling == "weighted_mean":
            raise ValueError('pooling "weighted_mean" is not one of vLLM\'s; take backend = "torch"')
        return self

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the vectors, with a digest of the weights instead of their path."""
        value = super().identity()
        value["fields"]["model"] = models.identity(self.model)
        return value


OpenEncoder = Callable[[Embedding], Encoder]


def open_embedding(settings: Embedding) -> Encoder:
    """Load the model with the backend that the settings name."""
    module, name = BACKENDS[settings.backend].split(":")
    encoder: Encoder = getattr(import_module(module), name)(settings)
    return encoder


def choose_dtype(settings: Embedding) -> DTypeChoice:
    """Return the type that this process computes the model in. The first call on a machine takes seconds."""
    if settings.compute_dtype != "auto":
        return DTypeChoice(settings.compute_dtype, "as the recipe says")
    found = choose(settings.model)
    if found.seconds:
        return found
    weights = models.weights_dtype(settings.model)
    return DTypeChoice("bfloat16" if weights == "bfloat16" else "float16", f"the GPU has it, the weights are {weights}")


def unit_rows(vectors: NDArray[np.floating], model: str) -> Float32:
    """Return the rows of an [n, d] array scaled to length 1.

    Raises:
        RunError: if a row has a number that is not finite, or only zeros.
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
    """Return the prefix that a checkpoint needs before each text, such as `query: `, or the empty string."""
    path = Path(models.local(model)) / "config_sentence_transformers.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return str((said.get("prompts") or {}).get(said.get("default_prompt_name") or "", ""))


def unknown_shares(tokenizer: Any, texts: Sequence[str], longest: int) -> Float32:  # noqa: ANN401 - of transformers
    """Return the share of each text's tokens that have no meaning for the model, [len(texts)], from 0 to 1.

    These are the unknown token, and tokens of a single letter: a vocabulary that has only the letters of a script
    spells each word. Single letters do not count in Latin script. Characters that are units of meaning, such as Chinese
    ones and Korean syllables, do not count either. A model that reads bytes has the share 0, because its tokens are no
    letters of the script. Only the first `longest` tokens of a text are looked at.
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
    """Return the script of a token that is a single letter, or the empty string for any other token."""
    letter = token.removeprefix("##").lstrip("▁")
    return script_of(letter) if len(letter) == 1 and not _WHOLE.match(letter) else ""


def require_pooling(settings: Embedding) -> None:
    """Refuse a model that does not say its pooling, unless the settings name one.

    Raises:
        JobError: for such a model. The message names it.
    """
    from sentence_transformers.util import is_sentence_transformer_model

    if settings.pooling == "checkpoint" and not is_sentence_transformer_model(models.local(settings.model)):
        raise JobError(
            f"encoder.pooling: {settings.model} is no checkpoint of sentence-transformers and names none, must be "
            'named; set one, such as "mean", or "last" for a causal model'
        )
