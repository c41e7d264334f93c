"""Forms: one sample as a row of a form that other tools read, or the reason why the form cannot hold it.

A form never leaves out a part of a sample. Samples that it cannot hold completely are counted by reason.
"""

import json
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from gristmill.cluster.contract.chat import to_openai
from gristmill.cluster.contract.sample import GROUP, PREFERENCE, RATING, WEIGHT, Message, Sample

ExportForm = Literal["parquet", "jsonl", "sharegpt", "alpaca", "preference", "feedback", "prompts"]
GROUPED = frozenset({"preference"})
"""Forms in which one row is made of several samples."""
SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
"""The names of roles in the ShareGPT form."""


class MisfitError(Exception):
    """The error for a sample that a form cannot hold completely. Its text says why."""


@dataclass
class ColumnUse:
    """The columns that at least one row needs. Every row is then written with all of them."""

    rows: int = 0
    tags: set[str] = field(default_factory=set)
    scores: set[str] = field(default_factory=set)
    turns: bool = False
    """Whether any conversation has more than one turn of the user."""
    system: bool = False
    """Whether any conversation has a system turn."""
    tools: bool = False
    """Whether any conversation has tools."""

    def add(self, sample: Sample) -> None:
        """Count one more sample."""
        roles = [message.role for message in sample.messages]
        self.rows += 1
        self.tags.update(sample.tags)
        self.scores.update(sample.scores)
        self.turns |= roles.count("user") > 1
        self.system |= "system" in roles
        self.tools |= sample.tools is not None


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """The options of an export."""

    form: ExportForm
    census: ColumnUse
    dropped: bool = False
    """Whether the dropped samples are written too."""
    provenance: bool = False
    """Whether each row has id, parents, method, round, origin, scores and tags, whatever the form."""
    by: str = ""
    """Name of the score that orders the candidates of a group and says which answers are good. If it is empty, the
    score is `preference`."""
    threshold: float = 0.5
    """Least score of a good answer."""

    @property
    def score(self) -> str:
        """The name of the score that decides between answers."""
        return self.by or PREFERENCE


