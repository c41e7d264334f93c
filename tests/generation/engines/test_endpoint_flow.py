"""The endpoint engine against vLLM's own OpenAI server with the builtin model, in a child process."""

import asyncio
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models import names as models
from gristmill.cluster.models.engine import Choose, Engine, Score, Write
from gristmill.generation.engines.endpoint.engine import EndpointEngine
from gristmill.generation.engines.placement import environment

pytestmark = pytest.mark.flow

MODEL = "smollm2"
RIVER = (Message("user", "Name one long river, in one word."),)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(model: str, name: str, log: Path, *flags: str) -> Iterator[str]:
    """Serve a model by vLLM's server, and give the address once it is up; all that it says goes to a log file.

    In float32: two requests of one seed may share a step with others or not, and where the machine computes bfloat16 by
    AMX, that is enough for another token.
    """
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32"]
    command += ["--max-model-len", "1024", "--max-num-batched-tokens", "2048", "--max-num-seqs", "32"]
    command += ["--enforce-eager", "--no-enable-chunked-prefill", "--generation-config", "vllm", "--block-size", "32"]
    command += ["--enable-prompt-tokens-details", "--distributed-executor-backend", "uni", *flags]
    cores = len(os.sched_getaffinity(0))
    env = {**os.environ, **environment(Engine(kv_cache_gib=1), cores, 0)}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of the builtin model."""
    with serving(models.local(models.SMOLLM2), MODEL, tmp_path_factory.mktemp("vllm") / "server.log") as url:
        yield url


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            time.sleep(0.5)
    pytest.fail(log.read_text(errors="replace")[-3000:])


def test_everything_that_a_request_can_say_reaches_the_model(server: str) -> None:
    asyncio.run(everything(server))


async def everything(server: str) -> None:
    engine = EndpointEngine(Engine(model=MODEL, endpoint=server))
    facts = await engine.ready()
    assert (facts["server"], facts["max_model_len"]) == ("vllm", 1024)
    await chats(engine)
    await prefixes(engine)
    await choices(engine)
    await constraints(engine)
    await scores(engine)
    stats = engine.stats()
    assert stats["retries"] == stats["running"] == 0 and stats["cached_tokens"] > 0
    await engine.closed()


async def chats(engine: EndpointEngine) -> None:
    request = Write(RIVER, 24, seed=3, logprobs=True, stop_loops=True, presence_penalty=0.1, stop=("\n\n",))
    first, again, other = await asyncio.gather(
        engine.ask(request), engine.ask(request), engine.ask(Write(RIVER, 24, seed=4, temperature=1.5))
    )
    assert first.text == again.text != other.text
    assert first.finish in ("stop", "length") and 0 < first.reply_tokens <= 24
    assert first.logprob is not None and first.logprob < 0 and other.logprob is None
    long = await engine.ask(Write((Message("user", "word " * 2000),), 8, seed=1))
    assert long.finish == "error: prompt and reply are longer than the model's context"
    clipped = await engine.ask(Write((Message("user", "Count: " + "one two " * 400),), 4000, seed=1))
    assert clipped.finish in ("stop", "length") and clipped.prompt_tokens + clipped.reply_tokens <= 1024
    looped = await engine.ask(
        Write(RIVER, 300, 1, 0.0, prefix="one two three four five six seven " * 8, stop_loops=True)
    )
    assert looped.finish == "repetition"


async def prefixes(engine: EndpointEngine) -> None:
    reply = await engine.ask(Write(RIVER, 8, 1, 0.0, prefix="1, 2, 3, 4,"))
    assert reply.text.startswith(" 5, 6")
    spaced = await engine.render(Write(RIVER, 8, 1, prefix="Score: "))
    assert spaced.endswith("<|im_start|>assistant\nScore: ")
    question = await engine.ask(Write((), 32, 1, 0.8, role="user"))
    assert question.text and question.finish in ("stop", "length")
    assert (await engine.render(Write((), 32, 1, role="user"))).endswith("<|im_start|>user\n")


async def choices(engine: EndpointEngine) -> None:
    asked = (Message("user", "Is Paris the capital of France? Answer yes or no."),)
    one = await engine.ask(Choose(asked, ("Yes", "No"), 1))
    assert one.text in ("Yes", "No") and one.reply_tokens == 1
    assert sum(one.choices.values()) == pytest.approx(1) and 0.001 < one.choices["No"] < 0.999
    assert one.choices[one.text] == max(one.choices.values())
    scored = await asyncio.gather(*(engine.ask(Score(asked, word)) for word in ("Yes", "No")))
    odds = math.exp((scored[0].logprob or 0) - (scored[1].logprob or 0))
    assert one.choices["Yes"] / one.choices["No"] == pytest.approx(odds, rel=0.2)
    many = ("very positive", "very negative", "neutral", "very")
    four = await engine.ask(Choose(asked, many, 1, prefix="The mood is "))
    assert four.text in many and sum(four.choices.values()) == pytest.approx(1)
    assert all(p > 0 for p in four.choices.values()) and four.reply_tokens == 2, four


async def constraints(engine: EndpointEngine) -> None:
    schema = {"type": "object", "properties": {"river": {"type": "string", "maxLength": 12}}, "required": ["river"]}
    held = await engine.ask(Write(RIVER, 64, 1, json_schema=json.dumps({**schema, "additionalProperties": False})))
    assert list(json.loads(held.text)) == ["river"], held
    year = await engine.ask(Write((Message("user", "When was that?"),), 16, 1, regex=r"(19|20)\d\d"))
    assert re.fullmatch(r"(19|20)\d\d", year.text) and year.finish == "stop"
    broken = await engine.ask(Write(RIVER, 16, 1, json_schema='{"type": "nonsense"}'))
    assert broken.finish.startswith("error: 400")
    after = await engine.ask(Write(RIVER, 64, 2, json_schema=json.dumps(schema)))
    assert json.loads(after.text), "one bad schema does not end the use of schemas"


async def scores(engine: EndpointEngine) -> None:
    likely, unlikely = await asyncio.gather(
        engine.ask(Score((Message("user", "Say hello."),), "Hello! How can I help you today?")),
        engine.ask(Score((Message("user", "Say hello."),), "Hello! How cancel elephant window todo?")),
    )
    assert likely.text == "" and likely.finish == "stop" and 5 < likely.reply_tokens < 15
    assert likely.logprob is not None and unlikely.logprob is not None
    assert 0 > likely.logprob > unlikely.logprob
    alone = await engine.ask(Score((), "Hello! How can I help you today?"))
    assert alone.logprob is not None and alone.prompt_tokens < likely.prompt_tokens
