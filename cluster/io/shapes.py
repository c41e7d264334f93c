"""Shapes of outside data. A shape turns a row, which is a mapping of columns, into conversations.

Most shapes make one conversation of a row. The shapes `preference` and `candidates` make one for each answer to the
prompt of the row. These have the same `tags["group"]`, and `scores["preference"]` or `scores["rating"]` orders them.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import GROUP, PREFERENCE, RATING, Message, seed_id
from gristmill.cluster.io import contexts, multiple_choice
from gristmill.cluster.io.conversation import (
    COMMON,
    Columns,
    Conversation,
    number_of,
    number_text,
    present,
    single,
    text_of,
    whole,
)
from gristmill.cluster.io.turns import RowError, blank, flag, from_json, read_calls, read_turns, said
from gristmill.cluster.text.scripts import east_asian

TEXTS = ("text", "content", "review", "sentence", "document")
LABELS = ("label", "category", "class", "sentiment")
FEEDBACK = ("label", "kto_tag")
PROMPTS = ("prompt", "question", "query", "problem", "inputs", "input")
REPLIES = ("completion", "response", "answer", "solution", "targets", "target", "output", "reference")
OUTPUTS = ("output", "response")
GIVEN = ("input", "context")
"""Columns with the input of an instruction. The user's turn is the instruction followed by the input."""
CONVERSATIONS = ("conversations", "conversation")
DIALOGUES = ("messages", *CONVERSATIONS)
CHOSEN = ("chosen", "preferred_output", "chosen_response")
REJECTED = ("rejected", "non_preferred_output", "rejected_response")
RATINGS = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen_rating", "rejected_rating"))
CANDIDATES = ("responses", "completions", "candidates", "answers")


@dataclass(frozen=True, slots=True)
class RowShape:
    """One shape: the columns by which it is recognised, the columns that it reads, and the function that reads them."""

    needs: tuple[tuple[str, ...], ...]
    """Groups of columns. A row must have at least one column of each group."""
    read: Callable[[Columns], Sequence[Conversation]]
    """Returns the conversations of a row: one, or the candidates for one prompt."""
    optional: frozenset[str] = frozenset()
    """Further columns that the shape reads if they are there."""

    def fits(self, columns: Sequence[str]) -> bool:
        """Say whether a row with these columns has this shape."""
        return all(any(name in columns for name in group) for group in self.needs)

    @property
    def reads(self) -> frozenset[str]:
        """All columns that this shape reads."""
        return COMMON | self.optional | frozenset(name for group in self.needs for name in group)


# -- shapes of one conversation a row -----------------------------------------------------------------------------


def messages_of(row: Columns) -> list[Conversation]:
    """Read `messages: [{role, content}, …]`, or `conversations: [{from, value}, …]`."""
    return single(row, _dialogue(row))


def alpaca_of(row: Columns) -> list[Conversation]:
    """Read `instruction`, `input` or `context`, and `output` or `response`."""
    return single(row, (_instruction(row), Message("assistant", text_of(row, OUTPUTS, number=True))))


def completion_of(row: Columns) -> list[Conversation]:
    """Read a prompt and its completion. Each of them is text or a list of turns."""
    return single(row, (*_turns(row, PROMPTS, "user"), *_turns(row, REPLIES, "assistant")))


def label_of(row: Columns) -> list[Conversation]:
    """Read a text and its label. The label becomes the assistant's turn and `tags["label"]`."""
    name = present(row, LABELS)
    value = row.get(name)
    label = value.strip() if isinstance(value, str) else number_text(value, name, "a word or a number")
    if blank(label):
        raise RowError(f"field '{name}' is {said(value)}, must be a word or a number")
    return single(row, (Message("user", text_of(row, TEXTS)), Message("assistant", label)), {"label": label})


def document_of(row: Columns) -> list[Conversation]:
    """Read one plain text. The conversation has one user turn, and no answer yet."""
    return single(row, (Message("user", text_of(row, TEXTS)),))


