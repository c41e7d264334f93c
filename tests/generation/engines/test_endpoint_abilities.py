"""Servers that are not vLLM's: what they can do is found out, and what they cannot is asked in another form."""

import asyncio
import json
from dataclasses import replace
from typing import Any, Literal

import pytest
from aiohttp import web

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models.engine import Abilities, Choose, Reply, Write
from gristmill.generation.engines.endpoint import wire
from gristmill.generation.engines.endpoint.abilities import laid_out, rest
from gristmill.generation.engines.endpoint.engine import EndpointEngine
from tests.fake_server import FakeServer, Trouble
from tests.generation.endpoints import ASK, at, served

SHOTS = "Name: lion\nLegs: 4\n\nName: bird\nLegs:"
BEGUN = replace(ASK, prefix=SHOTS, stop=("\n",))
UNABLE = Abilities()


def facts(server: FakeServer) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        async with server:
            engine = at(server, abilities=None)
            found = await engine.ready()
            assert await engine.ready() is found
            engine.close()
            await asyncio.sleep(0)
            return found

    return asyncio.run(run())


@pytest.mark.parametrize("form", ["plain", "flags", "prefix", None])
def test_how_a_server_continues_a_turn_is_found_out(form: str | None) -> None:
    server = FakeServer()
    server.continues = form
    assert facts(server)["continues turns"] == ("yes" if form else "no")
    assert len(server.asked) <= 10, "a few calls, once"


@pytest.mark.parametrize(
    ("lacks", "fact"), [("holds_schema", "JSON schema"), ("tells_logprobs", "logprobs"), ("repeats", "seeds")]
)
def test_what_a_server_ignores_without_a_word_is_found_out(lacks: str, fact: str) -> None:
    able = facts(FakeServer())
    server = FakeServer()
    setattr(server, lacks, False)
    assert {name for name, value in able.items() if facts(server)[name] != value} - {"endpoint", "engine_start_s"} == {
        fact
    }
    assert able[fact] == "yes"


def test_a_server_that_refuses_or_breaks_at_what_it_is_asked_cannot_do_it() -> None:
    found = facts(FakeServer(refuses=("logprobs", "response_format", "seed", "min_p")))
    assert (found["JSON schema"], found["logprobs"], found["continues turns"]) == ("no", "no", "yes")
    for breaks, fact in (("json_schema", "JSON schema"), ("top_logprobs", "logprobs")):
        server = FakeServer()
        server.fails_at = breaks
        found = facts(server)
        assert (found[fact], found["continues turns"], found["seeds"]) == ("no", "yes", "yes")


def test_a_server_that_breaks_at_its_list_of_models_is_probed_and_one_that_refuses_chats_stops_the_job() -> None:
    async def models(request: web.Request) -> web.Response:
        return web.Response(status=500, text="Internal Server Error")

    server = FakeServer()
    server._models = models  # type: ignore[method-assign]
    assert facts(server)["seeds"] == "yes"
    pinned = Trouble(400, body='{"detail": "Server is pinned to another model"}')
    with pytest.raises(JobError, match=r"refuses a plain chat .*Server is pinned"):
        facts(FakeServer(pinned, pinned))


def test_a_schema_is_held_in_the_form_that_the_server_knows() -> None:
    server = FakeServer()
    server.schema_form = "json_object"
    assert facts(server)["JSON schema"] == "yes"
    server.chances = lambda choices: [0.1, 0.6, 0.3]
    server.asked.clear()
    able = Abilities(continues="plain", json_schema="json_object", logprobs=True)
    reply = served(server, lambda engine: engine.ask(GRADE), abilities=able)
    assert reply.text == " 4" and reply.choices == pytest.approx({" 1": 0.1, " 4": 0.6, " 40": 0.3}, abs=0.05)
    (sent,) = server.asked
    assert sent["response_format"]["type"] == "json_object"
    assert sent["response_format"]["schema"]["properties"]["choice"]["enum"] == ["1", "4", "40"]


def test_vllms_own_server_is_not_asked_for_what_it_can() -> None:
    server = FakeServer(vllm=True)
    facts(server)
    assert not server.asked


@pytest.mark.parametrize(
    "said",
    ["2", " 2\nName: cat", "\n2\n", "Legs: 2", SHOTS + " 2\n\nName: cat", "Name: bird\nLegs: 2\nName: x", "2\n"],
)
def test_a_beginning_that_a_server_cannot_continue_is_one_turn_of_the_user(said: str) -> None:
    server = FakeServer()
    server.says = lambda payload: said
    reply = served(server, lambda engine: engine.ask(BEGUN), abilities=UNABLE)
    assert (reply.text.strip(), reply.finish) == ("2", "stop")
    (turn,) = server.asked[0]["messages"]
    assert turn["role"] == "user" and turn["content"].startswith("Name a river.\n\n")
    assert turn["content"].endswith(SHOTS) and "stop" not in server.asked[0]


@pytest.mark.parametrize("form", ["plain", "flags", "prefix"])
def test_a_beginning_is_the_last_turn_in_the_form_that_the_server_continues(form: wire.Form) -> None:
    server = FakeServer()
    served(server, lambda engine: engine.ask(BEGUN), abilities=Abilities(continues=form))
    sent = server.asked[0]
    assert sent["messages"][-1] == {"role": "assistant", "content": SHOTS} | (
        {"prefix": True} if form == "prefix" else {}
    )
    assert sent.get("continue_final_message") == (True if form == "flags" else None) and sent["stop"] == ["\n"]


