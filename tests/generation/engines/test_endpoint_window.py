"""How many calls an endpoint bears at once: the window that grows and is cut, and a server that is full."""

import asyncio

from gristmill.cluster.models.engine import Write
from gristmill.generation.engines.endpoint.http import Patience
from gristmill.generation.engines.endpoint.window import Window
from tests.fake_server import FakeServer
from tests.generation.endpoints import ASK, at


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
            requests = [Write(ASK.messages, 16, seed) for seed in range(300)]
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
            server.delay_s = 0.1
            engine = at(server, max_in_flight=48)
            await asyncio.gather(*(engine.ask(Write(ASK.messages, 16, seed)) for seed in range(200)))
            return server.most_in_flight

    assert asyncio.run(run()) == 48
