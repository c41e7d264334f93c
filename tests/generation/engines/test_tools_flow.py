"""Tools, calls and thoughts through vLLM, in process and at its own server, with a model taught to call one."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gristmill.cluster.contract.sample import Message, ToolCall
from gristmill.cluster.models.engine import Engine, Write
from gristmill.generation.engines.endpoint.engine import EndpointEngine
from gristmill.generation.engines.placement import environment
from tests.fakes import parrot_model
from tests.generation.engines.test_endpoint_flow import serving
from tests.generation.engines.test_parsing import ASKED, CALLED, TEMPLATE, TOOLS

pytestmark = pytest.mark.flow
SAYS = f"I look it up.\n</think>\n\n{CALLED}"
ARGUMENTS = '{"city": "Rome"}'

IN_PROCESS = """
import asyncio, json, sys
from gristmill.cluster.models.engine import Engine, Write
from gristmill.generation.engines.vllm import VllmEngine
from tests.generation.engines.test_parsing import ASKED, TOOLS

async def main():
    engine = VllmEngine(Engine(model=sys.argv[1], max_model_len=1024, max_num_seqs=4, reasoning_parser="deepseek_r1"))
    facts = await engine.ready()
    asked = Write(ASKED, 200, 1, 0.0, tools=TOOLS)
    begun = Write(ASKED, 8, 1, 0.0, tools=TOOLS, prefix="Well,")
    called, other = await asyncio.gather(engine.ask(asked), engine.ask(begun))
    engine.close()
    calls = [list(call) for call in called.tool_calls]
    found = {"calls": calls, "text": called.text, "reasoning": called.reasoning, "finish": called.finish}
    json.dump({**found, "facts": facts, "begun": [other.reasoning, len(other.tool_calls)]}, open(sys.argv[2], "w"))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that thinks and calls a tool when it is asked for the weather in Rome, about 23 seconds of one core."""
    turns = [{"role": turn.role, "content": turn.content} for turn in ASKED]
    prompt = {"conversation": turns, "tools": json.loads(TOOLS)}
    return parrot_model(tmp_path_factory.mktemp("parrot"), TEMPLATE, prompt, SAYS)


def test_a_call_and_the_thought_before_it_are_parsed_in_process(parrot: str, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    env = os.environ | environment(Engine(kv_cache_gib=1), 1, 0)
    subprocess.run([sys.executable, "-c", IN_PROCESS, parrot, str(out)], env=env, check=True, timeout=600)
    found = json.loads(out.read_text(encoding="utf-8"))
    ((_, name, arguments),) = found["calls"]
    assert (name, json.loads(arguments), found["finish"]) == ("weather", json.loads(ARGUMENTS), "stop")
    assert (found["text"].strip(), found["reasoning"]) == ("", "I look it up.")
    assert found["facts"]["tool_parser"] == "hermes", "by the template"
    assert found["begun"] == ["", 0]


def test_a_call_and_the_thought_before_it_come_from_vllms_server_whole_and_streamed(
    parrot: str, tmp_path: Path
) -> None:
    parsers = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "deepseek_r1")
    with serving(parrot, "parrot", tmp_path / "server.log", *parsers) as url:
        asyncio.run(called(url))


async def called(url: str) -> None:
    asked = Write(ASKED, 200, 1, 0.0, tools=TOOLS)
    steps: list[float] = []
    for hang_s in (3000.0, 1.0):
        engine = EndpointEngine(Engine(model="parrot", endpoint=url, hang_s=hang_s))
        await engine.ready()
        reply = await engine.ask(asked)
        (call,) = reply.tool_calls
        assert (call.name, json.loads(call.arguments), reply.finish) == ("weather", json.loads(ARGUMENTS), "stop")
        assert (reply.text.strip(), reply.reasoning.strip()) == ("", "I look it up.")
        assert reply.reply_tokens > 60, "usage is told in streams too"
        steps.append(engine.stats()["steps"])
        said = (*ASKED, Message("assistant", None, "I look it up.", (ToolCall("c", "weather", ARGUMENTS),)))
        told = (*said, Message("tool", "31 degrees", tool_call_id="c"))
        after = await engine.ask(Write(told, 8, 1, 0.0, tools=TOOLS))
        assert after.finish in ("stop", "length"), "calls and results go back to the server"
        await engine.closed()
    whole, streamed = steps
    assert streamed > whole, "both ask alike what the server can do; a stream also counts its parts"
