"""Rows of public shapes drawn at random, each with what must come out of the store for it, worked out here by hand.

Texts have characters of every plane of Unicode, NUL among them; tools have schemas that differ from row to row.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

Json = Any
"""Any JSON value."""
Turn = dict[str, Json]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A row of a shape, and the samples that it must become, each as a JSON value."""

    shape: str
    row: dict[str, Json]
    wanted: list[dict[str, Json]]
    """Messages in the OpenAI form, tools as a list, scores, tags without those that are derived."""


class Draw:
    """What rows are made of, from one stream of chance."""

    def __init__(self, rng: Random, number: int) -> None:
        """Take the stream, and the number that makes every conversation different."""
        self.rng, self.number = rng, number

    def maybe(self, share: float = 0.5) -> bool:
        return self.rng.random() < share

    def text(self) -> str:
        """A text that shows something, with characters of every plane; half of them are everyday ones."""
        rng = self.rng
        letters = []
        for _ in range(rng.randrange(1, 40)):
            kind = rng.random()
            if kind < 0.5:
                letters.append(rng.choice("abc DEF.,?!\n\t\"'\\{}[]<>|我们的问题😀é\u2028\u200d\u0301"))
                continue
            code = rng.randrange(0x110000) if kind < 0.9 else rng.choice((0, 1, 0x7F, 0xFEFF, 0xFFFD, 0xFFFF, 0x10FFFF))
            letters.append(chr(code) if not 0xD800 <= code <= 0xDFFF else "x")
        return f"q{rng.randrange(10)}{''.join(letters)}z"

    def asked(self) -> str:
        """A text that no other row has."""
        return f"{self.text()} no. {self.number}"

    def word(self) -> str:
        return self.rng.choice(("look_up", "add", "天气", "read-file", "send.mail")) + str(self.rng.randrange(100))

    def number_(self) -> float:
        """A number that a float32 holds, of few digits."""
        return self.rng.choice((0.0, 1.0, -2.5, 0.125, 4.75, 1e-3, 123456.0, float(self.rng.randrange(-999, 999)) / 8))

    def value(self, depth: int = 0) -> Json:
        """Any JSON value."""
        kind = self.rng.randrange(8 if depth < 3 else 6)
        if kind == 6:
            return [self.value(depth + 1) for _ in range(self.rng.randrange(3))]
        if kind == 7:
            return {self.word(): self.value(depth + 1) for _ in range(self.rng.randrange(3))}
        return (None, True, self.rng.randrange(-(2**40), 2**40), self.rng.random(), self.text(), "")[kind]

    def table(self) -> dict[str, Json]:
        return {self.word(): self.value() for _ in range(self.rng.randrange(4))}

    def tools(self) -> list[Json]:
        return [
            {
                "type": "function",
                "function": {
                    "name": self.word(),
                    "description": self.text(),
                    "parameters": {"type": "object", "properties": self.table()},
                },
            }
            for _ in range(self.rng.randrange(1, 4))
        ]

    def arguments(self) -> str:
        """JSON text of a call's arguments, with spaces that must stay."""
        return json.dumps(self.table(), ensure_ascii=self.maybe(), indent=self.rng.choice((None, None, 1)))

    def call(self) -> Turn:
        return {
            "id": f"call_{self.rng.randrange(10**9)}",
            "type": "function",
            "function": {"name": self.word(), "arguments": self.arguments()},
        }

    def answer(self) -> Turn:
        return {"role": "assistant", "content": self.text()}

    def history(self) -> list[list[str]]:
        return [[self.text(), self.text()] for _ in range(self.rng.randrange(3))]


