"""Conversations become token ids and a mask of what is trained on: the assistant's words, with the stop token.

Its calls and thoughts are its words too, as the template renders them; a turn with `train` false is context alone.

The mask follows from the model's own chat template. Where the template marks the assistant's words (`{% generation
%}`), the marks are used. Otherwise the conversation is rendered up to each assistant turn, with and without that turn,
and the difference is what the assistant says. The text is always the plain rendering of the whole conversation.

Source: the failures that this prevents are in the issue trackers of huggingface/trl (#4201, masks that are silently all
zero; #5988, stop tokens outside the mask). Departures: both are refused here before anything is trained.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models.template import ChatTemplate, UnrenderableError

AT_ONCE = 512
"""Conversations that are tokenised together; the tokenizer distributes them over its threads."""
TooLong = Literal["drop", "truncate"]
_Masked = tuple[NDArray[np.int32], NDArray[np.bool_]]
"""The token ids of one conversation, and where they are trained on."""


class Talk(NamedTuple):
    """What one sample has for a chat template."""

    messages: Sequence[Message]
    tools: str | None = None
    """JSON text."""


@dataclass(frozen=True, slots=True)
class EncodedChats:
    """Conversations as token ids, end to end; a conversation that could not be used is counted in `drops`."""

    ids: NDArray[np.int32]
    """[tokens]."""
    trained: NDArray[np.bool_]
    """[tokens] whether the token is the assistant's."""
    lengths: NDArray[np.int64]
    """[samples] tokens of each sample, all positive; their sum is `tokens`."""
    places: NDArray[np.int64]
    """[samples] place of each sample among the given conversations, ascending."""
    drops: Mapping[str, int]
    """Number of conversations that were not used, by reason."""


def tokenizer(folder: str) -> Any:  # noqa: ANN401 - transformers' tokenizers share no useful type
    """Load the tokenizer of a model.

    Raises:
        JobError: when it has no chat template, or cannot say which characters a token represents.
    """
    from transformers import PreTrainedTokenizerFast

    if _tokenizer_class(folder) in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        # the class that AutoTokenizer would take, at a fifth of its 6 CPU-seconds of imports
        loaded: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    else:
        from transformers import AutoTokenizer

        loaded = AutoTokenizer.from_pretrained(folder)
    if not loaded.chat_template:
        raise JobError(
            f"model {folder}: its tokenizer has no chat template, must have one; take an instruct model, "
            "or put a chat_template.jinja into its folder"
        )
    if not loaded.is_fast:
        raise JobError(f"model {folder}: its tokenizer is a slow one, must be a fast one; save it with tokenizer.json")
    return loaded


def _tokenizer_class(folder: str) -> str:
    path = Path(folder) / "tokenizer_config.json"
    return str(json.loads(path.read_text(encoding="utf-8")).get("tokenizer_class", "")) if path.exists() else ""


def encode(tok: Any, samples: Sequence[Talk], max_length: int, too_long: TooLong = "drop") -> EncodedChats:  # noqa: ANN401
    """Return the token ids of conversations with the mask of what is trained on.

    Args:
        tok: a tokenizer with a chat template.
        samples: conversations with their tools.
        max_length: longest conversation in tokens.
        too_long: whether longer conversations are dropped and counted, or cut at the end.

    Raises:
        JobError: when no conversation can be used, or when assistant turns do not end in a special token, because a
            model would then never learn to stop.
    """
    drops: Counter[str] = Counter()
    ids: list[NDArray[np.int32]] = []
    trained: list[NDArray[np.bool_]] = []
    lengths: list[int] = []
    places: list[int] = []
    for place, found in enumerate(_tokens(tok, samples)):
        if isinstance(found, str):
            drops[found] += 1
            continue
        row, mask = found
        if not lengths:
            _require_stop(tok, row, mask)
        if len(row) > max_length:
            if too_long == "drop":
                drops["too long"] += 1
                continue
            row, mask = row[:max_length], mask[:max_length]
        if not mask[1:].any():  # the first token of a sample has nothing before it that could predict it
            drops["no trained token"] += 1
            continue
        ids.append(row)
        trained.append(mask)
        lengths.append(len(row))
        places.append(place)
    if samples and not lengths:
        raise JobError(
            f"chat template: none of {len(samples)} samples can be trained on ({dict(drops)}), at least one must; "
            "raise max_length, or mark the assistant's words with {% generation %} in the model's chat_template.jinja"
        )
    return EncodedChats(
        np.concatenate([np.empty(0, np.int32), *ids]),
        np.concatenate([np.empty(0, np.bool_), *trained]),
        np.array(lengths, np.int64),
        np.array(places, np.int64),
        dict(drops),
    )


