"""The abilities of a server, found by a few calls, and requests in a form that the server can serve.

Small models continue a turn that has begun far better than they follow instructions, so most steps begin the model's
turn. Many servers silently close that turn and start another turn, ignore a JSON schema, or return no probabilities.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

from gristmill.cluster.contract.errors import EngineError, JobError
from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models.engine import Abilities, Choose, Conversation, Reply, Write
from gristmill.cluster.text.scripts import is_chinese
from gristmill.generation.engines.endpoint import wire
from gristmill.generation.engines.endpoint.http import STREAMED

Try = Callable[[Write, Mapping[str, Any]], Awaitable[tuple[Mapping[str, Any], Reply | None]]]
"""A function that sends a request. It returns (the body of a chat completion, None), or ({}, the refusal)."""

BEGUN, REST = "Monday, Tuesday, Wed", "nesday"
"""A turn that ends within a word. A model that starts a new turn does not begin it with the rest of that word."""
DAYS = Write((Message("user", "Name the days of the week, separated by commas."),), 8, 1, 0.0, prefix=BEGUN)
ODD = ("q-17", "z-40")
"""Choices that no model makes unless it is constrained to them."""
LETTER = Write((Message("user", "Which letter comes first in the alphabet?"),), 32, 1, 0.0)
WORDS = Write((Message("user", "Write ten words that have nothing to do with each other."),), 16, 1, 1.0)

GO_ON = {
    "en": "The text below is not finished. Write only what comes next, from exactly where it ends. Do not repeat it.",
    "zh": "下面的文字还没有写完。请从它结束的地方接着写，只写后面的内容，不要重复已有的文字。",
}
GO_ON_WITH = {
    "en": "The text below is not finished. What comes next is one of these: {words}.",
    "zh": "下面的文字还没有写完。接下来的内容是以下之一：{words}。",
}
ONE_OF = {"en": "Reply with one of these: {words}.", "zh": "请回复以下之一：{words}。"}
ALONE = {"en": "Reply with that alone.", "zh": "只回复这一项。"}
AS_JSON = {"en": 'Reply with JSON alone: {"choice": "…"}', "zh": '只回复JSON：{"choice": "…"}'}
UNDER_SCHEMA = {
    "en": "Reply with JSON alone, valid under this JSON schema: {schema}",
    "zh": "只回复符合以下JSON Schema的JSON：{schema}",
}


async def probe(ask: Try) -> Abilities:
    """Return the abilities of a server, found by at most ten short calls.

    Raises:
        JobError: when the server refuses a plain chat.
    """
    body, refusal = await ask(WORDS, {})
    if refusal:
        must = "must serve generate.engine.model"
        raise JobError(f"generate.engine.endpoint: refuses a plain chat ({refusal.finish}), {must}")
    words = wire.read(body, WORDS).text
    again, refusal = await _tried(ask, WORDS, {"logprobs": True, "top_logprobs": wire.TOP_LOGPROBS})
    logprobs = refusal is None and any(len(options) > 1 for _, options in wire.steps(again))
    if refusal:
        again, refusal = await _tried(ask, WORDS, {})
    seeds = refusal is None and bool(words) and wire.read(again, WORDS).text == words
    form: Literal["", "plain", "flags", "prefix"] = ""
    for name in wire.FORMS:
        body, refusal = await _tried(ask, DAYS, wire.begun(DAYS, name))
        if refusal is None and rest(wire.read(body, DAYS).text, BEGUN).startswith(REST):
            form = name
            break
    schema: Literal["", "json_schema", "json_object"] = ""
    for kind in wire.SCHEMA_FORMS:
        body, refusal = await _tried(ask, LETTER, {"response_format": wire.choice_schema(ODD, kind)})
        if refusal is None and wire.json_choice(wire.read(body, LETTER).text, ODD) is not None:
            schema = kind
            break
    parts = await asyncio.gather(*(_tried(ask, WORDS, STREAMED) for _ in range(2)))
    streams = all(not refusal and body.get("chunks", 0) > 1 for body, refusal in parts)
    return Abilities(continues=form, json_schema=schema, logprobs=logprobs, seeds=seeds, streams=streams)


async def _tried(ask: Try, request: Write, extra: Mapping[str, Any]) -> tuple[Mapping[str, Any], Reply | None]:
    """Ask; a server that fails on a request cannot do what the request asks."""
    try:
        return await ask(request, extra)
    except EngineError as error:
        return {}, Reply("", f"error: {error}", 0, 0)


def laid_out(request: Write, can: Abilities) -> Write:
    """Return a request in a form that the server can serve.

    If the server lacks an ability, the user's turn asks the model in words for the same.
    """
    asks: list[str] = []
    if request.json_schema and not can.json_schema:
        asks.append(UNDER_SCHEMA[_language(request)].format(schema=request.json_schema))
    if request.prefix and not can.continues:
        asks.append(GO_ON[_language(request)])
    return _with_asks(request, asks, keeps=bool(can.continues)) if asks else request


def written_choice(request: Choose, can: Abilities) -> Write:
    """Return the request by which a server writes one of the choices, in a form that it can serve."""
    common = {name.name: getattr(request, name.name) for name in fields(Conversation)}
    written = Write(**common, max_tokens=16 + 2 * max(map(len, request.choices)), seed=request.seed, temperature=0.0)
    if request.prefix and can.continues and not can.json_schema:
        return written
    language = _language(request)
    words = ", ".join(json.dumps(choice.strip(), ensure_ascii=False) for choice in request.choices)
    which = (GO_ON_WITH if request.prefix else ONE_OF)[language].format(words=words)
    return _with_asks(written, [which, (AS_JSON if can.json_schema else ALONE)[language]], keeps=False)


def _language(request: Conversation) -> str:
    return "zh" if is_chinese("".join(m.text for m in request.messages) + request.prefix) else "en"


def _with_asks(request: Write, asks: Sequence[str], *, keeps: bool) -> Write:
    """Return a request with sentences added to the user's turn.

    With `keeps`, the prefix stays in the model's turn. Without it, the prefix is added after the sentences.
    """
    more = [" ".join(asks), *([request.prefix] if request.prefix and not keeps else [])]
    messages = [*request.messages]
    last = messages.pop() if messages and messages[-1].role == "user" else Message("user", "")
    messages.append(last._replace(content="\n\n".join(filter(None, [last.text, *more]))))
    return replace(request, messages=tuple(messages), prefix=request.prefix if keeps else "")


def rest(text: str, begun: str) -> str:
    """Return what a reply adds to the beginning that it continues. The reply may repeat that beginning, or its end."""
    lines = begun.split("\n")
    said = text.lstrip()
    for place in range(len(lines)):
        end = "\n".join(lines[place:]).strip()
        if end and said.startswith(end):
            return said[len(end) :]
    return text


def cut(reply: Reply, request: Write) -> Reply:
    """Return the reply to a request of `laid_out`, without a repeated prefix, and cut at the request's stop strings."""
    text = rest(reply.text, request.prefix).lstrip("\n")
    places = [place for stop in request.stop if (place := text.find(stop)) >= 0]
    if not places:
        return replace(reply, text=text)
    return replace(reply, text=text[: min(places)], finish="stop" if reply.finish == "length" else reply.finish)


def fitting(reply: Reply, request: Write) -> Reply:
    """Return a reply; refuse it if it does not have the requested form, because a server may ignore a form."""
    if reply.finish != "stop":
        return reply
    if request.regex and not re.fullmatch(request.regex, reply.text):
        return replace(reply, text="", finish="error: the reply does not match the regular expression")
    if not request.json_schema:
        return reply
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", reply.text, re.DOTALL)
    text = fenced.group(1) if fenced else reply.text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return replace(reply, text="", finish="error: the reply is not JSON")
    return replace(reply, text=text)


def strip_choices(choices: Sequence[str]) -> dict[str, str]:
    """Return the choices, by the words that the model writes: without outer blanks if the words still differ then."""
    stripped = {choice.strip(): choice for choice in choices}
    return stripped if len(stripped) == len(choices) and "" not in stripped else {choice: choice for choice in choices}
