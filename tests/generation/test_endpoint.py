"""The endpoint engine against a fake server that is slow, full, broken, or all of it."""

import asyncio
import json
import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

from cluster.engine import Engine, Reply, Request
from cluster.errors import EngineError, GristmillError, JobError
from cluster.sample import Message, Sample, from_table
from cluster.store import Store
from generation.engines import endpoint_wire as wire
from generation.engines.endpoint import EndpointEngine
from generation.engines.endpoint_http import Answer, Pace, Patience, Window, retry_after
from generation.engines.live import open_engine
from generation.mill.shards import RawShard
from generation.mill.worker import Maker
from tests.fake_server import END, FakeServer, Trouble, likelihood
from tests.fakes import open_hashing_encoder
from tests.generation.test_generate import WORK, a_run, job, with_seeds
from tests.invariants import check_dataset

QUICK = Patience(attempts=4, first_s=0.01, floor_s=5)
ASK = Request((Message("user", "Name a river."),), 16, seed=1)


def at(server: FakeServer, patience: Patience = QUICK, **settings: int | str) -> EndpointEngine:
    return EndpointEngine(Engine(model="fake", endpoint=server.url, **settings), patience)  # type: ignore[arg-type]


def served(server: FakeServer, use: Callable[[EndpointEngine], Awaitable[Reply]], patience: Patience = QUICK) -> Reply:
    async def run() -> Reply:
        async with server:
            engine = at(server, patience)
            reply = await use(engine)
            engine.close()
            await asyncio.sleep(0)
            return reply

    return asyncio.run(run())


def test_a_request_goes_out_with_its_settings_and_comes_back_with_its_counts() -> None:
    server = FakeServer()
    request = Request(ASK.messages, 16, 7, 0.3, top_p=0.9, presence_penalty=0.5, stop=("\n",), logprobs=True)
    reply = served(server, lambda engine: engine.ask(request))
    sent = server.asked[0]
    assert sent["messages"] == [{"role": "user", "content": "Name a river."}]
    assert (sent["max_tokens"], sent["seed"], sent["temperature"], sent["top_p"]) == (16, 7, 0.3, 0.9)
    assert (sent["presence_penalty"], sent["min_p"], sent["stop"]) == (0.5, 0.05, ["\n"])
    assert "repetition_detection" not in sent and "continue_final_message" not in sent
    words = len(reply.text.split())
    assert (reply.finish, reply.prompt_tokens, reply.reply_tokens, reply.cached_tokens) == ("stop", 40, words, 30)
    assert reply.logprob == pytest.approx(-0.5 * words)


def test_the_same_request_has_the_same_reply_and_another_seed_another() -> None:
    first, again = (served(FakeServer(), lambda engine: engine.ask(ASK)) for _ in range(2))
    other = served(FakeServer(), lambda engine: engine.ask(Request(ASK.messages, 16, seed=2)))
    assert first == again != other


@pytest.mark.parametrize(
    "trouble",
    [
        Trouble(429, {"Retry-After": "0"}),
        Trouble(500),
        Trouble(503, body="<html>overloaded</html>"),
        Trouble(drop=True),
        Trouble(body='{"choices": [{"mess'),
        Trouble(body="[1, 2]"),
    ],
)
def test_what_may_pass_is_tried_again(trouble: Trouble) -> None:
    server = FakeServer(trouble, trouble)
    reply = served(server, lambda engine: engine.ask(ASK))
    assert reply.finish == "stop" and len(server.asked) == 3
    assert reply == served(FakeServer(), lambda engine: engine.ask(ASK))


def test_retry_after_is_waited_for() -> None:
    async def timed(engine: EndpointEngine) -> Reply:
        await engine.ready()
        begin = time.monotonic()
        reply = await engine.ask(ASK)
        assert time.monotonic() - begin >= 1.0
        assert engine.stats()["retries"] == 1
        return reply

    assert served(FakeServer(Trouble(429, {"Retry-After": "1"})), timed).finish == "stop"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), ("0.5", 0.5), ("-4", 0.0), ("", None), ("soon", None), ("nan", None), ("date", 30.0)],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    now = 1_700_000_000.0
    value = formatdate(now + 30, usegmt=True) if value == "date" else value
    assert retry_after({"retry-after": value}, now) == seconds
    assert retry_after({"retry-after": formatdate(now - 30, usegmt=True)}, now) == 0.0