def self_instruct_of(row: Columns) -> list[Conversation]:
    """Read a seed task: `instruction`, `instances: [{input, output}, …]`, and `is_classification`.

    Only the first instance is taken.
    """
    instances = row.get("instances")
    if not isinstance(instances, list) or not instances or not isinstance(instances[0], Mapping):
        raise RowError(f"field 'instances' is {said(instances)}, must be a list of tables with input and output")
    kind = row.get("is_classification")
    asked = {"instruction": row.get("instruction"), **instances[0]}
    turns = (_instruction(asked), Message("assistant", text_of(asked, OUTPUTS, number=True)))
    return single(row, turns, {} if kind is None else {"is_classification": str(kind).lower()})


def squad_of(row: Columns) -> list[Conversation]:
    """Read a question, its context, and the answers. `tags["answers"]` has all of them, as a JSON list."""
    answer, tags = contexts.answers_of(row)
    return single(row, (Message("user", contexts.asked_of(row)), Message("assistant", answer)), tags)


def choice_of(row: Columns) -> list[Conversation]:
    """Read a question, its choices and the right one. The choices become `tags["choices"]`, a JSON list."""
    labels, texts = multiple_choice.choices_of(row)
    asked = _turns(row, (*PROMPTS, "instruction", "question_stem"), "user")
    answer = Message("assistant", multiple_choice.answer_of(row, labels, texts))
    return single(row, (*asked, answer), {"choices": multiple_choice.tag(texts)})


def calls_of(row: Columns) -> list[Conversation]:
    """Read a prompt, `tools`, and the calls that answer it, `answers: [{name, arguments}, …]`, in the form of xLAM."""
    calls = read_calls(row.get("answers"), "answers")
    return single(row, (*_turns(row, PROMPTS, "user"), Message("assistant", None, tool_calls=calls)))


# -- shapes of several candidates a row ---------------------------------------------------------------------------


def preference_of(row: Columns) -> list[Conversation]:
    """Read a prompt with a chosen and a rejected answer, each of which is text or a list of turns.

    Without a prompt, each of them is a complete conversation.
    """
    chosen, rejected = present(row, CHOSEN), present(row, REJECTED)
    if isinstance(row.get("input"), Mapping):  # OpenAI's preference form
        row = {**row, **row["input"]}
    prompt = _prompt(row, last=row.get(chosen) is not None)
    if row.get(chosen) is None:
        better: tuple[Message, ...] = prompt[-1:]
        prompt = prompt[:-1]
    else:
        better = _candidate(row.get(chosen), chosen, prompt)
    worse = _candidate(row.get(rejected), rejected, prompt)
    rated = next((pair for pair in RATINGS if row.get(pair[0]) is not None), RATINGS[0])
    scores = [
        {PREFERENCE: 1.0, **number_of(row, rated[0], RATING)},
        {PREFERENCE: 0.0, **number_of(row, rated[1], RATING)},
    ]
    return _group(row, [_joined(prompt, better), _joined(prompt, worse)], scores)


def feedback_of(row: Columns) -> list[Conversation]:
    """Read a conversation and `label`, which says whether its answer is good."""
    name = present(row, FEEDBACK)
    good = flag(row.get(name), name)
    turns = _prompt(row, last=False)
    return single(row, turns, scores={PREFERENCE: float(good)})


