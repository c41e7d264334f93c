"""Tokenizers and random conversations for the families of chat templates."""

import hashlib
import json
from random import Random
from typing import Any

from gristmill.cluster.contract.sample import Message, ToolCall
from tests.training.data.template_families import Family

_CORPUS = [
    "The answer is that a river runs to the sea, and the good lamp is in the window. User: Assistant: assistant\n\n",
    "ASSISTANT: good USER: bad ### Response:\n Falcon: yes no\n\n<think>\n\n</think>\n\n [INST] [/INST] {\"town\": 3}",
    "中国的河流很长。问题和回答都很短。",
] * 3  # fmt: skip
WORDS = (
    "river",
    "a lamp",
    "  two spaces",
    "good",
    "bad\n\nnext",
    "第一条河",
    "42",
    "It is.",
    "```py\n  x = 1\n```",
    "é",
    "🙂",
)


def tokenizer(family: Family) -> Any:
    """A byte-level BPE of some hundred merges with the family's tokens and template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    raw.train_from_iterator(_CORPUS, trainer)
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in family.control])
    raw.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.plain])
    own = {name: token for name, token in (("bos_token", family.bos), ("eos_token", family.eos)) if token}
    tok = PreTrainedTokenizerFast(tokenizer_object=raw, **own)
    tok.chat_template = family.template
    return tok


def conversations(family: Family, count: int, seed: int = 0) -> list[tuple[list[Message], str | None]]:
    """Random conversations of one to four answers, some with a system turn, thoughts, calls of tools, context alone."""
    rng = Random(int(hashlib.sha256(f"{family.name}-{seed}".encode()).hexdigest()[:8], 16))
    tools = json.dumps([{"type": "function", "function": {"name": "look", "parameters": {}}}])
    made = []
    for _ in range(count):
        turns = [Message("system", f"Be {_text(rng)}.")] if rng.random() < 0.3 else []
        with_tools = family.called is not None and rng.random() < 0.3
        for _ in range(rng.randint(1, 4)):
            turns.append(Message("user", f"Ask {_text(rng)}?"))
            if with_tools and rng.random() < 0.5:
                call = ToolCall(
                    "abcdefghi", "look", json.dumps({"town": rng.choice(WORDS).strip()}, ensure_ascii=False)
                )
                turns.append(Message("assistant", None, tool_calls=(call,)))
                turns.append(Message("tool", "Found.", tool_call_id="abcdefghi", name="look"))
            thought = f"I think {_text(rng)}" if family.thought and rng.random() < 0.4 else None
            turns.append(Message("assistant", _text(rng), reasoning=thought, train=rng.random() < 0.9))
        made.append((turns, tools if with_tools else None))
    return made


def _text(rng: Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 4))).strip()
