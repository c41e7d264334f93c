"""The formats for questions to people and their answers: tasks of Label Studio and records of Argilla.

In both tools the question is called `label`, and the text that people see is called `text`. For Label Studio, tasks
with predictions and the labelling interface (XML) are written, and its JSON export (tasks with annotations) is read.
For Argilla 2, a list of `Record.to_dict` is written (`dataset.records.from_json`) and read
(`dataset.records.to_json`), and the settings are written (`Settings.from_json`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from gristmill.cluster.contract import gate
from gristmill.cluster.contract.gate import GateError
from gristmill.cluster.contract.sample import Sample

LabellingTool = Literal["label_studio", "argilla"]
Json = dict[str, Any]

AGENT = "gristmill"
"""Name of the author of suggestions."""
ANONYMOUS = "anonymous"
"""Name of the author of answers without a name."""
QUESTION, TEXT = "label", "text"


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """One sample that waits for people: the text that they see, and the suggested answer."""

    id: str
    text: str
    answer: str
    confidence: float


@dataclass(frozen=True, slots=True)
class HumanAnswer:
    """The answer of one person about one sample."""

    sample: str
    person: str
    answer: str
    where: str
    """File and place, for messages."""


def text_for_people(sample: Sample) -> str:
    """Return the text of a sample that people see: all turns except the last answer; several turns have their roles."""
    turns = sample.messages[:-1] if sample.messages[-1].role == "assistant" else sample.messages
    if len(turns) == 1:
        return turns[0].said
    return "\n\n".join(f"[{turn.role}]\n{turn.said}" for turn in turns)


# -- out ----------------------------------------------------------------------------------------------------------


def files(
    form: LabellingTool, asked: Sequence[QueueEntry], labels: Sequence[str], *, suggest: bool
) -> dict[str, bytes]:
    """Return the files that set up a project and fill it, by name. Without labels, people write an answer."""
    if form == "label_studio":
        tasks = [_task(a, choose=bool(labels), suggest=suggest) for a in asked]
        return {"queue.json": _bytes(tasks), "label_config.xml": _interface(labels).encode()}
    records = [_record(a, suggest=suggest) for a in asked]
    return {"queue.json": _bytes(records), "settings.json": _bytes(_settings(labels))}


def _bytes(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()


def _task(asked: QueueEntry, *, choose: bool, suggest: bool) -> Json:
    """Return a task in Label Studio's JSON format, with a prediction as the initial answer."""
    value = {"choices": [asked.answer]} if choose else {"text": [asked.answer]}
    kind = "choices" if choose else "textarea"
    result = {"id": asked.id[:10], "from_name": QUESTION, "to_name": TEXT, "type": kind, "value": value}
    prediction = {"model_version": AGENT, "score": asked.confidence, "result": [result]}
    shown = suggest and bool(asked.answer)
    data = {"sample_id": asked.id, TEXT: asked.text, "confidence": asked.confidence}
    return {"data": data, "predictions": [prediction] if shown else []}


def _interface(labels: Sequence[str]) -> str:
    choices = "".join(f"\n    <Choice value={quoteattr(label)}/>" for label in labels)
    control = f'<Choices name="{QUESTION}" toName="{TEXT}" choice="single" required="true">{choices}\n  </Choices>'
    if not labels:
        control = f'<TextArea name="{QUESTION}" toName="{TEXT}" editable="true" maxSubmissions="1" required="true"/>'
    return f'<View>\n  <Text name="{TEXT}" value="${TEXT}"/>\n  {control}\n</View>\n'


def _record(asked: QueueEntry, *, suggest: bool) -> Json:
    """Return a record in the form of Argilla's `Record.to_dict`."""
    suggestion = {QUESTION: {"value": asked.answer, "score": asked.confidence, "agent": AGENT}}
    return {
        "id": asked.id,
        "fields": {TEXT: asked.text},
        "metadata": {"confidence": asked.confidence},
        "suggestions": suggestion if suggest and asked.answer else {},
        "responses": {},
        "vectors": {},
    }


def _settings(labels: Sequence[str]) -> Json:
    question: Json = {"type": "text", "use_markdown": False}
    if labels:
        question = {"type": "label_selection", "options": [{"value": label, "text": label} for label in labels]}
    field = {"type": "text", "use_markdown": False}
    number = {"type": "float", "visible_for_annotators": True}
    return {
        "guidelines": None,
        "fields": [{"name": TEXT, "title": TEXT, "required": True, "settings": field}],
        "questions": [{"name": QUESTION, "title": QUESTION, "required": True, "settings": question}],
        "metadata": [{"name": "confidence", "title": "confidence", "settings": number}],
        "vectors": [],
        "allow_extra_metadata": True,
        "distribution": {"strategy": "overlap", "min_submitted": 1},
    }


# -- in -----------------------------------------------------------------------------------------------------------


class EntryError(Exception):
    """An error for an entry without a usable answer; the message reads `field 'x' is …, must be …`."""