def test_a_reply_that_does_not_come_is_given_up_at_its_deadline_and_tried_again() -> None:
    server = FakeServer(Trouble(delay_s=3))
    begin = time.monotonic()
    patience = Patience(attempts=3, first_s=0.01, floor_s=0.2)

    async def use(engine: EndpointEngine) -> Reply:
        engine._line.pace.add(0.1, 100)
        return await engine.ask(ASK)

    assert served(server, use, patience).finish == "stop"
    assert time.monotonic() - begin < 2.5 and len(server.asked) == 2


def test_the_deadline_is_four_times_what_the_tokens_take() -> None:
    pace = Pace()
    assert pace.deadline(1000, 60) == 4 * 0.1 * 1000
    for _ in range(50):
        pace.add(2.0, 100)
    assert pace.deadline(5000, 60) == pytest.approx(4 * 0.02 * 5000)
    assert pace.deadline(10, 60) == 60


def test_a_request_that_is_never_served_while_others_are_is_a_refused_one() -> None:
    reply = asyncio.run(cursed_by_text())
    assert reply.finish.startswith("error: the endpoint did not serve this call: 500")


async def cursed_by_text() -> Reply:
    """Ask for something that the server always fails at, between others that it serves."""
    async with FakeServer() as server:
        usual = server._served

        def failing(payload: dict[str, object]) -> object:
            if "curse" in json.dumps(payload):
                raise RuntimeError("as a server does")
            return usual(payload)  # type: ignore[arg-type]

        server._served = failing  # type: ignore[assignment, method-assign]
        engine = at(server)
        cursed = asyncio.create_task(engine.ask(Request((Message("user", "curse"),), 16, seed=1)))
        while not cursed.done():
            assert (await engine.ask(ASK)).finish == "stop"
        return await cursed


def test_a_server_that_serves_nobody_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match="500 busy, 4 times in a row"):
        served(FakeServer(*[Trouble(500)] * 4), lambda engine: engine.ask(ASK))


def test_an_address_where_nobody_listens_is_an_engine_error() -> None:
    engine = EndpointEngine(Engine(model="fake", endpoint="http://127.0.0.1:9/v1"), QUICK)
    with pytest.raises(EngineError, match=r"ClientConnectorError .* see whether it is up"):
        asyncio.run(engine.ready())


@pytest.mark.parametrize("endpoint", ["localhost:8000/v1", "ftp://host/v1"])
def test_an_address_that_is_none_is_a_mistake_in_the_recipe(endpoint: str) -> None:
    with pytest.raises(JobError, match="must be http://host:port/v1"):
        asyncio.run(EndpointEngine(Engine(model="fake", endpoint=endpoint), QUICK).ready())


def test_a_wrong_key_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ready(key: str) -> dict[str, object]:
        monkeypatch.setenv("MY_KEY", key)
        async with FakeServer(key="right") as server:
            return await at(server, api_key_env="MY_KEY").ready()

    with pytest.raises(JobError, match="MY_KEY is set, but not accepted"):
        asyncio.run(ready("wrong"))
    with pytest.raises(JobError, match="MY_KEY is not set"):
        asyncio.run(ready(""))
    assert asyncio.run(ready("right"))["server"] == "fake"


def test_a_model_that_is_not_served_is_answered_with_those_that_are() -> None:
    with pytest.raises(JobError, match="does not serve; it has other"):
        served(FakeServer(model="other"), lambda engine: engine.ask(ASK))


def test_a_server_that_lists_no_models_is_asked_for_a_token() -> None:
    server = FakeServer()
    server.lists_models = False
    assert served(server, lambda engine: engine.ask(ASK)).finish == "stop"
    nowhere = FakeServer(model="other")
    nowhere.lists_models = False
    with pytest.raises(JobError, match="must be the base URL"):
        served(nowhere, lambda engine: engine.ask(ASK))


