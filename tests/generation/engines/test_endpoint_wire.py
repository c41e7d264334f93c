"""What goes to an endpoint and comes back: parameters, refusals, prefixes, choices, schemas, scores."""

import json
import logging
import math

import pytest

from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models.engine import Choose, Reply, Request, Score, Write
from gristmill.generation.engines.endpoint import wire
from gristmill.generation.engines.endpoint.engine import EndpointEngine
from gristmill.generation.engines.endpoint.http import Answer
from tests.fake_server import END, FakeServer, Trouble, likelihood
from tests.generation.endpoints import ASK, served


def test_a_parameter_that_is_refused_is_left_out_from_then_on(caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer(refuses=("min_p", "seed"))

    async def twice(engine: EndpointEngine) -> Reply:
        await engine.ask(ASK)
        return await engine.ask(ASK)

    with caplog.at_level(logging.WARNING):
        assert served(server, twice).finish == "stop"
    assert len(server.asked) == 4, "two refusals, then one call for each request"
    assert not {"min_p", "seed"} & set(server.asked[-1])
    assert [r.message for r in caplog.records if "left out" in r.message] == [
        "the endpoint refuses min_p, left out from now on: Unrecognized request argument supplied: min_p",
        "the endpoint refuses seed, left out from now on: Unrecognized request argument supplied: seed",
    ]


@pytest.mark.parametrize(
    ("refusal", "param", "name"),
    [
        ("Unrecognized request argument supplied: min_p", "", "min_p"),
        ("Unsupported value: 'temperature' does not support 0.7 with this model.", "temperature", "temperature"),
        ("Unsupported parameter: 'max_tokens' is not supported, use 'max_completion_tokens'", "", "max_tokens"),
        ("[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg': 'Extra inputs'}]", "", "seed"),
        ("Unsupported param: stop", "", "stop"),
        ("unknown field: please stop sending these", "", ""),
        ("temperature must be between 0 and 2", "temperature", ""),
        ("Invalid schema for response_format 'reply': 'minimum' is not permitted", "response_format", ""),
        ("This model's maximum context length is 2048 tokens, min_p is not supported", "", ""),
    ],
)
def test_only_unknown_parameters_are_learnt(refusal: str, param: str, name: str) -> None:
    payload = dict.fromkeys(("temperature", "max_tokens", "seed", "min_p", "stop", "response_format"), 0)
    assert wire.learn(Answer(400, refusal=refusal, param=param), payload) == name


def test_a_prompt_that_is_too_long_is_a_refused_request() -> None:
    body = json.dumps({"error": {"message": "maximum context length is 2048 tokens", "code": 400}})
    reply = served(FakeServer(Trouble(400, body=body)), lambda engine: engine.ask(ASK))
    assert reply == Reply("", "error: prompt and reply are longer than the model's context", 0, 0)
    other = served(FakeServer(Trouble(400, body='{"detail": "seed too large"}')), lambda engine: engine.ask(ASK))
    assert other.finish == "error: 400 seed too large"


@pytest.mark.parametrize("body", ["{}", '{"choices": []}', '{"error": "no provider"}', '{"choices": "x"}'])
def test_an_answer_that_is_no_completion_is_a_refused_request(body: str) -> None:
    reply = served(FakeServer(Trouble(body=body)), lambda engine: engine.ask(ASK))
    assert reply.finish.startswith("error: ") and reply.text == ""


def test_without_usage_tokens_are_estimated() -> None:
    server = FakeServer()
    server.reports_usage = False
    reply = served(server, lambda engine: engine.ask(ASK))
    assert (reply.prompt_tokens, reply.reply_tokens) == (0, len(reply.text) // 4)


def test_filtered_content_and_absent_content_are_no_text() -> None:
    blocked = '{"choices": [{"message": {"content": null}, "finish_reason": "content_filter"}]}'
    reply = served(FakeServer(Trouble(body=blocked)), lambda engine: engine.ask(ASK))
    assert (reply.text, reply.finish) == ("", "error: the endpoint's content filter")


def test_a_prefix_is_the_last_turn_and_not_part_of_the_reply() -> None:
    server = FakeServer(Trouble(body='{"choices": [{"message": {"content": "Score: four"}, "finish_reason": "stop"}]}'))
    request = Write(ASK.messages, 16, 1, prefix="Score: ")
    assert served(server, lambda engine: engine.ask(request)).text == "four"
    assert server.asked[0]["messages"][-1] == {"role": "assistant", "content": "Score: "}


def test_choices_come_with_their_probabilities() -> None:
    server = FakeServer()
    server.chances = lambda choices: [0.2, 0.5, 0.1]
    request = Choose(ASK.messages, ("好", "not bad", "bad"), 1)
    reply = served(server, lambda engine: engine.ask(request))
    assert (reply.text, reply.finish) == ("not bad", "stop")
    assert reply.choices == pytest.approx({"好": 0.25, "not bad": 0.625, "bad": 0.125})
    assert server.asked[0]["top_logprobs"] == 20 and server.asked[0]["temperature"] == 0


def test_without_logprobs_the_chosen_one_is_certain() -> None:
    server = FakeServer(refuses=("logprobs",))
    request = Choose(ASK.messages, ("yes", "no"), 1)
    reply = served(server, lambda engine: engine.ask(request))
    assert reply.choices == {"yes": 1.0, "no": 0.0} and reply.text == "yes"


def test_without_constraint_a_choice_is_read_from_the_text() -> None:
    said = '{"choices": [{"message": {"content": " No, it is not."}, "finish_reason": "length"}]}'
    refusal = '{"error": {"message": "response_format is not supported", "param": "response_format"}}'
    request = Choose(ASK.messages, ("Yes", "No"), 1)
    reply = served(FakeServer(Trouble(400, body=refusal), Trouble(body=said)), lambda engine: engine.ask(request))
    assert (reply.text, reply.choices) == ("No", {"Yes": 0.0, "No": 1.0})
    said = said.replace("No, it is not.", "Perhaps")
    reply = served(FakeServer(Trouble(400, body=refusal), Trouble(body=said)), lambda engine: engine.ask(request))
    assert (reply.text, reply.finish, dict(reply.choices)) == ("", "error: the reply is none of the choices", {})


def test_choices_that_share_their_beginning_part_where_the_decoded_reply_does() -> None:
    tokens = [("very", {"very": 0.6, "poor": 0.2}), (" good", {" good": 0.3, " poor": 0.1})]
    chances = wire.text_chances("very good", "very good", ("very good", "very poor", "poor"), tokens)
    assert chances == pytest.approx({"very good": 0.75 * 0.75, "very poor": 0.75 * 0.25, "poor": 0.25})
    off = wire.text_chances("poor", "poor", ("very good", "very poor", "poor"), [("poor", {"very": 0.2, "poor": 0.6})])
    assert off == pytest.approx({"very good": 0.125, "very poor": 0.125, "poor": 0.75})


def test_a_choice_that_another_begins_with_has_what_the_other_leaves() -> None:
    tokens = [("1", {"1": 0.9, "2": 0.1}), ('"', {'"': 0.7, "0": 0.3})]
    chances = wire.text_chances("1", "1", ("1", "10", "2"), tokens)
    assert chances == pytest.approx({"1": 0.63, "10": 0.27, "2": 0.1})


def test_weights_of_tokens_are_shares_and_absent_where_one_is_not_told() -> None:
    logprobs = {"token_id:7": math.log(0.3), "token_id:9": math.log(0.1), "token_id:2": -0.1}
    body = {"choices": [{"logprobs": {"top_logprobs": [logprobs]}}]}
    assert wire.token_weights(body, [7, 9]) == pytest.approx({7: 0.75, 9: 0.25})
    assert wire.token_weights(body, [7, 8]) == {}
    assert wire.token_weights({"choices": [{"logprobs": None}]}, [7]) == {}


def test_a_schema_goes_out_as_response_format_and_one_that_is_none_is_refused() -> None:
    server = FakeServer()
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    served(server, lambda engine: engine.ask(Write(ASK.messages, 8, 1, json_schema=json.dumps(schema))))
    assert server.asked[0]["response_format"]["json_schema"]["schema"] == schema
    reply = served(FakeServer(), lambda engine: engine.ask(Write(ASK.messages, 8, 1, json_schema="{")))
    assert reply.finish == "error: the JSON schema is not JSON"
    closed = FakeServer(refuses=("response_format",))
    reply = served(closed, lambda engine: engine.ask(Write(ASK.messages, 8, 1, json_schema="{}")))
    assert reply.finish == "error: the reply is not JSON"


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (Score(ASK.messages, "x"), "cannot score a text"),
        (Write((), 8, 1, role="user"), "cannot write the user's turn"),
    ],
)
def test_what_only_vllm_can_is_refused_with_advice(request_: Request, what: str) -> None:
    server = FakeServer()
    reply = served(server, lambda engine: engine.ask(request_))
    assert reply.finish == f"error: this endpoint {what}; serve the model with vLLM, or run it in process"
    assert not server.asked