def rows_of(
    samples: Iterable[Sample], how: ExportOptions, misfits: Callable[[Sample, str], None]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of samples. For each sample that the form cannot hold, call `misfits` with it and the reason."""
    if how.form in GROUPED:
        yield from _pairs_of(samples, how, misfits)
        return
    make = {
        "jsonl": _messages,
        "sharegpt": _sharegpt,
        "alpaca": _alpaca,
        "feedback": _feedback,
        "prompts": _prompt,
    }[how.form]
    for sample in samples:
        try:
            row = make(sample, how)
        except MisfitError as misfit:
            misfits(sample, str(misfit))
        else:
            yield _with_columns(row, sample, how)


# -- all that a sample has ----------------------------------------------------------------------------------------


def turn_of(turn: Message) -> dict[str, Any]:
    """Return a turn in the OpenAI form, with `weight = 0` if it is only context."""
    return to_openai(turn) if turn.train else {**to_openai(turn), "weight": 0}


def _messages(sample: Sample, how: ExportOptions) -> dict[str, Any]:
    row: dict[str, Any] = {"id": sample.id, "messages": [turn_of(turn) for turn in sample.messages]}
    if how.census.tools:
        row["tools"] = _tools(sample) or []
    if not how.provenance:
        row |= _tags_and_scores(sample, how.census)
    return row


def _tags_and_scores(sample: Sample, census: ColumnUse) -> dict[str, Any]:
    """Return the tags and scores of a sample, with the same names in every row.

    Readers infer the columns from the first rows.
    """
    made: dict[str, Any] = {}
    if census.tags:
        made["tags"] = {tag: sample.tags.get(tag, "") for tag in sorted(census.tags)}
    if census.scores:
        made["scores"] = {name: shortest(sample.scores.get(name)) for name in sorted(census.scores)}
    return made


def _weight(row: dict[str, Any], sample: Sample, census: ColumnUse) -> dict[str, Any]:
    """Return the column with the weight in training, or nothing if the row has scores or no sample has a weight."""
    if WEIGHT not in census.scores or "scores" in row:
        return {}
    return {"weight": shortest(sample.scores.get(WEIGHT, 1.0))}


def shortest(number: float | None) -> float | None:
    """Return the shortest decimal number that is the same float32, such as 0.1 for 0.10000000149."""
    if number is None:
        return None
    held = struct.pack("<f", number)
    return next(short for n in range(6, 10) if struct.pack("<f", short := float(f"{number:.{n}g}")) == held)


def _with_columns(row: dict[str, Any], sample: Sample, how: ExportOptions) -> dict[str, Any]:
    """Add the origin of a sample and the reason why it was dropped, if the options ask for them."""
    if how.provenance:
        row = {"id": sample.id, **row, "parents": list(sample.parents), "round": sample.round}
        row |= {"origin": asdict(sample.origin) if sample.origin else None, **_tags_and_scores(sample, how.census)}
    row |= _weight(row, sample, how.census)
    if how.dropped or how.provenance:
        row = {"id": sample.id, **row, "method": sample.method}
    return {**row, "dropped": sample.dropped or ""} if how.dropped else row


def _tools(sample: Sample) -> list[Any] | None:
    return json.loads(sample.tools) if sample.tools else None


# -- forms of plain turns -----------------------------------------------------------------------------------------


def _sharegpt(sample: Sample, how: ExportOptions) -> dict[str, Any]:
    _require(sample, "sharegpt", thoughts=False)
    turns = []
    for turn in sample.messages:
        if turn.tool_calls and turn.text:
            raise MisfitError("has text beside a call, which the sharegpt form cannot hold; export as jsonl")
        speaker = "function_call" if turn.tool_calls else SPEAKERS[turn.role]
        value = _called(turn) if turn.tool_calls else turn.text
        told = {"tool_call_id": turn.tool_call_id, "name": turn.name}
        told = {key: word for key, word in told.items() if word is not None}
        turns.append({"from": speaker, "value": value, **told} | ({} if turn.train else {"weight": 0}))
    row: dict[str, Any] = {"id": sample.id, "conversations": turns}
    return {**row, "tools": sample.tools or ""} if how.census.tools else row


def _called(turn: Message) -> str:
    """Return the JSON text of a turn's calls: a table for one call, a list of tables for several.

    The JSON text of the arguments is inserted unchanged. Arguments that are no JSON table become a string.
    """
    calls = []
    for call in turn.tool_calls:
        arguments = call.arguments if _is_table(call.arguments) else json.dumps(call.arguments, ensure_ascii=False)
        name = "" if call.id is None else f'"id": {json.dumps(call.id, ensure_ascii=False)}, '
        calls.append(f'{{{name}"name": {json.dumps(call.name, ensure_ascii=False)}, "arguments": {arguments}}}')
    return calls[0] if len(calls) == 1 else f"[{', '.join(calls)}]"


def _is_table(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _alpaca(sample: Sample, how: ExportOptions) -> dict[str, Any]:
    _require(sample, "alpaca", thoughts=False)
    turns = list(sample.messages)
    system = turns.pop(0).text if turns and turns[0].role == "system" else ""
    if len(turns) % 2:  # the last question has no answer
        turns.append(Message("assistant", ""))
    questions, answers = turns[::2], turns[1::2]
    if any(m.role != "user" for m in questions) or any(m.role != "assistant" for m in answers) or not turns:
        roles = ", ".join(m.role for m in sample.messages)
        raise MisfitError(
            f"its turns are {roles}, must be user and assistant by turns for the alpaca form; export as jsonl"
        )
    if sample.tools or not all(turn.train for turn in sample.messages):
        raise MisfitError("has tools or turns that are only context, which the alpaca form cannot hold")
    row: dict[str, Any] = {"instruction": questions[-1].text, "input": "", "output": answers[-1].text}
    if how.census.turns:
        row["history"] = [[q.text, a.text] for q, a in zip(questions[:-1], answers[:-1], strict=True)]
    if how.census.system:
        row["system"] = system
    return row


def _require(sample: Sample, form: str, *, thoughts: bool) -> None:
    """Refuse a sample that a form of plain turns cannot hold, or that is a rejected candidate."""
    if sample.scores.get(PREFERENCE) == 0:
        raise MisfitError(f"is a rejected candidate, which the {form} form would show as a good one")
    if any(turn.parts for turn in sample.messages):
        raise MisfitError(f"has parts that are no text, which the {form} form cannot hold; export as jsonl")
    if not thoughts and any(turn.reasoning for turn in sample.messages):
        raise MisfitError(f"has a thought, which the {form} form cannot hold; export as jsonl")


# -- forms for preference tuning and reinforcement learning -------------------------------------------------------


def _feedback(sample: Sample, how: ExportOptions) -> dict[str, Any]:
    if how.score not in sample.scores:
        raise MisfitError(f"has no score {how.score}, must have one for the feedback form; name another with --by")
    prompt, answer = _split(sample)
    row: dict[str, Any] = {
        "prompt": [turn_of(turn) for turn in prompt],
        "completion": [turn_of(turn) for turn in answer],
    }
    row |= {"tools": _tools(sample) or []} if how.census.tools else {}
    return {**row, "label": sample.scores[how.score] >= how.threshold}


def _prompt(sample: Sample, how: ExportOptions) -> dict[str, Any]:
    _require(sample, "prompts", thoughts=True)
    prompt, answer = _split(sample) if sample.messages[-1].role == "assistant" else (sample.messages, ())
    if any(turn.tool_calls for turn in answer):
        raise MisfitError("has a call as its answer, which is no reference text; export as jsonl")
    row: dict[str, Any] = {"prompt": [turn_of(turn) for turn in prompt]}
    row |= {"tools": _tools(sample) or []} if how.census.tools else {}
    return {**row, "reference": answer[-1].text if answer else ""}


def _split(sample: Sample) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """Return the turns of the prompt, and the last answer."""
    if sample.messages[-1].role != "assistant" or len(sample.messages) < 2:
        raise MisfitError("does not end with an answer, must end with the assistant's turn")
    return sample.messages[:-1], sample.messages[-1:]


def _pairs_of(
    samples: Iterable[Sample], how: ExportOptions, misfits: Callable[[Sample, str], None]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each candidate that is worse than the best of its group. The row has both of them.

    All candidates are in memory, because the candidates of one group may be in different shards.
    """
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        if GROUP not in sample.tags:
            misfits(sample, "has no tag group, must be a candidate among others for the preference form")
        elif how.score not in sample.scores:
            misfits(sample, f"has no score {how.score}, must have one for the preference form; name another with --by")
        else:
            groups.setdefault(sample.tags[GROUP], []).append(sample)
    for found in groups.values():
        best = max(found, key=lambda sample: sample.scores[how.score])
        worse = [sample for sample in found if sample.scores[how.score] < best.scores[how.score]]
        for sample in found if not worse else ():
            misfits(sample, "has no candidate beside it that is better or worse")
        for sample in worse:
            try:
                yield _pair(best, sample, how)
            except MisfitError as misfit:
                misfits(sample, str(misfit))


def _pair(best: Sample, worse: Sample, how: ExportOptions) -> dict[str, Any]:
    """Return the row of two candidates. The prompt is the turns at the beginning that both have."""
    both = zip(best.messages, worse.messages, strict=False)
    shared = next((n for n, (a, b) in enumerate(both) if a != b), min(len(best.messages), len(worse.messages)))
    chosen, rejected = best.messages[shared:], worse.messages[shared:]
    if not shared or not chosen or not rejected or {chosen[0].role, rejected[0].role} != {"assistant"}:
        raise MisfitError("shares no prompt with the chosen candidate, must part from it at an answer")
    row: dict[str, Any] = {
        name: [turn_of(turn) for turn in turns]
        for name, turns in (("prompt", best.messages[:shared]), ("chosen", chosen), ("rejected", rejected))
    }
    row |= {"tools": _tools(best) or []} if how.census.tools else {}
    rated = how.by or RATING
    if rated in best.scores and rated in worse.scores:
        row |= {"score_chosen": shortest(best.scores[rated]), "score_rejected": shortest(worse.scores[rated])}
    if not how.provenance:
        return row | _weight(row, best, how.census)
    tags = {tag: word for tag, word in best.tags.items() if worse.tags.get(tag) == word and tag != GROUP}
    scores = {name: score for name, score in best.scores.items() if worse.scores.get(name) == score}
    origins = [asdict(each.origin) if each.origin else None for each in (best, worse)]
    row |= {"ids": [best.id, worse.id], "parents": [[*best.parents], [*worse.parents]], "origins": origins}
    return row | _tags_and_scores(replace(best, tags=tags, scores=scores), how.census)
