"""The endpoint engine against a fake server that is slow, broken, wrongly named, or all of it; whole jobs on it."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path

import pytest

from gristmill.cluster.contract.errors import EngineError, GristmillError, JobError
from gristmill.cluster.contract.sample import Message, Sample, from_table
from gristmill.cluster.models.engine import Engine, Reply, Write
from gristmill.cluster.store.store import Store
from gristmill.generation.contracts import MAIN, Draft
from gristmill.generation.engines.actors import open_engine
from gristmill.generation.engines.endpoint.engine import EndpointEngine
from gristmill.generation.engines.endpoint.http import Patience, retry_after
from gristmill.generation.engines.endpoint.progress import TimeoutEstimate
from gristmill.generation.engines.watch import MOVES
from gristmill.generation.methods.respond import Respond
from gristmill.generation.pipeline.plan import RawShard
from gristmill.generation.pipeline.worker import RowMaker
from tests.fake_server import FakeServer, Trouble
from tests.fakes import open_hashing_encoder
from tests.generation.endpoints import ABLE, ASK, QUICK, at, served
from tests.generation.ground import WORK, a_run, job, with_seeds
from tests.invariants import check_dataset


def test_a_request_goes_out_with_its_settings_and_comes_back_with_its_counts() -> None:
    server = FakeServer()
    request = Write(ASK.messages, 16, 7, 0.3, top_p=0.9, presence_penalty=0.5, stop=("\n",), logprobs=True)
    reply = served(server, lambda engine: engine.ask(request))
    sent = server.asked[0]
    assert sent["messages"] == [{"role": "user", "content": "Name a river."}]
    assert (sent["max_tokens"], sent["seed"], sent["temperature"], sent["top_p"]) == (16, 7, 0.3, 0.9)
    assert (sent["presence_penalty"], sent["min_p"], sent["stop"]) == (0.5, 0.05, ["\n"])
    assert "repetition_detection" not in sent and "continue_final_message" not in sent
    words = len(reply.text.split())
    assert (reply.finish, reply.prompt_tokens, reply.reply_tokens, reply.cached_tokens) == ("stop", 40, words, 30)
    assert reply.logprob == pytest.approx(-0.5 * words)


def test_the_key_is_in_no_error_and_no_reply_though_the_server_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "planted-key-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    refused = FakeServer(*[Trouble(401, body=json.dumps({"error": {"message": f"Incorrect API key {key}"}}))] * 3)
    with pytest.raises(JobError, match=r"Incorrect API key \*\*\*") as caught:
        served(refused, lambda engine: engine.ask(ASK))
    assert key not in str(caught.value)
    whole = {"choices": [{"message": {"role": "assistant", "content": f"It is {key}"}, "finish_reason": "stop"}]}
    part = {"choices": [{"delta": {"content": f"It is {key}"}, "finish_reason": "stop"}]}
    stream = f"data: {json.dumps(part)}\n\ndata: [DONE]\n\n"
    for trouble in (
        Trouble(body=json.dumps(whole)),
        Trouble(headers={"Content-Type": "text/event-stream"}, body=stream),
    ):
        assert served(FakeServer(trouble), lambda engine: engine.ask(ASK)).text == "It is ***"


def test_the_same_request_has_the_same_reply_and_another_seed_another() -> None:
    first, again = (served(FakeServer(), lambda engine: engine.ask(ASK)) for _ in range(2))
    other = served(FakeServer(), lambda engine: engine.ask(Write(ASK.messages, 16, seed=2)))
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
    async def asked(engine: EndpointEngine) -> Reply:
        await engine.ready()
        shorter = asyncio.create_task(asyncio.sleep(0.9))
        reply = await engine.ask(ASK)
        assert shorter.done() and engine.stats()["retries"] == 1
        return reply

    assert served(FakeServer(Trouble(429, {"Retry-After": "1"})), asked).finish == "stop"


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
    server = FakeServer(Trouble(delay_s=600))
    patience = Patience(attempts=8, first_s=0.01, hang_s=0.1)
    reply = served(server, lambda engine: engine.ask(replace(ASK, max_tokens=1)), patience)
    assert reply.finish == "stop" and len(server.asked) >= 2


def test_a_slow_server_is_not_asked_twice_and_its_worker_is_not_ended_for_it() -> None:
    async def run() -> None:
        async with FakeServer() as server:
            server.delay_s = 1.0
            engine = EndpointEngine(Engine(model="fake", endpoint=server.url, hang_s=0.1, abilities=ABLE))
            asking = asyncio.create_task(engine.ask(ASK))
            seen = []
            while not asking.done():
                seen.append([engine.stats().get(name, 0) for name in MOVES])
                await asyncio.sleep(0.05)
            assert (await asking).finish == "stop" and engine.stats()["retries"] == 0
            assert len(seen) > 10 and all(a != b for a, b in pairwise(seen)), "the watch sees that it lives"
            engine.close()
            await asyncio.sleep(0)

    asyncio.run(run())


def test_a_thought_is_kept_apart_in_the_row() -> None:
    asked = Draft((Message("user", "Name a river."),))
    row = Respond().answered(asked, Reply("The Rhine.", "stop", 1, 1, reasoning="Hm."))
    assert row.messages[-1] == Message("assistant", "The Rhine.", "Hm.")
    assert Respond().answered(asked, Reply("The Rhine.", "stop", 1, 1)).messages[-1].reasoning is None


def test_a_reply_may_take_four_times_what_its_tokens_do() -> None:
    pace = TimeoutEstimate()
    assert pace.longest(1000) == 4 * 0.1 * 1000
    for _ in range(50):
        pace.add(2.0, 100)
    assert pace.longest(5000) == pytest.approx(4 * 0.02 * 5000)


def test_a_request_that_is_never_served_while_others_are_is_a_refused_one() -> None:
    reply = asyncio.run(cursed_by_text())
    assert reply.finish.startswith("error: the endpoint did not serve this call: 500")


async def cursed_by_text() -> Reply:
    """Ask for something that the server always fails at, between others that it serves."""
    async with FakeServer() as server:
        server.fails_at = "curse"
        engine = at(server)
        cursed = asyncio.create_task(engine.ask(Write((Message("user", "curse"),), 16, seed=1)))
        while not cursed.done():
            assert (await engine.ask(ASK)).finish == "stop"
        return await cursed


def test_a_call_that_always_fails_is_a_refused_one_after_all_others_too() -> None:
    async def run() -> None:
        async with FakeServer() as server:
            engine, cursed = at(server), Write((Message("user", "curse"),), 16, seed=1)
            server.fails_at = "curse"
            for _ in range(2):
                assert (await engine.ask(ASK)).finish == "stop"
                for _ in range(2):
                    assert (await engine.ask(cursed)).finish.startswith("error: the endpoint did not serve this call")
            with pytest.raises(EngineError, match="500"):
                await engine.ask(cursed)
            engine.close()
            await asyncio.sleep(0)

    asyncio.run(run())


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


def made_through(server: FakeServer, folder: Path) -> list[Sample]:
    """Make sixteen rows through an endpoint, with the judge's constrained grade among their calls."""

    async def run() -> list[Sample]:
        async with server:
            generate = job(engine=Engine(model="fake", endpoint="http://fake/v1"))
            store, engine = with_seeds(Store(str(folder))), at(server)
            place = generate.place(store, WORK, None)
            maker = RowMaker(generate.pipeline("run-1"), place, {MAIN: engine}, open_hashing_encoder)
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


