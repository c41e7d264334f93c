"""What an endpoint may answer: parts, thoughts, damaged text, errors as successes, refusals of one call or of all."""

import asyncio
import json
import math
from random import Random
from typing import Any

import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.models.engine import Reply, Write
from gristmill.generation.engines.endpoint import wire
from gristmill.generation.engines.endpoint.http import Answer
from tests.fake_server import FakeServer, Trouble
from tests.generation.endpoints import ASK, at, served


def completion(content: object, **message: object) -> str:
    turn = {"role": "assistant", "content": content, **message}
    return json.dumps({"choices": [{"message": turn, "finish_reason": "stop"}]})


RIVER = "It is a wide river."


@pytest.mark.parametrize(
    ("body", "text", "reasoning"),
    [
        (completion(RIVER), RIVER, ""),
        (completion([{"type": "text", "text": "It is "}, {"type": "text", "text": "a wide river."}]), RIVER, ""),
        (completion([{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": RIVER}]), RIVER, ""),
        (completion([{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, RIVER]), RIVER, "Hm."),
        (completion(f"<think>\nHm.\n</think>\n\n{RIVER}"), RIVER, "Hm."),
        (completion(f"Hm.\n</think>\n\n{RIVER}"), RIVER, "Hm."),
        (completion("<think>\nHm"), "", "Hm"),
        (completion("A tag <think> ends with </think>."), "A tag <think> ends with </think>.", ""),
        (completion(RIVER, reasoning="Hm."), RIVER, "Hm."),
        (completion(RIVER, reasoning_content="Hm.", reasoning="Hm."), RIVER, "Hm."),
        (completion(RIVER, reasoning_content=None, reasoning=["odd"]), RIVER, ""),
        (completion("a \x00 b"), "a \x00 b", ""),
        (completion("whole pair \ud83d\ude00"), "whole pair \U0001f600", ""),
        (completion(7), "", ""),
    ],
)
def test_the_answer_is_its_text_and_the_thought_is_apart(body: str, text: str, reasoning: str) -> None:
    reply = served(FakeServer(Trouble(body=body)), lambda engine: engine.ask(ASK))
    assert (reply.text, reply.reasoning, reply.finish) == (text, reasoning, "stop")


def test_an_error_that_comes_as_a_success_has_its_own_code() -> None:
    busy = ({"code": 429}, {"code": "rate_limit_exceeded"}, {"type": "overloaded_error"}, {"code": "503"})
    inside = {"choices": [{"error": {"code": 502, "message": "cut"}, "message": {"content": "It is"}}]}
    troubles = [Trouble(body=json.dumps({"error": {"message": "later", **code}})) for code in busy[:2]]
    server = FakeServer(*troubles, Trouble(body=json.dumps(inside)))
    assert served(server, lambda engine: engine.ask(ASK)).finish == "stop" and len(server.asked) == 4
    troubles = [Trouble(body=json.dumps({"error": {"message": "later", **code}})) for code in busy[2:]]
    server = FakeServer(*troubles)
    assert served(server, lambda engine: engine.ask(ASK)).finish == "stop" and len(server.asked) == 3
    server = FakeServer(Trouble(body='{"error": {"message": "bad \\ud83d prompt", "code": 400}}'))
    reply = served(server, lambda engine: engine.ask(ASK))
    assert reply.finish == "error: 400 bad \ufffd prompt" and len(server.asked) == 1


def test_whatever_a_server_answers_there_is_no_traceback() -> None:
    whole = {
        "choices": [
            {
                "message": {"role": "assistant", "content": "yes", "reasoning": "Hm."},
                "finish_reason": "stop",
                "logprobs": {"content": [{"token": "yes", "logprob": -0.1, "top_logprobs": [{"token": "no"}]}]},
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}},
    }
    odd: list[object] = [None, "x", "\ud83d", -1, 1e300, 10**400, True, [], {}, [[]], [{}], {"code": "x"}, math.inf]
    rng = Random(7)
    asked = [ASK, Write(ASK.messages, 4, 1, logprobs=True)]
    for n in range(600):
        answer = Answer(200, {name: spoilt(value, rng, odd) for name, value in whole.items()})
        reply = wire.read(answer.body, asked[n % 2])
        reply.finish.encode()
        counts = (reply.prompt_tokens, reply.reply_tokens, reply.cached_tokens)
        assert min(counts) >= 0 and max(counts) < 2**31
        wire.text_chances(reply.text, "yes", ("yes", "no"), wire.steps(answer.body))
        wire.refusal_reply(answer)


def spoilt(value: object, rng: Random, odd: list[object]) -> Any:
    """Return a JSON value with some of its parts replaced by odd ones."""
    if rng.random() < 0.08:
        return rng.choice(odd)
    if isinstance(value, dict):
        return {key: spoilt(inner, rng, odd) for key, inner in value.items()}
    return [spoilt(inner, rng, odd) for inner in value] if isinstance(value, list) else value


async def of_asks(server: FakeServer, *troubles: Trouble) -> list[Reply]:
    """Return the replies to one request after another, the first without trouble."""
    async with server:
        engine = at(server)
        replies = [await engine.ask(ASK)]
        for trouble in troubles:
            server.troubles.append(trouble)
            replies.append(await engine.ask(ASK))
        engine.close()
        await asyncio.sleep(0)
        return replies


@pytest.mark.parametrize("status", [401, 403, 404])
def test_once_a_call_is_served_a_refusal_is_that_calls_own(status: int) -> None:
    flagged = Trouble(status, body='{"error": {"message": "flagged by moderation"}}')
    with pytest.raises(JobError):
        served(FakeServer(flagged), lambda engine: engine.ask(ASK))
    replies = asyncio.run(of_asks(FakeServer(), flagged, Trouble()))
    assert [reply.finish for reply in replies] == ["stop", f"error: {status} flagged by moderation", "stop"]
    with pytest.raises(JobError, match=f"{status} flagged by moderation, 50 times in a row"):
        asyncio.run(of_asks(FakeServer(), *[flagged] * 50))
