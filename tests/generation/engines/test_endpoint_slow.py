"""Servers that take their time: a call is given up when the server stops, not when an answer is long."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest

from gristmill.cluster.contract.errors import EngineError
from gristmill.cluster.contract.sample import ToolCall
from gristmill.cluster.models.engine import Abilities, Reply, Write
from gristmill.generation.engines.endpoint import progress, wire
from gristmill.generation.engines.endpoint.engine import EndpointEngine
from gristmill.generation.engines.endpoint.http import Patience
from gristmill.generation.engines.endpoint.stream import Stream
from tests.fake_server import FakeServer
from tests.generation.endpoints import ASK, at

HANG_S = 0.5
SLOW = Patience(attempts=4, first_s=0.01, hang_s=HANG_S)
STREAMS = Abilities(continues="plain", json_schema="json_schema", logprobs=True, seeds=True, streams=True)
WHOLE = Abilities(continues="plain", json_schema="json_schema", logprobs=True, seeds=True)
ONE = Write(ASK.messages, 1, 1)
"""A call whose one token should take 0.4 s at most, before anything is measured."""


def asked(
    server: FakeServer, use: Callable[[EndpointEngine], Awaitable[Any]], abilities: Abilities, patience: Patience = SLOW
) -> tuple[Any, dict[str, float]]:
    async def run() -> tuple[Any, dict[str, float]]:
        async with server:
            engine = at(server, patience, abilities)
            try:
                return await use(engine), engine.stats()
            finally:
                await engine.closed()

    return asyncio.run(run())


def long(words: int) -> Callable[[dict[str, Any]], str]:
    return lambda payload: " ".join(["word"] * words)


def test_an_answer_that_comes_in_parts_may_take_many_times_the_longest_silence() -> None:
    server = FakeServer()
    server.piece_s, server.says = 0.15, long(15)
    begin = time.monotonic()
    reply, stats = asked(server, lambda engine: engine.ask(ASK), STREAMS)
    assert time.monotonic() - begin > 4 * HANG_S
    assert (reply.text, reply.finish, reply.prompt_tokens) == (long(15)({}), "stop", 40)
    assert len(server.asked) == 1 and server.asked[0]["stream"] and stats["retries"] == 0 and stats["steps"] > 15


def test_parts_count_as_tokens_while_they_come() -> None:
    async def use(engine: EndpointEngine) -> list[float]:
        asking = asyncio.create_task(engine.ask(ASK))
        seen = []
        while not asking.done():
            seen.append(engine.stats()["reply_tokens"])
            await asyncio.sleep(0.02)
        return [*seen, engine.stats()["reply_tokens"]]

    server = FakeServer()
    server.piece_s, server.says = 0.05, long(12)
    seen, _ = asked(server, use, STREAMS)
    assert seen == sorted(seen) and len(set(seen)) > 6


def test_a_stream_that_stops_is_given_up_and_asked_again() -> None:
    server = FakeServer()
    server.stops_after = 3

    async def use(engine: EndpointEngine) -> Reply:
        asking = asyncio.create_task(engine.ask(ONE))
        await asyncio.sleep(0.4)
        assert server.in_flight
        server.stops_after = None
        return await asking

    reply, stats = asked(server, use, STREAMS)
    assert reply.finish == "stop" and len(server.asked) == 2 and stats["retries"] == 1


def test_a_whole_answer_is_waited_for_while_the_server_says_that_it_lives() -> None:
    server = FakeServer()
    server.delay_s = 5 * HANG_S
    reply, stats = asked(server, lambda engine: engine.ask(ONE), WHOLE)
    assert reply.finish == "stop" and len(server.asked) == 1 and stats["retries"] == 0
    assert server.calls > 3, "it was asked whether it lives"


def test_calls_wait_their_turn_at_a_server_that_does_one_thing_at_a_time() -> None:
    server = FakeServer()
    server.serial, server.delay_s = True, 0.4 * HANG_S

    async def use(engine: EndpointEngine) -> list[Reply]:
        return list(await asyncio.gather(*(engine.ask(Write(ASK.messages, 1, seed)) for seed in range(10))))

    replies, stats = asked(server, use, WHOLE)
    assert {reply.finish for reply in replies} == {"stop"} and len(server.asked) == 10 and stats["retries"] == 0


def test_streams_wait_their_turn_too() -> None:
    server = FakeServer()
    server.serial, server.delay_s, server.piece_s = True, 0.4 * HANG_S, 0.01

    async def use(engine: EndpointEngine) -> list[Reply]:
        return list(await asyncio.gather(*(engine.ask(Write(ASK.messages, 1, seed)) for seed in range(8))))

    replies, stats = asked(server, use, STREAMS)
    assert {reply.finish for reply in replies} == {"stop"} and len(server.asked) == 8 and stats["retries"] == 0


@pytest.mark.parametrize("how", [True, "rudely"])
def test_a_server_that_ends_streams_for_other_calls_answers_as_a_whole(how: bool | str) -> None:
    server = FakeServer()
    server.interrupts, server.piece_s = how, 0.02

    async def use(engine: EndpointEngine) -> list[Reply]:
        return list(await asyncio.gather(*(engine.ask(Write(ASK.messages, 16, seed)) for seed in range(6))))

    replies, stats = asked(server, use, STREAMS)
    assert {reply.finish for reply in replies} == {"stop"} and all(reply.text for reply in replies)
    assert len(server.asked) == 6 + stats["retries"] <= 12
    assert asyncio.run(facts(server))["streams"] == "no"
    server.interrupts = False
    assert asyncio.run(facts(server))["streams"] == "yes"
    server.streams = False
    assert asyncio.run(facts(server))["streams"] == "no"


async def facts(server: FakeServer) -> dict[str, Any]:
    async with server:
        engine = at(server, SLOW, None)
        found = await engine.ready()
        await engine.closed()
        return found


@pytest.mark.parametrize("abilities", [STREAMS, WHOLE])
def test_a_server_that_stops_is_noticed(abilities: Abilities) -> None:
    server = FakeServer()
    server.delay_s, server.serial = 60, True
    begin = time.monotonic()
    with pytest.raises(EngineError, match=r"nothing came for \d+ s, 2 times in a row"):
        asked(server, lambda engine: engine.ask(ONE), abilities, Patience(attempts=2, first_s=0.01, hang_s=0.1))
    assert time.monotonic() - begin > 0.4 + 0.8, "as long as its tokens may take, twice that the second time"


def test_a_lost_call_is_given_up_in_the_end_even_at_a_server_that_lives() -> None:
    server = FakeServer()
    server.delay_s = 60
    patience = Patience(attempts=2, first_s=0.01, hang_s=0.05)
    begin = time.monotonic()
    with pytest.raises(EngineError, match="2 times in a row"):
        asked(server, lambda engine: engine.ask(ONE), WHOLE, patience)
    assert time.monotonic() - begin > 2 * progress.LONGEST * 0.05


def test_a_short_answer_comes_as_a_whole() -> None:
    server = FakeServer()
    asked(server, lambda engine: engine.ask(ASK), STREAMS, Patience(hang_s=300))
    assert "stream" not in server.asked[0]


def test_without_a_report_of_usage_streams_are_used_and_tokens_estimated() -> None:
    server = FakeServer(refuses=("stream_options",))
    server.says = long(8)
    reply, _ = asked(server, lambda engine: engine.ask(ASK), STREAMS)
    assert server.asked[-1]["stream"] and "stream_options" not in server.asked[-1]
    assert (reply.text, reply.reply_tokens) == (long(8)({}), len(long(8)({})) // 4)


def events(*choices: dict[str, Any], **last: Any) -> bytes:
    made = [{"choices": [{"index": 0, "finish_reason": None, **choice}]} for choice in choices]
    lines = [f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in [*made, {"choices": [], **last}]]
    return "".join([": ping\n\n", "event: message\n", *lines, "data: [DONE]\n\n"]).encode()


def delta(**delta: Any) -> dict[str, Any]:
    return {"delta": delta}


CALLS = [{"index": 0, "id": "c1", "function": {"name": "weather", "arguments": ""}}]
WHOLE_STREAM = events(
    delta(role="assistant", content=""),
    delta(reasoning_content="Hm, "),
    delta(reasoning_content="well."),
    delta(content="河很"),
    {**delta(content="长。"), "logprobs": {"content": [{"token": "x", "logprob": -0.25, "top_logprobs": []}]}},
    delta(tool_calls=CALLS),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '{"city": '}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '"Rom"}'}}]),
    delta(tool_calls=[{"index": 1, "id": "c2", "function": {"name": "time", "arguments": "{}"}}]),
    {"delta": {}, "finish_reason": "tool_calls"},
    usage={"prompt_tokens": 7, "completion_tokens": 5},
)


def test_a_stream_cut_anywhere_is_the_whole_answer() -> None:
    rng = Random(3)
    for _ in range(200):
        stream, places = Stream(), sorted(rng.sample(range(len(WHOLE_STREAM)), 9))
        for start, end in zip([0, *places], [*places, None], strict=True):
            stream.feed(WHOLE_STREAM[start:end])
        body = stream.body()
        assert body is not None
        reply = wire.read(body, Write(ASK.messages, 9, 1, logprobs=True, tools="[{}]"))
        assert (reply.text, reply.reasoning, reply.finish) == ("河很长。", "Hm, well.", "stop")
        assert (reply.prompt_tokens, reply.reply_tokens, reply.logprob) == (7, 5, -0.25)
        assert reply.tool_calls == (ToolCall("c1", "weather", '{"city": "Rom"}'), ToolCall("c2", "time", "{}"))


@pytest.mark.parametrize(
    ("raw", "whole"),
    [
        (events(delta(content="a")), False),
        (events(delta(content="a"), {"delta": {}, "finish_reason": "stop"}), True),
        (events({"delta": {"content": "a"}, "finish_reason": "stop"})[:-16], True),
        (b"data: {broken\n\n" + events({"delta": {"content": "a"}, "finish_reason": "stop"}), False),
        (b"data: [DONE]\n\n", False),
        (b"", False),
        (b'data: {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}', True),
    ],
)
def test_a_stream_without_an_end_is_no_answer(raw: bytes, whole: bool) -> None:
    stream = Stream()
    stream.feed(raw)
    body = stream.body()
    assert (body is not None) == whole
    assert not body or wire.read(body, ASK).text == "a"


def test_an_error_inside_a_stream_is_an_error() -> None:
    stream = Stream()
    stream.feed(events(delta(content="a")) + b'data: {"error": {"code": 503, "message": "gone"}}\n\n')
    assert stream.body() == {"error": {"code": 503, "message": "gone"}}


def test_parts_of_a_stream_may_be_lists_of_parts() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    stream = Stream()
    stream.feed(
        events(delta(content=[thought]), delta(content="A "), delta(content="river."), {"finish_reason": "stop"})
    )
    reply = wire.read(stream.body() or {}, ASK)
    assert (reply.text, reply.reasoning) == ("A river.", "Hm.")
