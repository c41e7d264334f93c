"""Columns of Arrow tables of samples: ids, parts of the conversation, scores, tags; no Python object for each row."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Part = Literal["instruction", "answer", "conversation", "chat"]
"""A part of a conversation: `instruction` is all user turns, `answer` all assistant turns, `conversation` both, and
`chat` every turn with its role in front, in the form in which a model is trained."""
Ids = NDArray[np.bytes_]
"""[n] `S32`: ids in ASCII with 32 bytes each, which sort and compare as the strings do."""
Int = NDArray[np.int64]
ROLES = {"instruction": ("user",), "answer": ("assistant",), "conversation": ("user", "assistant")}


def ids(table: pa.Table) -> Ids:
    """Return the ids of a table."""
    column = pa.chunked_array(table["id"]).combine_chunks().cast(pa.binary())
    return np.array(column.to_numpy(zero_copy_only=False), dtype="S32").reshape(len(table))


def find_ids(names: Ids, known: Ids) -> tuple[Int, NDArray[np.bool_]]:
    """Return ([n] index of each name in `known`, [n] whether it is in `known`); `known` must be ascending."""
    if not len(known):
        return np.zeros(len(names), np.int64), np.zeros(len(names), np.bool_)
    place = np.minimum(np.searchsorted(known, names), len(known) - 1)
    return place, known[place] == names


def part(table: pa.Table, which: Part) -> pa.LargeStringArray:
    r"""Return a part of every conversation: its turns joined by line breaks, trimmed.

    The text of an assistant's turn includes its calls. Only `chat` has the system prompt and the output of tools. A
    system prompt that many samples share would make different samples look alike: with one of 120 words, a cosine
    threshold of 0.95 dropped 98.8 % of 10,000 different samples. All user turns are taken, because dialogues with the
    same first turn can differ later. If a conversation lacks the part, all its turns except the system prompt are used.
    In `chat` each turn is `<|role|>\ncontent\n`, the form of Tulu and of RDS+ (Ivison et al. 2025, arXiv:2503.01807).
    """
    messages = table["messages"].combine_chunks()
    if isinstance(messages, pa.ChunkedArray):  # a table without rows
        messages = pa.concat_arrays(messages.chunks) if messages.num_chunks else pa.array([], messages.type)
    turns, parent = messages.flatten(), pc.list_parent_indices(messages).to_numpy(zero_copy_only=False)
    roles, contents = turns.field("role"), _texts(turns)
    has_text = pc.not_equal(pc.utf8_trim_whitespace(contents), "")
    if which == "chat":
        chat = pc.binary_join_element_wise(*map(_large, ("<|", roles, "|>\n", contents, "\n", "")))
        return pc.utf8_trim_whitespace(_join(chat, parent, len(messages), ""))
    asked = pc.and_(has_text, pc.is_in(roles, pa.array(ROLES[which])))
    found = pc.utf8_trim_whitespace(_join(contents.filter(asked), _select(parent, asked), len(messages), "\n"))
    absent = pc.equal(found, "")
    if not pc.any(absent).as_py():
        return found
    rest = pc.and_(has_text, pc.not_equal(roles, "system"))
    other = pc.utf8_trim_whitespace(_join(contents.filter(rest), _select(parent, rest), len(messages), "\n"))
    return pc.if_else(absent, other, found)


def _texts(turns: pa.StructArray) -> pa.LargeStringArray:
    """Return [turns] the text of each turn, followed by its calls, in the form of `Message.said`."""
    contents = pc.fill_null(turns.field("content"), "").cast(pa.large_string())
    calls = turns.field("tool_calls")
    if calls.null_count == len(calls):
        return contents
    texts = contents.to_pylist()
    for place in np.flatnonzero(calls.is_valid().to_numpy(zero_copy_only=False)):
        texts[place] = said(turns[int(place)].as_py())
    return pa.array(texts, pa.large_string())


def said(turn: Mapping[str, Any]) -> str:
    """Return the content of one turn, followed by its calls, one on each line."""
    calls = (f"{call['name']}({call['arguments']})" for call in turn["tool_calls"] or ())
    return "\n".join(filter(None, (turn["content"], *calls)))


def _select(parent: Int, mask: pa.BooleanArray) -> Int:
    kept: Int = parent[mask.to_numpy(zero_copy_only=False)]
    return kept


def _join(texts: pa.LargeStringArray, parent: Int, rows: int, between: str) -> pa.LargeStringArray:
    """Return [rows] the texts of each row joined by `between`; a row without texts gets the empty text.

    `parent` is the row of each text, ascending.
    """
    ends = np.zeros(rows + 1, np.int64)
    np.cumsum(np.bincount(parent, minlength=rows), out=ends[1:])
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if len(texts) == rows and (ends[1:] - ends[:-1] == 1).all():
        return texts
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(ends, pa.int32()), texts), _large(between))


def _large(text: str | pa.Array) -> pa.Scalar | pa.Array:
    return pa.scalar(text, pa.large_string()) if isinstance(text, str) else text.cast(pa.large_string())


def score_names(table: pa.Table) -> list[str]:
    """Return the sorted names of the scores in a table."""
    keys = [pc.unique(chunk.keys) for chunk in _maps(table, "scores") if len(chunk)]
    return sorted({name for found in keys for name in found.to_pylist()})


def score(table: pa.Table, name: str) -> NDArray[np.float32]:
    """Return [rows] of one score, NaN where a sample has none."""
    found = [_look_up(chunk, name) for chunk in _maps(table, "scores")]
    return np.concatenate([np.empty(0, np.float32), *(pc.fill_null(f, np.nan).to_numpy(False) for f in found)])


def tag(table: pa.Table, name: str) -> pa.Array:
    """Return [rows] of one tag, null where a sample lacks the tag; the name `method` gives the column `method`."""
    if name == "method":
        return pa.concat_arrays([pa.array([], pa.string()), *table["method"].chunks])
    return pa.concat_arrays([pa.array([], pa.string()), *(_look_up(chunk, name) for chunk in _maps(table, "tags"))])


def _maps(table: pa.Table, column: str) -> list[pa.MapArray]:
    return list(table[column].chunks)


def _look_up(maps: pa.MapArray, name: str) -> pa.Array:
    return pc.map_lookup(maps, pa.scalar(name, maps.type.key_type), "first")