def read(data: bytes, file: str) -> tuple[list[HumanAnswer], list[str]]:
    """Return the answers in an exported file of either tool, and a line for each entry that cannot be read."""
    said: list[HumanAnswer] = []
    problems: list[str] = []
    try:
        entries = _entries(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return [], [f"{file}: is not JSON ({error}), must be what Label Studio or Argilla exported"]
    except GateError as error:
        return [], [f"{file}: {error}, must be what Label Studio or Argilla exported"]
    for number, entry in enumerate(entries, 1):
        where = f"{file}: entry {number}"
        try:
            gate.admit(entry)
            said += [HumanAnswer(_sample(entry), person, answer, where) for person, answer in _answers(entry)]
        except (EntryError, GateError) as bad:
            problems.append(f"{where}: {bad}")
    return said, problems


def _entries(text: str) -> list[Any]:
    """Return the entries of a JSON list, of one JSON object, or of JSON lines."""
    try:
        value, _ = gate.suspect(text)
    except GateError as error:
        if "(Extra data" not in str(error):
            raise
        return [_line(line) for line in text.split("\n") if line.strip()]
    return value if isinstance(value, list) else [value]


def _line(text: str) -> object:
    """Return the entry of a line. A line that cannot be read is returned as text; `read` then names its place."""
    try:
        return gate.suspect(text)[0]
    except GateError:
        return text


def _sample(entry: Mapping[str, Any]) -> str:
    found = entry["data"].get("sample_id") if "annotations" in entry else entry.get("id")
    name = "data.sample_id" if "annotations" in entry else "id"
    if not isinstance(found, str) or not found:
        raise EntryError(f"field '{name}' is {_describe(found)}, must be the id of a sample")
    return found


def _answers(entry: object) -> Iterator[tuple[str, str]]:
    """Yield (person, answer) of one entry of either tool."""
    if not isinstance(entry, Mapping):
        raise EntryError(f"is {_describe(entry)}, must be a table")
    if "annotations" in entry:
        if not isinstance(entry.get("data"), Mapping):
            raise EntryError(f"field 'data' is {_describe(entry.get('data'))}, must be a table")
        yield from _annotations(_list(entry["annotations"], "annotations"))
    elif "responses" in entry:
        responses = entry["responses"] or {}
        if not isinstance(responses, Mapping):
            raise EntryError(f"field 'responses' is {_describe(responses)}, must be a table, as Argilla 2 writes it")
        yield from _responses(_list(responses.get(QUESTION) or [], f"responses.{QUESTION}"))
    elif "annotation_id" in entry:
        raise EntryError("is of Label Studio's form JSON_MIN, must be of its form JSON; export it again")
    else:
        raise EntryError("has neither 'annotations' nor 'responses', must be of Label Studio or of Argilla 2")


def _annotations(annotations: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Yield (person, answer) of Label Studio's annotations; skipped and empty annotations have no answer."""
    for place, annotation in enumerate(annotations):
        where = f"annotations[{place}]"
        if not isinstance(annotation, Mapping):
            raise EntryError(f"field '{where}' is {_describe(annotation)}, must be a table")
        if annotation.get("was_cancelled"):
            continue
        for number, result in enumerate(_list(annotation.get("result"), f"{where}.result")):
            value = result.get("value") if isinstance(result, Mapping) else None
            if not isinstance(value, Mapping):
                raise EntryError(f"field '{where}.result[{number}].value' is {_describe(value)}, must be a table")
            if result.get("from_name") == QUESTION:
                given = value.get("choices", value.get("text"))
                yield _person(annotation.get("completed_by")), _answer(given, f"{where}.result[{number}].value")


def _responses(responses: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Yield (person, answer) of Argilla's responses; drafts and responses without a value have no answer."""
    for place, response in enumerate(responses):
        if not isinstance(response, Mapping):
            raise EntryError(f"field 'responses.{QUESTION}[{place}]' is {_describe(response)}, must be a table")
        if response.get("status", "submitted") == "submitted" and response.get("value") is not None:
            where = f"responses.{QUESTION}[{place}].value"
            yield _person(response.get("user_id")), _answer(response["value"], where)


def _answer(value: object, name: str) -> str:
    """Return the one answer in a value, which is a text or a list of one text."""
    given = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(given, str) or not given.strip():
        raise EntryError(f"field '{name}' is {_describe(value)}, must be one answer")
    return given.strip()


def _person(value: object) -> str:
    if isinstance(value, Mapping):
        value = value.get("id", value.get("email"))
    return ANONYMOUS if value in (None, "", "None") else str(value)


def _list(value: object, name: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise EntryError(f"field '{name}' is {_describe(value)}, must be a list")
    return value


def _describe(value: object) -> str:
    """Describe a value in a few words."""
    if value is None:
        return "absent"
    if isinstance(value, str):
        return f"{value[:40]!r}" if value.strip() else "empty"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "a table" if isinstance(value, Mapping) else f"{value!r}"