def turns_of(history: list[list[str]]) -> list[Turn]:
    return [
        {"role": role, "content": text}
        for pair in history
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def user(text: str) -> Turn:
    return {"role": "user", "content": text}


def assistant(text: str) -> Turn:
    return {"role": "assistant", "content": text}


def sample(messages: list[Turn], tools: list[Json] | None = None, **scores: float) -> dict[str, Json]:
    return {"messages": messages, "tools": tools or None, "scores": scores, "tags": {}}


# -- the shapes ---------------------------------------------------------------------------------------------------


def openai(d: Draw) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """Chat fine-tuning: tools, calls, thoughts, parts, weights of turns, a weight of the row, tags and scores."""
    tools = d.tools() if d.maybe() else None
    given: list[Turn] = [{"role": "system", "content": d.text()}] if d.maybe() else []
    kept: list[Turn] = [dict(turn) for turn in given]
    for round_ in range(d.rng.randrange(1, 4)):
        pairs = [asked_in_parts(d, d.asked() if not round_ else d.text())]
        pairs += [(turn, turn) for turn in called(d)] if tools and d.maybe() else []
        for came, stays in (*pairs, answered(d)):
            given.append(came)
            kept.append(stays)
    row: dict[str, Json] = {"messages": given, **({"tools": tools} if tools else {})}
    out = sample(kept, tools)
    if d.maybe(0.3):
        row["weight"] = out["scores"]["weight"] = abs(d.number_())
    if d.maybe(0.3):
        row["scores"] = {d.text(): d.number_()}
        out["scores"] |= row["scores"]
    if d.maybe(0.3):
        row["tags"] = out["tags"] = {d.text(): d.text(), "topic": d.text()}
    return row, [out]


def asked_in_parts(d: Draw, text: str) -> tuple[Turn, Turn]:
    """A question, as text or in parts, and as it stays."""
    first, second = ({"type": "text", "text": each} for each in (text, d.text()))
    image = {"type": "image_url", "image_url": {"url": f"https://example.org/{d.number}.png"}}
    if d.maybe(0.2):
        turn = {"role": "user", "content": [first, image, second] if d.maybe() else [image, first]}
        return turn, turn
    if d.maybe(0.2):
        return {"role": "user", "content": [first, second]}, user(f"{text}\n{second['text']}")
    return user(text), user(text)


def called(d: Draw) -> list[Turn]:
    """Calls and their results."""
    calls = [d.call() for _ in range(d.rng.randrange(1, 3))]
    turn: Turn = {"role": "assistant", "content": d.text() if d.maybe(0.3) else None, "tool_calls": calls}
    names = [(call["id"], call["function"]["name"]) for call in calls]
    return [turn, *({"role": "tool", "tool_call_id": i, "name": n, "content": d.text()} for i, n in names)]


def answered(d: Draw) -> tuple[Turn, Turn]:
    """An answer, with a thought or a weight, and as it stays."""
    came, stays = d.answer(), Turn()
    if d.maybe(0.3):
        stays["reasoning_content"] = came[d.rng.choice(("reasoning_content", "reasoning"))] = d.text()
    if d.maybe(0.3):
        came |= d.rng.choice(({"weight": 0}, {"train": False}, {"mask": True}))
        stays["weight"] = 0
    elif d.maybe(0.2):
        came["weight"] = 1
    return came, {"role": "assistant", "content": came["content"], **stays}


def json_text(d: Draw) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """The same with messages and tools as JSON text, as tables without nested columns have them."""
    row, wanted = openai(d)
    row["messages"] = json.dumps(row["messages"], ensure_ascii=d.maybe())
    if "tools" in row:
        row["tools"] = json.dumps(row["tools"], ensure_ascii=d.maybe())
    return row, wanted


def sharegpt(d: Draw) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """LLaMA-Factory's ShareGPT with function_call and observation, system and tools columns."""
    system, tools, asked, answer = d.text(), d.tools(), d.asked(), d.text()
    turns: list[Turn] = [{"from": "human", "value": asked}]
    kept = [{"role": "system", "content": system}, user(asked)]
    if d.maybe():
        name, arguments, result = d.word(), d.table(), d.text()
        turns += [
            {"from": "function_call", "value": json.dumps({"name": name, "arguments": arguments})},
            {"from": "observation", "value": result},
        ]
        function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
        kept += [
            {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]},
            {"role": "tool", "content": result},
        ]
    turns.append({"from": "gpt", "value": answer})
    row = {"conversations": turns, "system": system, "tools": json.dumps(tools)}
    return row, [sample([*kept, assistant(answer)], tools)]


def alpaca(d: Draw) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """Stanford Alpaca, with LLaMA-Factory's system and history."""
    asked, given, answer, system, history = d.asked(), d.text() if d.maybe() else "", d.text(), d.text(), d.history()
    row = {"instruction": asked, "input": given, "output": answer, "system": system, "history": history}
    whole = f"{asked}\n\n{given}" if given else asked
    begin = [{"role": "system", "content": system}, *turns_of(history)]
    return row, [sample([*begin, user(whole), assistant(answer)])]