@pytest.mark.parametrize("name", ["content", "reasoning"])
def test_a_reply_with_half_a_surrogate_pair_costs_its_row_alone(name: str, tmp_path: Path) -> None:
    said = {"content": "", name: "Which of the rivers of Europe is the longest? \ud83d"}
    body = json.dumps({"choices": [{"message": said, "finish_reason": "stop"}]})
    rows = made_through(FakeServer(Trouble(body=body), Trouble(body="[" * 99_999)), tmp_path / "store")
    assert len(rows) == 16
    reasons = [row.dropped for row in rows if row.dropped and "surrogate" in row.dropped]
    assert reasons == ["self_instruct: error: the reply holds half a surrogate pair at character 46, must be text"]


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
        assert figures.kept == 12
        check_dataset(whole, WORK.output, "seeds")
        wrong = job(engine=engine.model_copy(update={"model": "other"}))
        store = with_seeds(Store(str(tmp_path / "wrong")))
        with pytest.raises(GristmillError, match="does not serve; it has fake"):
            wrong.make_on(a_run(store), WORK, open_engine, open_hashing_encoder)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("streams", [True, False])
def test_a_job_at_a_slow_server_pays_for_what_it_needs_and_probes_once_for_all_workers(
    tmp_path: Path, streams: bool
) -> None:
    server = FakeServer()
    server.streams, server.delay_s, server.piece_s, server.slow_from = streams, 0.0 if streams else 4.0, 0.3, 17
    server.says = lambda payload: "Tell me of the " + " ".join(["river"] * 9) if payload["max_tokens"] > 64 else None
    with in_thread(server) as url:
        store = with_seeds(Store(str(tmp_path / "store")))
        engine = Engine(model="fake", endpoint=url, cpus=1, actors=2, hang_s=1)
        respond = {"kind": "respond", "max_tokens": 200}
        generate = job(engine=engine, methods=[respond], filters=[], target="all", shard_size=2)
        begin = time.monotonic()
        figures = generate.make_on(a_run(store), WORK, open_engine, open_hashing_encoder)
    assert time.monotonic() - begin > 3.5 and figures.kept == figures.drafts == 9
    long = [payload for payload in server.asked if payload["max_tokens"] == 200]
    assert len(long) == 9 and len(server.asked) - 9 <= 10, "a call for each row, and one probe"
    assert all(payload.get("stream", False) == streams for payload in long)
