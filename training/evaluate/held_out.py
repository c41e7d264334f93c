"""Held-out rows, which training did not see: their losses with the base and the tuned model, and the smoke test."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import JobError, RunError
from gristmill.cluster.contract.ids import request_seed
from gristmill.cluster.contract.sample import Message, Sample, from_table
from gristmill.cluster.contract.schema import ITEMS
from gristmill.cluster.models.engine import Reply, Write
from gristmill.cluster.store.store import Store
from gristmill.training.data import families
from gristmill.training.data import prepare as data
from gristmill.training.data.tokens import usable
from gristmill.training.evaluate.actor import Scores

NEAR = "near copy of a row trained on"
SUITE = "held_out"
"""Name of the held-out rows among the suites."""


def rows_of(store: Store, inputs: Mapping[str, str]) -> tuple[pa.Table, dict[str, int]]:
    """Return the rows to score, and the number of rows that cannot be scored, by reason.

    If the job has an input, the rows are its samples, without near copies of rows that the model was trained on.
    Otherwise they are the rows that training held out.

    Raises:
        JobError: when no row is left.
    """
    if "samples" not in inputs:
        return data.held_out(store, inputs["model"]), {}
    table = store.read(inputs["samples"])
    fit, drops = usable(table)
    near = families.near_to(table, fit, [data.trained_on(store, inputs["model"])])
    if near.any():
        drops[NEAR] = int(near.sum())
    if not (fit & ~near).any():
        raise JobError(
            f"evaluate.input: none of {table.num_rows} samples can be scored ({drops}), at least one must; give others "
            "or name the file in train.test, which keeps rows like them out of training"
        )
    return table.filter(pa.array(fit & ~near)), drops


def items_of(scored: pa.Table, scores: Mapping[str, Scores]) -> pa.Table:
    """Return the ITEMS of the held-out rows: the values `loss` and `loss.tokens` of each row for each model.

    `loss` is minus the mean loss of a token, in nats, so that higher is better.
    """
    rows = from_table(scored)
    digests = [ids.digest("sample", [[turn.role, turn.text] for turn in row.messages], row.tools) for row in rows]
    found: list[tuple[str, str, str, str, str, float, str]] = []
    for model, own in scores.items():
        for row, digest, nats, tokens in zip(rows, digests, own.summed, own.tokens, strict=True):
            key = (model, SUITE, row.id, digest)
            found += [(*key, "loss", -float(nats / tokens), ""), (*key, "loss.tokens", float(tokens), "")]
    columns = zip(*found, strict=True)
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, ITEMS, strict=True)], schema=ITEMS)


def prompts(table: pa.Table, count: int) -> list[tuple[Sample, tuple[Message, ...], str]]:
    """Return (row, messages before its first answer, that answer) for the first `count` rows by id.

    Rows that begin with an answer, and rows with more than text, are left out.
    """
    found = []
    for sample in sorted(from_table(table), key=lambda row: row.id):
        first = next(place for place, turn in enumerate(sample.messages) if turn.role == "assistant")
        if first and not sample.beyond_text:
            found.append((sample, sample.messages[:first], sample.messages[first].text))
    return found[:count]


def requests(asked: Sequence[tuple[Sample, tuple[Message, ...], str]], max_tokens: int) -> list[Write]:
    """Return the requests of the smoke test, one for each row."""
    return [Write(prompt, max_tokens=max_tokens, seed=request_seed(row.id, 0)) for row, prompt, _ in asked]


def smoke(asked: Sequence[tuple[Sample, tuple[Message, ...], str]], replies: Sequence[Reply]) -> list[dict[str, Any]]:
    """Return the replies of the tuned model, each with its prompt, its reference, and whether it is `ok`.

    Raises:
        RunError: when every reply is empty, or no reply ends by itself.
    """
    answers = [
        {
            "id": row.id,
            "prompt": prompt[-1].text,
            "reply": reply.text,
            "reference": reference,
            "finish": reply.finish,
            "tokens": reply.reply_tokens,
            "ok": bool(reply.text.strip()) and reply.finish == "stop",
        }
        for (row, prompt, reference), reply in zip(asked, replies, strict=True)
    ]
    require_talk(answers)
    return answers


def require_talk(replies: list[dict[str, Any]]) -> None:
    """Refuse a model that gives only empty replies, or that never ends a reply by itself.

    Raises:
        RunError: when every reply is empty, or no reply ends by itself.
    """
    if not any(reply["reply"].strip() for reply in replies):
        raise RunError(
            f"evaluate, smoke test: all {len(replies)} replies are empty, must not be; "
            "lower train.learning_rate or train.epochs"
        )
    if not any(reply["finish"] == "stop" for reply in replies):
        how = sorted({reply["finish"] for reply in replies})
        raise RunError(
            f"evaluate, smoke test: all {len(replies)} replies end by {how}, one at least must stop by itself; raise "
            "evaluate.smoke_tokens, or lower train.learning_rate"
        )
