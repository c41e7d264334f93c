"""A whole job against `LLM.generate` of the same prompts in one list: output tokens a second.

    python benchmarks/throughput.py PROMPTS.jsonl [--num 96] [--max-tokens 512] [--pairs 5] [--model builtin:…]

Raw is vLLM's own offline class with all prompts in one list, timed from the call to its return (it tokenises and
detokenises too). The job is `[generate]` with the method `respond` and the rule filters, timed from the first request
to the manifest: rendering, tokenising, filters, Arrow shards, settling. Both in turn, each in a process of its own, and
both in the type that the machine chooses.
Replies end where the model ends them; `cut_off` is the share that reached the limit. Every pair has other seeds: the
replies of one set of seeds may be longer or shorter as a whole, and the last long replies take nearly as long as all.
Raw gets the best of the settings `RAW`, each tried once before the pairs with a quarter of the prompts. The bound is
the raw rate: a job cannot be faster than its engine.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jobs
from common import in_process, interval, prompts, write

from gristmill.cluster.contract.sample import from_table
from gristmill.cluster.models import dtypes
from gristmill.cluster.models.engine import Engine
from gristmill.generation.engines.placement import environment
from gristmill.generation.engines.vllm import engine_args

RULES = [{"kind": "length", "max_answer_words": 4000}, {"kind": "repetition"}, {"kind": "refusal"}]
RAW: dict[str, dict[str, Any]] = {
    "as the job's engine": {},
    "blocks of 128 tokens": {"block_size": 128},
    "first come, first served": {"scheduling_policy": "fcfs"},
    "without prefix caching": {"enable_prefix_caching": False},
}
"""What vLLM's own arguments are tried with, over those of the job's engine. Chunked prefill is not among them: together
with the seeds of requests it ends the engine on a CPU."""


def settings(given: argparse.Namespace) -> Engine:
    return Engine(model=given.model, max_model_len=2048)


def raw(given: argparse.Namespace) -> dict[str, Any]:
    """Generate with vLLM's offline class in this process."""
    import torch
    from vllm import LLM, SamplingParams

    args = {**engine_args(settings(given), gpu=torch.cuda.is_available()), **RAW[given.raw]}
    llm = LLM(**args)
    asked: list[Any] = [[{"role": "user", "content": text}] for text in prompts(given.prompts, given.num)]
    params = [
        SamplingParams(max_tokens=given.max_tokens, temperature=0.7, min_p=0.05, seed=given.seed * given.num + n)
        for n in range(given.num)
    ]
    begin = time.monotonic()
    outputs = llm.chat(asked, params, use_tqdm=False)
    seconds = time.monotonic() - begin
    said = [output.outputs[0] for output in outputs]
    return rates(sum(len(one.token_ids) for one in said), seconds, [str(one.finish_reason) for one in said])


def job(given: argparse.Namespace) -> dict[str, Any]:
    """Generate with a job on a Ray actor."""
    from gristmill.cluster.runtime.session import session
    from gristmill.generation.job import Generate

    method = {"kind": "respond", "max_tokens": given.max_tokens, "stop_loops": False}
    generate = Generate.model_validate(
        {
            "target": "all",
            "engine": settings(given),
            "methods": [method],
            "filters": RULES,
            "seed": given.seed,
        }
    )
    with tempfile.TemporaryDirectory() as folder, session(None, None, None):
        store, seeds = jobs.inputs(folder, prompts(given.prompts, given.num))
        opens = jobs.Opens(folder)
        figures = jobs.make(generate, store, seeds, opens)
        seconds = opens.seconds()
        rows = from_table(store.read(jobs.OUT))
    finishes = [row.origin.finish for row in rows if row.origin]
    return rates(figures.tokens or 0, seconds, finishes)


def rates(tokens: int, seconds: float, finishes: list[str]) -> dict[str, Any]:
    return {
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "tokens_per_s": round(tokens / seconds, 1),
        "replies": len(finishes),
        "cut_off": round(finishes.count("length") / max(1, len(finishes)), 3),
    }


def main() -> None:
    """Find raw vLLM's best settings, run both systems in turn and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--num", type=int, default=96)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--model", default="builtin:smollm2-135m-instruct")
    parser.add_argument("--raw", choices=list(RAW), help="take these settings for raw vLLM instead of trying all")
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=["raw", "job"], help=argparse.SUPPRESS)
    parser.add_argument("--name", default="throughput", help="of the result file")
    given = parser.parse_args()
    if given.only:
        print(json.dumps({"raw": raw, "job": job}[given.only](given)))
        return
    own = [str(given.prompts), f"--max-tokens={given.max_tokens}", f"--model={given.model}"]
    variables = environment(settings(given), len(os.sched_getaffinity(0)), 0)

    def one(which: str, best: str, num: int = given.num, seed: int = 0) -> dict[str, Any]:
        # the raw engine gets the worker's environment; the job sets its workers' itself
        how = [*own, f"--num={num}", f"--only={which}", f"--raw={best}", f"--seed={seed}"]
        return in_process("throughput.py", how, variables if which == "raw" else {})

    tried = {} if given.raw else {name: one("raw", name, given.num // 4)["tokens_per_s"] for name in RAW}
    best = given.raw or max(tried, key=lambda name: tried[name])
    runs: dict[str, list[dict[str, Any]]] = {"raw": [], "job": []}
    for pair in range(given.pairs):
        for which in ("raw", "job") if pair % 2 == 0 else ("job", "raw"):
            runs[which].append(one(which, best, seed=pair))
    ratios = [j["tokens_per_s"] / r["tokens_per_s"] for j, r in zip(runs["job"], runs["raw"], strict=True)]
    write(
        given.name,
        {
            "what": "output tokens/s of a whole generate job over those of LLM.generate on the same prompts",
            "settings": {
                "requests": given.num,
                "max_tokens": given.max_tokens,
                "model": given.model,
                "dtype": dtypes.choose(given.model).dtype,
                "limits": {name: os.environ[name] for name in dtypes.LIMITS if name in os.environ},
                "filters": RULES,
            },
            "bound": "1.0: the engine's own rate",
            "raw_settings": {"best": best, "tokens_per_s": tried},
            "tokens_per_s": {
                name: statistics.median(run["tokens_per_s"] for run in found) for name, found in runs.items()
            },
            "ratio": interval(ratios),
            "ratios": [round(ratio, 4) for ratio in ratios],
            "runs": runs,
        },
    )


if __name__ == "__main__":
    main()
