"""The three honest fakes: a scripted engine, a hashing encoder, a two-layer model."""

import asyncio
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Choose, Engine, Reply, Request, Score


class HashingEncoder:
    """Unit vectors from hashed character trigrams: texts that share wording lie close, in any language."""

    dim = 64

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            padded = f"  {text}  "
            for place in range(len(padded) - 2):
                code = zlib.crc32(padded[place : place + 3].encode())
                vectors[row, code % self.dim] += 1 if code & 4096 else -1
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(length, 1e-6), np.float32)

    def unknown(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.zeros(len(texts), np.float32)


def open_hashing_encoder(settings: object) -> HashingEncoder:
    """Open it as an actor opens a checkpoint."""
    del settings
    return HashingEncoder()


CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def two_layer_model(folder: Path) -> str:
    """Write a llama of two layers with random weights, and a tokenizer of single bytes with a ChatML template."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({letter: place for place, letter in enumerate(letters)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(str(folder))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))
    return str(folder)


def parrot_model(folder: Path, template: str, prompt: dict[str, Any], says: str) -> str:
    """Write the two-layer model with another template, taught by heart to say one thing after one prompt.

    The prompt is what `apply_chat_template` takes. `<think>` and `</think>` are tokens.
    """
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    two_layer_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = template
    tokenizer.save_pretrained(str(folder))
    before = tokenizer.apply_chat_template(**prompt, tokenize=False, add_generation_prompt=True)
    head = tokenizer.encode(before, add_special_tokens=False)
    ids = torch.tensor([[*head, *tokenizer.encode(f"{says}<|im_end|>", add_special_tokens=False)]])
    labels = ids.clone()
    labels[:, : len(head)] = -100
    torch.manual_seed(0)
    model = LlamaForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    model.resize_token_embeddings(len(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0)
    for _ in range(600):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if float(loss) < 0.002:
            break
    model.save_pretrained(str(folder))
    return str(folder)


WORDS = ("river", "lamp", "winter", "baker", "stone", "window", "garden", "orange", "travel", "music", "letter", "sea")
HAN = "春夏秋冬山水花月风雪人家书画茶酒城门路桥灯船云雨星火田园诗歌故事朋友老师学生"


class ScriptedEngine:
    """Text that depends on the request alone; it can leave its process at a given request, once."""

    def __init__(self, settings: Engine, *, crash_at: int = 0, crashed: str = "") -> None:
        """Die at request `crash_at` (counted from 1) unless the marker file `crashed` stands; write it before."""
        self._settings, self._crash_at, self._crashed, self.asked = settings, crash_at, crashed, 0

    async def ready(self) -> dict[str, Any]:
        return {"engine_start_s": 0.0}

    def stats(self) -> dict[str, float]:
        names = ("running", "waiting", "reply_tokens_per_s", "prompt_tokens", "cached_tokens", "reply_tokens")
        return dict.fromkeys(names, 0.0)

    def _crash(self) -> None:
        if not Path(self._crashed).exists():
            Path(self._crashed).touch()
            os._exit(1)

    async def ask(self, request: Request) -> Reply:
        self.asked += 1
        if self.asked == self._crash_at:
            self._crash()
        await asyncio.sleep(0)
        if isinstance(request, Score):
            return Reply("", "stop", 50, len(request.text.split()), {}, 0, -float(len(request.text)))
        prompt = [[m.role, m.text] for m in request.messages]
        choices = request.choices if isinstance(request, Choose) else ()
        rng = Random(ids.digest(prompt, request.prefix, request.seed, list(choices)))
        if isinstance(request, Choose):
            weights = [rng.random() for _ in request.choices]
            chances = {c: w / sum(weights) for c, w in zip(request.choices, weights, strict=True)}
            return Reply(max(chances, key=lambda c: chances[c]), "stop", 50, 1, chances)
        chinese = any("\u4e00" <= letter <= "\u9fff" for message in request.messages[-1:] for letter in message.text)
        words = [rng.choice(HAN if chinese else WORDS) for _ in range(rng.randint(4, 30))]
        text = "".join(words) if chinese else f"Tell me of the {' '.join(words)}"
        return Reply(text, "length" if rng.random() < 0.1 else "stop", 50, len(words))


class ScriptedAsk:
    """Replies given beforehand, in order, to calls of every kind; it keeps what it was asked."""

    def __init__(
        self, *replies: Reply | str, parents: Sequence[Sample] = (), prepared: Any = None, turn: int = 0
    ) -> None:
        self.asked: list[tuple[tuple[Message, ...], dict[str, Any]]] = []
        self.parents, self.prepared, self.turn = tuple(parents), prepared, turn
        self._replies = [r if isinstance(r, Reply) else Reply(r, "stop", 10, len(r.split())) for r in replies]

    async def __call__(self, messages: Sequence[Message], **settings: Any) -> Reply:
        self.asked.append((tuple(messages), settings))
        return self._replies.pop(0)

    async def shared(self, messages: Sequence[Message], **settings: Any) -> Reply:
        return await self(messages, shared=True, **settings)

    async def score(self, messages: Sequence[Message], text: str, *, tools: str = "") -> Reply:
        return await self(messages, scored=text, **({"tools": tools} if tools else {}))

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return HashingEncoder().encode(texts)
