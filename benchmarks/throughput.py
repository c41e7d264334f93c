"""A whole job against `LLM.generate` of the same prompts in one list: output tokens a second, same engine settings.

    python benchmarks/throughput.py PROMPTS.jsonl [--num 512] [--max-tokens 96] [--repeats 2] [--model builtin:…]

Raw is vLLM's own offline class with all prompts in one list, timed from the call to its return (it tokenises and
detokenises too). The job is `[generate]` with the method `respond` and the rule filters, timed from the first request
to the manifest: rendering, tokenising, filters, Arrow shards, settling. Both in turn, each in a process of its own.
The bound is the raw rate: a job cannot be faster than its engine. A natural reply ends where the model ends it;
with `ignore_eos` all are as long as allowed, so that both make exactly the same number of tokens.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jobs
from common import in_process, prompts, write

from cluster.engine import Engine
from generation.engines.placement import environment
from generation.engines.vllm import engine_args

RULES = [{"kind": "length", "max_answer_words": 4000}, {"kind": "repetition"}, {"kind": "refusal"}]


def settings(given: argparse.Namespace) -> Engine:
    return Engine(model=given.model, max_model_len=2048)


def raw(given: argparse.Namespace) -> dict[str, Any]:
    """Generate with vLLM's offline class in this process."""
    import torch
    from vllm import LLM, SamplingParams

    args = engine_args(settings(given), gpu=torch.cuda.is_available())
    llm = LLM(**args)
    asked = [[{"role": "user", "content": text}] for text in prompts(given.prompts, given.num)]
    params = [
        SamplingParams(max_tokens=given.max_tokens, temperature=0.7, min_p=0.05, seed=n, ignore_eos=given.ignore_eos)
        for n in range(len(asked))
    ]
    begin = time.monotonic()
    outputs = llm.chat(asked, params, use_tqdm=False)
    seconds = time.monotonic() - begin
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return {"tokens": tokens, "seconds": round(seconds, 2), "tokens_per_s": round(tokens / seconds, 1)}


def job(given: argparse.Namespace) -> dict[str, Any]:
    """Generate with a job on a Ray actor."""
    from cluster.session import session
    from generation.job import Generate

    method = {"kind": "respond", "max_tokens": given.max_tokens, "stop_loops": False}
    generate = Generate.model_validate(
        {"target": "all", "engine": settings(given), "methods": [method], "filters": RULES}
    )
    with tempfile.TemporaryDirectory() as folder, session(None, None, None):
        store, seeds = jobs.inputs(folder, prompts(given.prompts, given.num))
        opens = jobs.Opens(folder, ignore_eos=given.ignore_eos)
        figures = jobs.make(generate, store, seeds, opens)
        seconds = opens.seconds()
    tokens = figures["reply_tokens"]
    return {
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "tokens_per_s": round(tokens / seconds, 1),
        "rows": figures["rows"],
        "kept": figures["kept"],
    }


def main() -> None:
    """Run both systems in turn and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--num", type=int, default=512)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--model", default="builtin:smollm2-135m-instruct")
    parser.add_argument("--ignore-eos", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=["raw", "job"], help=argparse.SUPPRESS)
    parser.add_argument("--name", default="throughput", help="of the result file")
    given = parser.parse_args()
    if given.only:
        print(json.dumps({"raw": raw, "job": job}[given.only](given)))
        return
    import os

    own = [str(given.prompts), f"--num={given.num}", f"--max-tokens={given.max_tokens}", f"--model={given.model}"]
    variables = environment(settings(given), len(os.sched_getaffinity(0)), 0)
    results: dict[str, Any] = {}
    for ends in ("natural", "ignore_eos"):
        extra = ["--ignore-eos"] if ends == "ignore_eos" else []
        runs: dict[str, list[dict[str, Any]]] = {"raw": [], "job": []}
        for turn in range(given.repeats):
            for which in ("raw", "job") if turn % 2 == 0 else ("job", "raw"):
                # the raw engine gets the worker's environment; the job sets its workers' itself
                found = in_process(
                    "throughput.py", [*own, *extra, f"--only={which}"], variables if which == "raw" else {}
                )
                runs[which].append(found)
        rates = {which: statistics.median(run["tokens_per_s"] for run in found) for which, found in runs.items()}
        results[ends] = {"runs": runs, "tokens_per_s": rates, "ratio": round(rates["job"] / rates["raw"], 4)}
    write(
        given.name,
        {
            "what": "output tokens/s of a whole generate job over those of LLM.generate on the same prompts",
            "settings": {"requests": given.num, "max_tokens": given.max_tokens, "model": given.model, "filters": RULES},
            "bound": "1.0: the engine's own rate",
            **results,
        },
    )


if __name__ == "__main__":
    main()