def test_the_words_for_the_model_are_in_the_language_of_what_is_asked() -> None:
    asked = Write((Message("user", "请说出一条河的名字。"),), 8, 1, prefix="河：")
    assert "不要重复" in laid_out(asked, UNABLE).messages[0].text
    talk = Write((Message("user", "Hi"), Message("assistant", "Hello.")), 8, 1, prefix="Well")
    assert [m.role for m in laid_out(talk, UNABLE).messages] == ["user", "assistant", "user"]
    assert laid_out(ASK, UNABLE) is ASK


def test_what_a_reply_says_again_is_not_part_of_it() -> None:
    assert [rest(text, "a: 1\nb:") for text in ("2", "b: 2", "a: 1\nb: 2", "\nb: 2", "ab")] == ["2", *[" 2"] * 3, "ab"]


GRADE = Choose(ASK.messages, (" 1", " 4", " 40"), 1, prefix="Answer: yes\nScore:")


@pytest.mark.parametrize(
    ("said", "grade"),
    [
        ("4", " 4"),
        (" 4", " 4"),
        ("40", " 40"),
        ("**4**", " 4"),
        ("4. It is fine.", " 4"),
        ("4\nIt is fine", " 4"),
        ("Score: 4", " 4"),
        ('{"choice": "4"}', " 4"),
        ('```json\n{"choice": 4}\n```', " 4"),
        ("4。很好", " 4"),
        ("4.5", ""),
        ("4/10", ""),
        ("4 out of 10", ""),
        ("400", ""),
        ("I would say 4", ""),
        ("", ""),
    ],
)
@pytest.mark.parametrize("form", ["", "plain"])
def test_a_written_grade_is_read_strictly(said: str, grade: str, form: Literal["", "plain"]) -> None:
    server = FakeServer()
    server.says, server.tells_logprobs = (lambda payload: said), False
    reply = served(server, lambda engine: engine.ask(GRADE), abilities=Abilities(continues=form))
    assert reply.text == grade
    assert dict(reply.choices) == ({c: float(c == grade) for c in GRADE.choices} if grade else {})
    assert reply.finish == ("stop" if grade else "error: the reply is none of the choices")
    assert ("response_format" in server.asked[0], server.asked[0]["messages"][-1]["role"]) == (
        False,
        "assistant" if form else "user",
    )


def test_a_server_that_holds_a_schema_chooses_in_json_with_probabilities() -> None:
    server = FakeServer()
    server.chances = lambda choices: [0.1, 0.6, 0.3]
    reply = served(server, lambda engine: engine.ask(GRADE))
    assert reply.text == " 4" and reply.choices == pytest.approx({" 1": 0.1, " 4": 0.6, " 40": 0.3}, abs=0.05)
    (turn,) = server.asked[0]["messages"]
    assert turn["content"].endswith("Score:") and '"1", "4", "40"' in turn["content"] and "JSON" in turn["content"]


def test_a_schema_that_a_server_does_not_hold_is_said_and_the_reply_must_be_json() -> None:
    schema = json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}})
    asked = replace(ASK, json_schema=schema)
    server = FakeServer()
    server.says = lambda payload: '```json\n{"n": 3}\n```'
    reply = served(server, lambda engine: engine.ask(asked), abilities=UNABLE)
    assert (reply.text, reply.finish) == ('{"n": 3}', "stop") and schema in server.asked[0]["messages"][0]["content"]
    server = FakeServer()
    assert served(server, lambda e: e.ask(asked), abilities=UNABLE).finish == "error: the reply is not JSON"
    held = replace(ASK, regex="[0-9]+")
    assert (
        served(FakeServer(), lambda e: e.ask(held)).finish == "error: the reply does not match the regular expression"
    )


def test_a_grade_of_vllms_server_is_one_call_and_leaves_nothing_behind() -> None:
    server, calls = FakeServer(vllm=True), []

    async def grades(engine: EndpointEngine) -> Reply:
        for n in range(30):
            before = server.calls
            text = f"Instruction: {'river ' * 400}{n}\nScore: "
            reply = await engine.ask(Choose(ASK.messages, ("1", "2", "3", "4", "5"), 1, prefix=text))
            assert sum(reply.choices.values()) == pytest.approx(1)
            calls.append(server.calls - before)
        assert len(engine._vllm._seams) == 1  # type: ignore[union-attr]
        return reply

    served(server, grades)
    assert set(calls[1:]) == {1} and calls[0] <= 10
    assert server.asked[-1]["messages"][-1]["content"].endswith("Score: ")


def test_choices_of_a_chat_and_of_tokens_have_the_same_probabilities() -> None:
    asked = Choose(ASK.messages, ("ab", "c", "d"), 1, prefix="Score: ")
    chat = served(FakeServer(vllm=True), lambda engine: engine.ask(asked))
    alone = served(FakeServer(vllm=True), lambda engine: engine.ask(replace(asked, messages=())))
    assert chat.choices == pytest.approx(alone.choices)
    assert wire.json_choice('{"choice": "o"}', ("o",)) == "o"