def test_a_spent_quota_is_not_tried_again() -> None:
    body = json.dumps({"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}})
    server = FakeServer(Trouble(429, body=body))
    with pytest.raises(JobError, match="the quota of this key is spent"):
        served(server, lambda engine: engine.ask(ASK))
    assert len(server.asked) == 1


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
    request = Request(ASK.messages, 16, 1, prefix="Score: ")
    assert served(server, lambda engine: engine.ask(request)).text == "four"
    assert server.asked[0]["messages"][-1] == {"role": "assistant", "content": "Score: "}


def test_choices_come_with_their_probabilities() -> None:
    server = FakeServer()
    server.chances = lambda choices: [0.2, 0.5, 0.1]
    request = Request(ASK.messages, 1, 1, choices=("好", "not bad", "bad"), logprobs=True)
    reply = served(server, lambda engine: engine.ask(request))
    assert (reply.text, reply.finish) == ("not bad", "stop")
    assert reply.choices == pytest.approx({"好": 0.25, "not bad": 0.625, "bad": 0.125})
    assert server.asked[0]["top_logprobs"] == 20 and server.asked[0]["temperature"] == 0


def test_without_logprobs_the_chosen_one_is_certain() -> None:
    server = FakeServer(refuses=("logprobs",))
    request = Request(ASK.messages, 1, 1, choices=("yes", "no"))
    reply = served(server, lambda engine: engine.ask(request))
    assert reply.choices == {"yes": 1.0, "no": 0.0} and reply.text == "yes"


def test_without_constraint_a_choice_is_read_from_the_text() -> None:
    said = '{"choices": [{"message": {"content": " No, it is not."}, "finish_reason": "length"}]}'
    refusal = '{"error": {"message": "response_format is not supported", "param": "response_format"}}'
    request = Request(ASK.messages, 1, 1, choices=("Yes", "No"))
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
    served(server, lambda engine: engine.ask(Request(ASK.messages, 8, 1, json_schema=json.dumps(schema))))
    assert server.asked[0]["response_format"]["json_schema"]["schema"] == schema
    reply = served(FakeServer(), lambda engine: engine.ask(Request(ASK.messages, 8, 1, json_schema="{")))
    assert reply.finish == "error: the JSON schema is not JSON"
    closed = FakeServer(refuses=("response_format",))
    reply = served(closed, lambda engine: engine.ask(Request(ASK.messages, 8, 1, json_schema="{}")))
    assert reply.finish.startswith("error: this endpoint cannot hold a reply to a JSON schema; serve the model with")


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (Request(ASK.messages, 1, 1, scored="x"), "cannot score a text"),
        (Request((), 8, 1, role="user"), "cannot write the user's turn"),
    ],
)
def test_what_only_vllm_can_is_refused_with_advice(request_: Request, what: str) -> None:
    server = FakeServer()
    reply = served(server, lambda engine: engine.ask(request_))
    assert reply.finish == f"error: this endpoint {what}; serve the model with vLLM, or run it in process"
    assert not server.asked


def test_vllm_continues_a_prefix_and_writes_the_users_turn_up_to_its_end() -> None:
    server = FakeServer(vllm=True)
    served(server, lambda engine: engine.ask(Request(ASK.messages, 8, 1, prefix="Well,", stop_loops=True)))
    sent = server.asked[0]
    assert sent["messages"][-1] == {"role": "assistant", "content": "Well,"}
    assert sent["continue_final_message"] and not sent["add_generation_prompt"] and "repetition_detection" in sent
    server = FakeServer(vllm=True)
    told = (Message("user", "Hi"), Message("assistant", "Hello."))
    served(server, lambda engine: engine.ask(Request(told, 8, 1, role="user")))
    sent = server.asked[0]
    assert sent["messages"][-1] == {"role": "user", "content": ""} and sent["stop_token_ids"] == [ord(END)]
    again = served(FakeServer(vllm=True), lambda engine: engine.ask(Request(ASK.messages, 8, 1, role="user")))
    assert again.finish.startswith("error: the last turn is the user's")