def candidates_of(row: Columns) -> list[Conversation]:
    """Read a prompt and a list of answers. An answer is text, or a table with its text and a score, rating or rank."""
    name = present(row, CANDIDATES)
    found = from_json(row.get(name), name, "a list of answers")
    if not isinstance(found, list) or not found:
        raise RowError(f"field '{name}' is {said(found)}, must be a list of answers")
    prompt, turns, scores = _prompt(row, last=True), list[tuple[Message, ...]](), list[dict[str, float]]()
    for place, answer in enumerate(found):
        where = f"{name}[{place}]"
        table = answer if isinstance(answer, Mapping) and "role" not in answer else {"text": answer}
        text = next((table[key] for key in (*TEXTS, *REPLIES) if table.get(key) is not None), None)
        turns.append(_joined(prompt, _candidate(text, where, prompt)))
        ranked = {} if table.get("rank") is None else {RATING: -number_of(table, "rank", "rank")["rank"]}
        rated = next((key for key in ("score", "rating", "overall_score") if table.get(key) is not None), "")
        scores.append(number_of(table, rated, RATING) if rated else ranked)
    return _group(row, turns, scores)


LAYOUTS: Mapping[str, RowShape] = {
    "choice": RowShape(
        (
            (*PROMPTS, "instruction", "question_stem"),
            (*multiple_choice.CHOICES, "a"),
            (*multiple_choice.CHOICES, "b"),
            multiple_choice.ANSWERS,
        ),
        choice_of,
        frozenset(multiple_choice.LETTERS),
    ),
    "preference": RowShape(
        ((*CHOSEN, *DIALOGUES, *REPLIES), REJECTED),
        preference_of,
        frozenset({*PROMPTS, "instruction", *GIVEN}) | {name for pair in RATINGS for name in pair},
    ),
    "feedback": RowShape(
        ((*DIALOGUES, *REPLIES), (*DIALOGUES, *PROMPTS, "instruction"), FEEDBACK), feedback_of, frozenset(GIVEN)
    ),
    "messages": RowShape((("messages",),), messages_of),
    "sharegpt": RowShape((CONVERSATIONS,), messages_of),
    "self_instruct": RowShape((("instruction",), ("instances",)), self_instruct_of, frozenset({"is_classification"})),
    "alpaca": RowShape((("instruction",), OUTPUTS), alpaca_of, frozenset(GIVEN)),
    "calls": RowShape((PROMPTS, ("tools",), ("answers",)), calls_of),
    "squad": RowShape((("question",), ("context",), contexts.ANSWERS), squad_of, frozenset({contexts.IMPOSSIBLE})),
    "candidates": RowShape(((*PROMPTS, "instruction"), CANDIDATES), candidates_of, frozenset(GIVEN)),
    "completion": RowShape((PROMPTS, REPLIES), completion_of),
    "label": RowShape((TEXTS, LABELS), label_of),
    "document": RowShape((TEXTS,), document_of),
}
"""All shapes by name, in the order in which `auto` tries them."""


def detect(found: Collection[Sequence[str]]) -> str:
    """Return the name of the first shape that fits any of these sets of columns, or the empty string."""
    return next((name for name, layout in LAYOUTS.items() if any(map(layout.fits, found))), "")


def shape_of(file: str, rows: Sequence[Columns]) -> str:
    """Return the first shape that any of the first rows of a file has, or the empty string if there are none.

    Raises:
        JobError: if no row has a shape.
    """
    found = {tuple(row) for row in rows}
    shape = detect(found)
    if rows and not shape:
        columns = ", ".join(sorted({name for names in found for name in names})) or "(none)"
        raise JobError(
            f"{file}: the columns {columns} fit no shape; name the shape, one of {', '.join(LAYOUTS)}, and rename the "
            "columns as the shape needs them"
        )
    return shape


def _dialogue(row: Columns) -> tuple[Message, ...]:
    name = present(row, DIALOGUES)
    return read_turns(row.get(name), name)


def _instruction(row: Columns) -> Message:
    """Return the user's turn, made of an instruction and its input."""
    instruction, name = text_of(row, ("instruction",)), present(row, GIVEN)
    given = row.get(name) or ""
    if not isinstance(given, str):
        raise RowError(f"field '{name}' is {said(given)}, must be text")
    return Message("user", f"{instruction}\n\n{given}" if given.strip() else instruction)