def test_vllm_continues_a_prefix_and_writes_the_users_turn_up_to_its_end() -> None:
    server = FakeServer(vllm=True)
    served(server, lambda engine: engine.ask(Write(ASK.messages, 8, 1, prefix="Well,", stop_loops=True)))
    sent = server.asked[0]
    assert sent["messages"][-1] == {"role": "assistant", "content": "Well,"}
    assert sent["continue_final_message"] and not sent["add_generation_prompt"] and "repetition_detection" in sent
    server = FakeServer(vllm=True)
    told = (Message("user", "Hi"), Message("assistant", "Hello."))
    served(server, lambda engine: engine.ask(Write(told, 8, 1, role="user")))
    sent = server.asked[0]
    assert sent["messages"][-1] == {"role": "user", "content": ""} and sent["stop_token_ids"] == [ord(END)]
    again = served(FakeServer(vllm=True), lambda engine: engine.ask(Write(ASK.messages, 8, 1, role="user")))
    assert again.finish.startswith("error: the last turn is the user's")


def test_vllm_scores_a_text_token_by_token() -> None:
    server = FakeServer(vllm=True)
    reply = served(server, lambda engine: engine.ask(Score(ASK.messages, "好 ok")))
    assert reply.logprob == pytest.approx(sum(math.log(likelihood(ord(letter))) for letter in "好 ok"))
    assert (reply.text, reply.prompt_tokens, reply.reply_tokens) == ("", len("\x02Name a river.\x04\x03"), 4)
    alone = served(FakeServer(vllm=True), lambda engine: engine.ask(Score((), "好 ok")))
    assert (alone.prompt_tokens, alone.logprob) == (1, reply.logprob), "nothing but the turn's header before it"