def test_vllm_scores_a_text_token_by_token() -> None:
    server = FakeServer(vllm=True)
    reply = served(server, lambda engine: engine.ask(Request(ASK.messages, 1, 1, scored="好 ok")))
    assert reply.logprob == pytest.approx(sum(math.log(likelihood(ord(letter))) for letter in "好 ok"))
    assert (reply.text, reply.prompt_tokens, reply.reply_tokens) == ("", len("\x02Name a river.\x04\x03"), 4)
    alone = served(FakeServer(vllm=True), lambda engine: engine.ask(Request((), 1, 1, scored="好 ok")))
    assert (alone.prompt_tokens, alone.logprob) == (1, reply.logprob), "nothing but the turn's header before it"


def test_vllm_gives_exact_probabilities_with_one_call_wherever_choices_part() -> None:
    server = FakeServer(vllm=True)
    request = Request(ASK.messages, 1, 1, choices=("ab", "ac", "bad", "a"), prefix=":")
    reply = served(server, lambda engine: engine.ask(request))
    a, b, c, end = (likelihood(ord(letter)) for letter in ("a", "b", "c", END))
    inner = b + c + end
    exact = {"ab": a * b / inner, "ac": a * c / inner, "bad": b, "a": a * end / inner}
    assert reply.choices == pytest.approx({choice: p / (a + b) for choice, p in exact.items()})
    assert reply.text == max(exact, key=lambda choice: exact[choice]) and list(reply.choices) == list(request.choices)
    assert reply.reply_tokens == len(server.asked) == 2
    twice = Request(ASK.messages, 1, 1, choices=("ab", "ab"))
    assert served(FakeServer(vllm=True), lambda engine: engine.ask(twice)).finish.startswith("error: the choices must")


def test_vllm_tells_how_it_renders() -> None:
    async def rendered_by(engine: EndpointEngine) -> Reply:
        return Reply(await engine.render(Request(ASK.messages, 8, 1, prefix="Well,")), "stop", 0, 0)

    assert served(FakeServer(vllm=True), rendered_by).text == "\x02Name a river.\x04\x03Well,"
    assert served(FakeServer(), rendered_by).text == "[user]\nName a river.\n[assistant]\nWell,"


def test_a_reply_is_cut_to_the_room_that_vllm_has() -> None:
    body = json.dumps({"error": {"message": "maximum context length is 200 tokens", "code": 400}})
    server = FakeServer(Trouble(400, body=body), vllm=True)
    assert served(server, lambda engine: engine.ask(Request(ASK.messages, 4000, 1))).finish == "stop"
    assert server.asked[1]["max_tokens"] == 200 - len("\x02Name a river.\x04\x03")
    long = Request((Message("user", "x" * 300),), 10, 1)
    reply = served(FakeServer(Trouble(400, body=body), vllm=True), lambda engine: engine.ask(long))
    assert reply.finish == "error: prompt and reply are longer than the model's context"


def test_the_window_doubles_then_halves_once_for_a_burst_then_adds_one_a_window() -> None:
    async def run() -> None:
        window = Window(limit=64, start=4)
        window.grow()
        assert window.size == 4, "a window that is not filled does not grow"
        cuts = await window.enter()
        window.running = 64
        for _ in range(4):
            window.grow()
        assert window.size == 8
        window.cut(cuts)
        window.cut(cuts)
        assert window.size == 4
        for _ in range(4):
            window.grow()
        assert 4.8 < window.size < 5.01
        for _ in range(10_000):
            window.grow()
        assert window.size == 64

    asyncio.run(run())


def test_calls_wait_their_turn_and_a_cancelled_one_leaves_no_hole() -> None:
    async def run() -> None:
        window = Window(limit=1)
        await window.enter()
        second, third = (asyncio.create_task(window.enter()) for _ in range(2))
        await asyncio.sleep(0)
        assert (window.running, window.waiting) == (1, 2)
        second.cancel()
        await asyncio.sleep(0)
        window.leave()
        await third
        assert (window.running, window.waiting) == (1, 0)
        fourth = asyncio.create_task(window.enter())
        await asyncio.sleep(0)
        window.leave()
        fourth.cancel()  # already admitted, not yet resumed
        await asyncio.sleep(0)
        assert (window.running, window.waiting) == (0, 0)

    asyncio.run(run())