def swift(d: Draw) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """ms-swift: query, response, system, history."""
    asked, answer, history = d.asked(), d.text(), d.history()
    row = {"query": asked, "response": answer, "history": history}
    return row, [sample([*turns_of(history), user(asked), assistant(answer)])]


def dolly(d: Draw) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """Databricks Dolly: instruction, context, response."""
    asked, given, answer = d.asked(), d.text(), d.text()
    row = {"instruction": asked, "context": given, "response": answer}
    return row, [sample([user(f"{asked}\n\n{given}"), assistant(answer)])]


def completion(d: Draw) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """TRL's prompt and completion, GSM8K's question and answer, Flan's inputs and targets; text or turns."""
    asked, answer = d.asked(), d.text()
    names = d.rng.choice(
        (("prompt", "completion"), ("question", "answer"), ("inputs", "targets"), ("problem", "solution"))
    )
    if names[0] == "prompt" and d.maybe():
        return {"prompt": [user(asked)], "completion": [assistant(answer)]}, [sample([user(asked), assistant(answer)])]
    return {names[0]: asked, names[1]: answer}, [sample([user(asked), assistant(answer)])]


def preference(d: Draw) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """TRL's, OpenAI's, LLaMA-Factory's and UltraFeedback's pairs of a chosen and a rejected answer."""
    asked, good, bad = d.asked(), d.text() + "1", d.text() + "2"
    kept = [sample([user(asked), assistant(text)], preference=score) for text, score in ((good, 1.0), (bad, 0.0))]
    forms: tuple[Callable[[], dict[str, Json]], ...] = (
        lambda: {"prompt": asked, "chosen": good, "rejected": bad},
        lambda: {"prompt": [user(asked)], "chosen": [assistant(good)], "rejected": [assistant(bad)]},
        lambda: {"chosen": [user(asked), assistant(good)], "rejected": [user(asked), assistant(bad)]},
        lambda: {
            "prompt": asked,
            "chosen": [user(asked), assistant(good)],
            "rejected": [user(asked), assistant(bad)],
        },
        lambda: {
            "conversations": [{"from": "human", "value": asked}],
            "chosen": {"from": "gpt", "value": good},
            "rejected": {"from": "gpt", "value": bad},
        },
        lambda: {
            "input": {"messages": [user(asked)]},
            "preferred_output": [assistant(good)],
            "non_preferred_output": [assistant(bad)],
        },
        lambda: {"messages": [user(asked), assistant(good)], "rejected_response": bad},
    )
    row = d.rng.choice(forms)()
    if d.maybe(0.3):
        row |= {"score_chosen": 4.5, "score_rejected": 2.0}
        kept[0]["scores"]["rating"], kept[1]["scores"]["rating"] = 4.5, 2.0
    return row, kept


def dialogue_pairs(d: Draw) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """Anthropic's HH: two dialogues as text."""
    asked, good, bad = (f"{text.strip()}" for text in (d.asked(), d.text() + "1", d.text() + "2"))
    row = {name: f"\n\nHuman: {asked}\n\nAssistant: {said}" for name, said in (("chosen", good), ("rejected", bad))}
    return row, [sample([user(asked), assistant(text)], preference=s) for text, s in ((good, 1.0), (bad, 0.0))]


def feedback(d: Draw) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """TRL's unpaired feedback: prompt, completion, label."""
    asked, answer, good = d.asked(), d.text(), d.maybe()
    row = {"prompt": asked, "completion": answer, "label": good}
    return row, [sample([user(asked), assistant(answer)], preference=float(good))]


def candidates(d: Draw) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """Answers with their scores, as Nectar and UltraFeedback have them."""
    asked, texts = d.asked(), [d.text() + str(n) for n in range(d.rng.randrange(2, 5))]
    scores = [float(d.rng.randrange(1, 11)) for _ in texts]
    answers = [{"response": text, "score": score} for text, score in zip(texts, scores, strict=True)]
    kept = [sample([user(asked), assistant(t)], rating=s) for t, s in zip(texts, scores, strict=True)]
    return {"prompt": asked, "responses": answers}, kept