def test_vllm_gives_exact_probabilities_with_one_call_wherever_choices_part() -> None:
    server = FakeServer(vllm=True)
    request = Choose(ASK.messages, ("ab", "ac", "bad", "a"), 1, prefix=":")
    reply = served(server, lambda engine: engine.ask(request))
    a, b, c, end = (likelihood(ord(letter)) for letter in ("a", "b", "c", END))
    inner = b + c + end
    exact = {"ab": a * b / inner, "ac": a * c / inner, "bad": b, "a": a * end / inner}
    assert reply.choices == pytest.approx({choice: p / (a + b) for choice, p in exact.items()})
    assert reply.text == max(exact, key=lambda choice: exact[choice]) and list(reply.choices) == list(request.choices)
    assert reply.reply_tokens == len(server.asked) == 2
    twice = Choose(ASK.messages, ("ab", "ab"), 1)
    assert served(FakeServer(vllm=True), lambda engine: engine.ask(twice)).finish.startswith("error: the choices must")


def test_vllm_tells_how_it_renders() -> None:
    async def rendered_by(engine: EndpointEngine) -> Reply:
        return Reply(await engine.render(Write(ASK.messages, 8, 1, prefix="Well,")), "stop", 0, 0)

    assert served(FakeServer(vllm=True), rendered_by).text == "\x02Name a river.\x04\x03Well,"
    assert served(FakeServer(), rendered_by).text == "[user]\nName a river.\n[assistant]\nWell,"


def test_a_reply_is_cut_to_the_room_that_vllm_has() -> None:
    body = json.dumps({"error": {"message": "maximum context length is 200 tokens", "code": 400}})
    server = FakeServer(Trouble(400, body=body), vllm=True)
    assert served(server, lambda engine: engine.ask(Write(ASK.messages, 4000, 1))).finish == "stop"
    assert server.asked[1]["max_tokens"] == 200 - len("\x02Name a river.\x04\x03")
    long = Write((Message("user", "x" * 300),), 10, 1)
    reply = served(FakeServer(Trouble(400, body=body), vllm=True), lambda engine: engine.ask(long))
    assert reply.finish == "error: prompt and reply are longer than the model's context"