def test_a_full_server_is_found_out_and_nothing_is_lost() -> None:
    async def run() -> dict[str, float]:
        async with FakeServer() as server:
            server.capacity, server.delay_s = 6, 0.005
            engine = at(server, Patience(attempts=30, first_s=0.01, longest_s=0.1))
            requests = [Request(ASK.messages, 16, seed) for seed in range(300)]
            replies = await asyncio.gather(*(engine.ask(request) for request in requests))
            assert {reply.finish for reply in replies} == {"stop"}
            assert server.most_in_flight <= 32
            return engine.stats()

    stats = asyncio.run(run())
    assert stats["requests"] == 300 and stats["retries"] > 0
    assert 1 <= stats["window"] <= 12
    assert stats["prompt_tokens"] == 300 * 40 and stats["prefix_cache_hit_rate"] == 0.75
    assert stats["running"] == stats["waiting"] == 0 and stats["reply_tokens_per_s"] > 0


def test_an_open_server_is_filled_up_to_the_limit() -> None:
    async def run() -> int:
        async with FakeServer() as server:
            server.delay_s = 0.2
            engine = at(server, max_in_flight=48)
            await asyncio.gather(*(engine.ask(Request(ASK.messages, 16, seed)) for seed in range(400)))
            return server.most_in_flight

    assert asyncio.run(run()) == 48


def made_through(server: FakeServer, folder: Path) -> list[Sample]:
    """Make sixteen rows through an endpoint, with the judge's constrained grade among their calls."""

    async def run() -> list[Sample]:
        async with server:
            generate = job(engine=Engine(model="fake", endpoint="http://fake/v1"))
            store, engine = with_seeds(Store(str(folder))), at(server)
            place = generate.place(store, WORK, None)
            maker = Maker(generate.mill("run-1"), place, {"": engine}, open_hashing_encoder)
            shard = RawShard(0, 0, 0, 0, 16)
            await maker.make(shard, ())
            engine.close()
            await asyncio.sleep(0)
            return from_table(store.read_shard(WORK.output, store.shard(WORK.output, str(shard))))

    return asyncio.run(run())


def test_rows_made_through_an_endpoint_that_stumbles_are_those_of_one_that_does_not(tmp_path: Path) -> None:
    smooth, stumbling = FakeServer(), FakeServer(*[Trouble(429), Trouble(drop=True), Trouble(500), Trouble()] * 6)
    rows = made_through(smooth, tmp_path / "smooth")
    again = made_through(stumbling, tmp_path / "stumbling")
    assert len(stumbling.asked) > len(smooth.asked)
    assert [replace(row, origin=None) for row in again] == [replace(row, origin=None) for row in rows]
    assert len(rows) == 16 and any("judge" in row.scores for row in rows)


@contextmanager
def in_thread(server: FakeServer) -> Iterator[str]:
    """Serve beside a test that blocks."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
        yield server.url
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_whole_job_runs_on_an_endpoint_and_one_with_a_wrong_name_says_so(tmp_path: Path) -> None:
    with in_thread(FakeServer(Trouble(503), Trouble(drop=True))) as url:
        whole = Store(str(tmp_path / "whole"))
        engine = Engine(model="fake", endpoint=url, cpus=1)
        figures = job(engine=engine).make_on(a_run(with_seeds(whole)), WORK, open_engine, open_hashing_encoder)
        assert figures["kept"] == 12
        check_dataset(whole, WORK.output, "seeds")
        wrong = job(engine=engine.model_copy(update={"model": "other"}))
        store = with_seeds(Store(str(tmp_path / "wrong")))
        with pytest.raises(GristmillError, match="does not serve; it has fake"):
            wrong.make_on(a_run(store), WORK, open_engine, open_hashing_encoder)
