"""Every reach into what vLLM does not offer as its interface, and what is lost without it.

`tests/generation/engines/test_vllm_internals.py` holds names and signatures to the version that `pyproject.toml` pins.
All else that `engines/vllm.py` and `cluster/models/encoder_vllm.py` import is documented by vLLM.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any


def skip_ranks() -> None:
    """Overwrite, for this whole process, how vLLM ranks the token that it took: nobody reads the rank.

    vLLM compiles that count in the first step that returns log-probabilities. Without this reach, the first grade of
    each engine takes 3 to 4 s longer; log-probabilities and texts are the same.
    """
    from vllm.v1.sample import sampler

    sampler.batched_count_greater_than = _no_ranks  # type: ignore[assignment,attr-defined]


def _no_ranks(_: Any, sampled: Any) -> Any:  # noqa: ANN401 - tensors, [requests, tokens] and [requests, 1]
    """Return a zero for each request, [requests]."""
    import torch

    return torch.zeros(len(sampled), dtype=torch.int64, device=sampled.device)


def request_counts(engine: Any) -> tuple[int, int]:  # noqa: ANN401 - vLLM's LLMEngine
    """Return the requests that the scheduler has (running, waiting).

    An engine core in another process does not tell them apart, and all count as running. Without this reach that would
    be so everywhere: metrics would show no queue, and the estimate of the time left would divide by too many rows.
    """
    from vllm.v1.engine.core_client import InprocClient

    if not isinstance(engine.engine_core, InprocClient):
        return engine.get_num_unfinished_requests(), 0
    running, waiting = engine.engine_core.engine_core.scheduler.get_request_counts()
    return int(running), int(waiting)


def tokens_under_way(engine: Any) -> int:  # noqa: ANN401 - vLLM's LLMEngine
    """Return the reply tokens of the requests in flight; the engine's thread adds and removes some meanwhile.

    Without this reach tokens would count when a reply ends: the rates on the screen and in metrics would come in
    bursts, and stay 0 during the first replies.
    """
    states = engine.output_processor.request_states.copy()  # in one step, while a loop over it could fail
    return sum(state.detokenizer.num_output_tokens() for state in states.values() if state.detokenizer)


def bundled_libraries() -> list[str]:
    """Return the folder of vLLM's wheel for CPUs with the allocator that it is fastest with, without importing vLLM.

    Without this reach the allocator is loaded only where the machine has it installed.
    """
    vllm = find_spec("vllm")
    return [str(Path(vllm.origin).parent / "libs")] if vllm and vllm.origin else []
