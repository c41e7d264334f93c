"""Classifier heads: any `AutoModelForSequenceClassification`, in the worker. The texts of many rows share a batch.

This is the only file for filters that imports transformers.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models import names as models
from gristmill.generation.contracts import Filter, Stage, State
from gristmill.generation.prompting.batches import Batches

DIGITS = 4
"""Number of decimals of a probability or reward. Later digits depend on which texts share a batch."""


class HeadFilter(Filter[State]):
    """A filter that uses a classifier, loaded once in each worker."""

    not_identity: ClassVar[frozenset[str]] = frozenset({"batch", "device"})
    stages: ClassVar[tuple[Stage, ...]] = ("model",)

    model: str
    """A sequence classifier: a folder, or a name on the hub."""
    label: str = ""
    """Name of a label in the model's config. Its probability is used. It is needed if the model has several labels."""
    layout: Literal["auto", "chat", "pair", "answer"] = "auto"
    """Input of the classifier. `chat`: the sample rendered with the chat template. `pair`: the instruction and the
    answer. `answer`: only the answer. `auto`: `chat` if the model has a template, else `pair`."""
    max_tokens: int = Field(default=1024, gt=0)
    """Number of tokens that are read. The end of a longer text is cut off."""
    batch: int = Field(default=16, gt=0)
    """Largest number of texts in one forward pass."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the classifier. `auto`: the GPU, if the worker sees one. The engine must leave memory for the
    classifier."""

    def identity(self) -> dict[str, Any]:
        """Return what decides the scores: the digest of the weights instead of their path."""
        value = super().identity()
        value["fields"]["model"] = models.identity(self.model) if self.model else ""
        return value

    def models(self) -> tuple[str, ...]:
        """Return the classifier, if there is one."""
        return (self.model,) if self.model else ()

    async def opened(self) -> "Head":
        """Load the classifier, which all rounds share. This takes seconds."""
        return await asyncio.to_thread(Head, self)


class Head:
    """A loaded classifier. Rows that ask while it computes wait, and share the next batch."""

    def __init__(self, settings: HeadFilter[Any]) -> None:
        """Load model and tokenizer.

        Raises:
            JobError: when there is no such classifier, or the classifier has no such label.
        """
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._settings, where = settings, f"{settings.kind}.model"
        folder = models.local(settings.model)
        gpu = torch.cuda.is_available() if settings.device == "auto" else settings.device == "cuda"
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            model, loaded = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, ImportError) as error:
            raise JobError(f"{where}: {settings.model} is no sequence classifier of transformers: {error}") from error
        if loaded["missing_keys"]:  # transformers would only warn and give the head random weights
            absent = ", ".join(sorted(loaded["missing_keys"])[:3])
            raise JobError(f"{where}: {settings.model} lacks {absent}, must be trained as a sequence classifier")
        config = model.config
        labels: dict[int, str] = config.id2label
        if len(labels) > 1 and settings.label not in labels.values():
            raise JobError(f"{where}: label is {settings.label!r}, must be one of {', '.join(labels.values())}")
        self._place = next((place for place, name in labels.items() if name == settings.label), 0)
        self._many, self._multi = len(labels) > 1, config.problem_type == "multi_label_classification"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        if config.pad_token_id is None:
            config.pad_token_id = self._tokenizer.pad_token_id
        longest = getattr(config, "max_position_embeddings", None) or settings.max_tokens
        self._max_tokens = min(settings.max_tokens, longest, self._tokenizer.model_max_length)
        self._model = model.to("cuda" if gpu else "cpu").eval()
        self._batches = Batches(self._numbers, settings.batch)
        self.passes = 0

    async def read(self, messages: Sequence[Message]) -> float:
        """Return the probability of the label, 0 to 1; for a model with one output, return its reward, of any size."""
        return await self._batches.of(self._laid_out(messages))

    def _laid_out(self, messages: Sequence[Message]) -> tuple[str, str | None]:
        """Return the input of the tokenizer: a text, or a pair of texts."""
        layout = self._settings.layout
        if layout == "chat" or (layout == "auto" and self._tokenizer.chat_template):
            turns = [{"role": turn.role, "content": turn.text} for turn in messages]
            return str(self._tokenizer.apply_chat_template(turns, tokenize=False)), None
        if layout == "answer":
            return messages[-1].text, None
        return "\n\n".join(turn.text for turn in messages[:-1]), messages[-1].text

    def _numbers(self, texts: Sequence[tuple[str, str | None]]) -> list[float]:
        """Return one number a text, from one pass."""
        import torch

        self.passes += 1
        alone = [text for text, other in texts if other is None]
        given = (alone,) if alone else ([one for one, _ in texts], [other for _, other in texts])
        special = not (alone and self._tokenizer.chat_template)  # a chat template writes special tokens itself
        encoded = self._tokenizer(
            *given,
            add_special_tokens=special,
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        )
        with torch.inference_mode():
            logits = self._model(**encoded.to(self._model.device)).logits.float()  # [texts, labels]
        if self._many:
            logits = logits.sigmoid() if self._multi else logits.softmax(-1)
        return [round(float(number), DIGITS) for number in logits[:, self._place]]