def _turns(row: Columns, names: Sequence[str], role: str) -> tuple[Message, ...]:
    """Return the turns of a column that holds text or a list of turns."""
    name = present(row, names)
    value = row.get(name)
    if isinstance(value, list):
        return read_turns(value, name)
    return (Message(role, text_of(row, names, number=role == "assistant")),)


def _prompt(row: Columns, *, last: bool) -> tuple[Message, ...]:
    """Return the turns of the columns that hold the prompt.

    If `last` is False, the answer in the row follows them.
    """
    turns: tuple[Message, ...] = ()
    if any(row.get(name) is not None for name in DIALOGUES):
        return _dialogue(row)
    if row.get("instruction") is not None:
        turns = (_instruction(row),)
    elif row.get(present(row, PROMPTS)) is not None or not last:
        turns = _turns(row, PROMPTS, "user")
    return turns if last else (*turns, *_turns(row, REPLIES, "assistant"))


_SPOKEN = re.compile(r"\n\n(Human|Assistant): ?")


def _candidate(value: object, name: str, prompt: Sequence[Message]) -> tuple[Message, ...]:
    """Return the turns of one candidate, which is text or a list of turns.

    Without a prompt, text must be a dialogue in the form of Anthropic's HH data: `Human: …`, `Assistant: …`.
    """
    if isinstance(value, bool | int | float):
        value = number_text(value, name, "text")
    if not isinstance(value, str):
        return read_turns(value, name)
    if not prompt:
        begin, *spoken = _SPOKEN.split(value)
        roles = ("user" if speaker == "Human" else "assistant" for speaker in spoken[::2])
        turns = tuple(Message(role, text.strip()) for role, text in zip(roles, spoken[1::2], strict=True))
        if begin.strip() or not turns or any(blank(turn.content) for turn in turns):
            raise RowError(f"field '{name}' is {said(value)}, must be turns where there is no prompt")
        return turns
    if blank(value):
        raise RowError(f"field '{name}' is {said(value)}, must be text")
    return (Message("assistant", value),)


def _joined(prompt: tuple[Message, ...], candidate: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the conversation of a prompt and a candidate. A candidate may already begin with the prompt."""
    if all(turn.role != "user" for turn in candidate):
        return (*prompt, *candidate)
    asked = [turn.content for turn in prompt if turn.role == "user"]
    if asked != [turn.content for turn in candidate if turn.role == "user"][: len(asked)]:
        return (*prompt, *candidate)
    opens = prompt[:1] if prompt and prompt[0].role == "system" and candidate[0].role != "system" else ()
    return (*opens, *candidate)


def _group(
    row: Columns, turns: Sequence[tuple[Message, ...]], scores: Sequence[Mapping[str, float]]
) -> list[Conversation]:
    """Return the candidates of a row with the same tag `group`, which is a digest of all of them."""
    found = [whole(row, each, scores=score) for each, score in zip(turns, scores, strict=True)]
    group = ids.digest(GROUP, [seed_id(each.messages, each.tools) for each in found])
    return [replace(each, tags={**each.tags, GROUP: group}) for each in found]


_ENGLISH = re.compile(r"(?i)\b(?:the|and|are|what|how|why|with|this|that|you|your|which|from|does|write|give|please)\b")
"""Matches a word that is frequent in English and not in related languages."""


def language(messages: Sequence[Message]) -> str:
    """Return `zh`, `ja`, `ko` or `en`, or the empty string if this rule cannot decide.

    This is a rule, not a model. It looks at the first user turn, and then, if that does not decide, at all turns
    together. One Han, Kana or Hangul character weighs as much as one word in Latin letters. Words in Latin letters are
    English if a frequent English word is among them. Ingest uses this rule only for rows without `tags["language"]`.
    """
    users = [m.text for m in messages if m.role == "user"]
    return next(filter(None, map(_script, (*users[:1], " ".join(m.text for m in messages)))), "")


def _script(text: str) -> str:
    return east_asian(text) or ("en" if _ENGLISH.search(text) else "")