def _tokens(tok: Any, samples: Sequence[Talk]) -> Iterator[_Masked | str]:  # noqa: ANN401
    """Yield for each conversation its ids and mask, or the reason why it has none."""
    template = ChatTemplate(tok)
    marked = re.search(r"{%-?\s*generation\s*-?%}", str(tok.chat_template)) is not None
    for start in range(0, len(samples), AT_ONCE):
        some = samples[start : start + AT_ONCE]
        yield from (_marked(template, some) if marked else _by_difference(template, some))


def _marked(template: ChatTemplate, samples: Sequence[Talk]) -> Iterator[_Masked | str]:
    for sample in samples:
        if any(turn.role == "assistant" and not turn.train for turn in sample.messages):  # the marks are on all of them
            yield from _by_difference(template, [sample])
            continue
        try:
            _require_thought(template, sample)
            how = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
            out = template.render(sample.messages, sample.tools, **how)
        except UnrenderableError as error:
            yield str(error)
        else:
            yield np.array(out["input_ids"], np.int32), np.array(out["assistant_masks"], np.bool_)


def _by_difference(template: ChatTemplate, samples: Sequence[Talk]) -> Iterator[_Masked | str]:
    rendered: list[tuple[str, list[tuple[int, int]]] | str] = []
    for sample in samples:
        try:
            rendered.append(spans(template, sample))
        except UnrenderableError as error:
            rendered.append(str(error))
    texts = [found[0] for found in rendered if not isinstance(found, str)]
    out = template.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True) if texts else None
    usable = 0
    for found in rendered:
        if isinstance(found, str) or out is None:
            yield str(found)
            continue
        row = np.array(out["input_ids"][usable], np.int32)
        starts = np.array(out["offset_mapping"][usable], np.int64).reshape(-1, 2)[:, 0]
        usable += 1
        mask = np.zeros(len(row), np.bool_)
        for begin, end in found[1]:
            mask |= (starts >= begin) & (starts < end)
        yield row, mask


def spans(template: ChatTemplate, sample: Talk) -> tuple[str, list[tuple[int, int]]]:
    """Return the plain rendering of a conversation and the character ranges that the assistant is trained to say.

    A range reaches from the end of the assistant's header to the end of the end-of-turn token. White space that the
    template puts after that is in no range.

    Raises:
        UnrenderableError: when the template does not render the conversation whole, or renders turns otherwise when
            others follow.
    """
    text = _require_thought(template, sample)
    found = []
    for place, turn in enumerate(sample.messages):
        if turn.role != "assistant" or not turn.train:
            continue
        before = template.render(sample.messages[:place], sample.tools, tokenize=False, add_generation_prompt=True)
        after = template.render(sample.messages[: place + 1], sample.tools, tokenize=False)
        if not after.startswith(before) or not text.startswith(after):
            raise UnrenderableError("template rewrites earlier turns")
        found.append((len(before), len(after.rstrip())))
    return text, found


def _require_thought(template: ChatTemplate, sample: Talk) -> str:
    """Return the plain rendering of a conversation, in which the last thought must be."""
    text = str(template.render(sample.messages, sample.tools, tokenize=False))
    if template.lacks_thought(text, sample.messages):
        raise UnrenderableError("template leaves out the last thought")
    return text


def _require_stop(tok: Any, row: NDArray[np.int32], mask: NDArray[np.bool_]) -> None:  # noqa: ANN401
    if not mask.any():
        return
    last = int(row[np.flatnonzero(mask)[-1]])
    special = set(tok.all_special_ids) | {place for place, added in tok.added_tokens_decoder.items() if added.special}
    if last not in special:
        raise JobError(
            f"chat template: what the assistant says ends in {tok.decode([last])!r}, must end in a special token, else "
            "the model never learns to stop; correct the model's chat_template.jinja"
        )