def xlam(d: Draw) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """Salesforce's xLAM: query, tools and answers as JSON text."""
    asked, tools = d.asked(), [{"name": d.word(), "parameters": d.table()}]
    calls = [(d.word(), d.table()) for _ in range(d.rng.randrange(1, 3))]
    answers = [{"name": name, "arguments": arguments} for name, arguments in calls]
    functions = [{"name": n, "arguments": json.dumps(a, ensure_ascii=False)} for n, a in calls]
    made = [{"type": "function", "function": function} for function in functions]
    row = {"query": asked, "tools": json.dumps(tools), "answers": json.dumps(answers)}
    return row, [sample([user(asked), {"role": "assistant", "content": None, "tool_calls": made}], tools)]


def label(d: Draw) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """A text and its label."""
    asked, said = d.asked(), d.word()
    out = sample([user(asked), assistant(said)])
    return {"text": asked, "label": said}, [{**out, "tags": {"label": said}}]


def document(d: Draw) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """A plain text."""
    asked = d.asked()
    return {"text": asked}, [sample([user(asked)])]


def self_instruct(d: Draw) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """A seed task of Self-Instruct."""
    asked, given, answer = d.asked(), d.text(), d.text()
    row = {"instruction": asked, "instances": [{"input": given, "output": answer}]}
    return row, [sample([user(f"{asked}\n\n{given}"), assistant(answer)])]


SHAPES: tuple[Callable[[Draw], tuple[dict[str, Json], list[dict[str, Json]]]], ...] = (
    openai,
    json_text,
    sharegpt,
    alpaca,
    swift,
    dolly,
    completion,
    preference,
    dialogue_pairs,
    feedback,
    candidates,
    xlam,
    label,
    document,
    self_instruct,
)


def drawn(seed: int, count: int) -> Iterator[Drawn]:
    """Rows of every shape in turn; row `n` depends on the seed and on `n` alone."""
    for n in range(count):
        shape = SHAPES[n % len(SHAPES)]
        row, wanted = shape(Draw(Random(f"{seed} {n}"), n))
        yield Drawn(shape.__name__, row, wanted)


# -- rows that must be refused ------------------------------------------------------------------------------------

BROKEN: tuple[tuple[str, dict[str, Json]], ...] = (
    ("content", {"messages": [user("a \ud83d"), assistant("b")]}),
    ("reasoning", {"messages": [user("a"), {**assistant("b"), "reasoning_content": "\udc00"}]}),
    (
        "arguments",
        {"messages": [user("a"), {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "\ud800"}]}]},
    ),
    ("tool_calls[0].name", {"messages": [user("a"), {"role": "assistant", "tool_calls": [{"arguments": "{}"}]}]}),
    ("tags", {"messages": [user("a"), assistant("b")], "tags": {"\ud83d": "x"}}),
    ("tags.topic", {"messages": [user("a"), assistant("b")], "tags": {"topic": "\ud83d"}}),
    ("scores", {"messages": [user("a"), assistant("b")], "scores": {"\ud83d": 1}}),
    ("scores.judge", {"messages": [user("a"), assistant("b")], "scores": {"judge": 1e39}}),
    ("scores.judge", {"messages": [user("a"), assistant("b")], "scores": {"judge": float("inf")}}),
    ("scores.votes", {"messages": [user("a"), assistant("b")], "scores": {"votes": 16777217}}),
    ("weight", {"messages": [user("a"), assistant("b")], "weight": -1}),
    ("weight", {"messages": [user("a"), {**assistant("b"), "weight": 0.5}]}),
    ("tools", {"messages": [user("a"), assistant("b")], "tools": "look_up"}),
    ("role", {"messages": [{"role": "alien", "content": "a"}]}),
    ("label", {"text": "a", "label": "happy \ud83d"}),
    ("label", {"prompt": "a", "completion": "b", "label": "perhaps"}),
    ("rejected", {"prompt": "a", "chosen": "b", "rejected": ""}),
    ("system", {"messages": [{"role": "system", "content": "x"}, user("a"), assistant("b")], "system": "y"}),
    ("history", {"query": "a", "response": "b", "history": "none"}),
)
"""Rows with the field that their refusal must name."""
