"""vLLM as an `Encoder`, with its models for pooling."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.models import names as models
from gristmill.cluster.models.encoder import (
    Embedding,
    Float32,
    choose_dtype,
    default_prompt,
    require_pooling,
    unit_rows,
    unknown_shares,
)

POOLING_TYPES = {"mean": "MEAN", "cls": "CLS", "last": "LAST"}
KV_CACHE_BYTES = 1 << 30
"""Bytes of the key-value cache of a causal model on a CPU. Other encoders have no such cache."""


class VllmEncoder:
    """A model in a vLLM engine inside this process. Texts of any length share a batch without padding."""

    def __init__(self, settings: Embedding) -> None:
        """Start the engine on the GPU if the process sees one, else on its share of the cores.

        Raises:
            JobError: if vLLM is not installed or refuses the model, or if neither model nor settings name a pooling.
        """
        require_pooling(settings)
        os.environ |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # Ray does not assign particular cores to a process
        }
        try:
            import torch
            from vllm import LLM
            from vllm.config import PoolerConfig
        except ImportError as error:
            raise JobError(
                f'encoder.backend: vllm cannot be imported ({error}); install gristmill[gpu], or take "torch"'
            ) from error
        cpu: dict[str, Any] = {"kv_cache_memory_bytes": KV_CACHE_BYTES}
        pooling: Any = POOLING_TYPES.get(settings.pooling)
        self._name, self._prompt = settings.model, default_prompt(settings.model)
        try:
            self._llm = LLM(
                models.local(settings.model),
                runner="pooling",
                convert="embed",
                dtype=choose_dtype(settings).dtype,
                pooler_config=PoolerConfig(seq_pooling_type=pooling) if pooling else None,
                max_model_len=_longest(settings),
                enforce_eager=True,
                distributed_executor_backend="uni",
                **({} if torch.cuda.is_available() else cpu),
            )
        except (OSError, ValueError) as error:
            raise JobError(f"encoder.model: vLLM refuses {settings.model}: {error}") from error
        self._tokenizer = self._llm.get_tokenizer()
        self._longest = self._llm.model_config.max_model_len
        self.dim = self.encode(["a"]).shape[1]  # the last layer of a checkpoint may have another width

    def encode(self, texts: Sequence[str]) -> Float32:
        """Return unit vectors, [len(texts), dim]."""
        if not texts:
            return np.empty((0, self.dim), np.float32)
        said = self._tokenizer(
            [self._prompt + (text or " ") for text in texts], truncation=True, max_length=self._longest
        )
        prompts: Any = [{"prompt_token_ids": ids} for ids in said["input_ids"]]
        found = [answer.outputs.embedding for answer in self._llm.embed(prompts, use_tqdm=False)]
        return unit_rows(np.array(found, np.float32), self._name)

    def unknown(self, texts: Sequence[str]) -> Float32:
        """Return the share of unknown tokens in each text, [len(texts)]."""
        return unknown_shares(self._tokenizer, texts, self._longest)


def _longest(settings: Embedding) -> int:
    """Return the number of tokens of a text that are read: the lower limit of the settings' and the model's."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(models.local(settings.model))
    return min(settings.max_tokens, getattr(config, "max_position_embeddings", settings.max_tokens))
