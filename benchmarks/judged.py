"""A respond-then-judge job against the same work with a barrier between its two steps, in one run.

    python benchmarks/judged.py PROMPTS.jsonl [--num 256] [--max-tokens 96] [--peers ours,raw,ray]

Each system answers the prompts and then grades each answer 1 to 5 with the same model, prompts and sampling.
`ours` is a `[generate]` job: the grade of one row is asked for while others are still being answered. `raw` is
`LLM.generate` over all prompts, then over all answers. `ray` is two processors of `ray.data.llm`, `distilabel` its
pipeline of two steps. Wall time counts from the first request to the last result, without the engines' start, which is
given beside it; where a system starts an engine for each step, both starts are in `engine_start_s`.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jobs
from common import in_process, prompts, write

from cluster.engine import Engine, Reply
from cluster.sample import Message, Sample
from generation.engines.vllm import engine_args, environment

GRADES = ("1", "2", "3", "4", "5")
QUESTION = (
    "Grade the answer to the question from 1 (wrong) to 5 (right). Say the grade alone.\n\nQuestion: {0}\nAnswer: {1}"
)


def engine(given: argparse.Namespace) -> Engine:
    """Return the engine's settings, the same for all systems."""
    return Engine(model=given.model, max_model_len=2048)


def ours(given: argparse.Namespace) -> dict[str, Any]:
    """Answer and grade in one job."""
    from cluster.session import session
    from generation.contracts import Ask, Draft, ModelFilter, Verdict
    from generation.job import Generate
    from generation.methods.respond import Respond

    class Answer(Respond):
        """Keeps an answer that is cut off, so that all systems grade the same number."""

        kind: str = "answer"

        def answered(self, draft: Draft, reply: Reply) -> Draft:
            return super().answered(draft, replace(reply, finish="stop"))

    class Grade(ModelFilter):
        """Asks for a grade in the words of this benchmark."""

        kind: str = "grade"

        async def judge(self, sample: Sample, ask: Ask) -> Verdict:
            question = QUESTION.format(sample.instruction, sample.answer)
            reply = await ask([Message("user", question)], max_tokens=1, temperature=0.0, choices=GRADES)
            return Verdict({"grade": float(reply.text)})

    method = Answer(max_tokens=given.max_tokens, stop_loops=False)
    settings = {"target": "all", "engine": engine(given), "methods": [{"kind": "respond"}], "filters": []}
    generate = Generate.model_validate(settings).model_copy(update={"methods": (method,), "filters": (Grade(),)})
    with tempfile.TemporaryDirectory() as folder, session(None, None, None):
        store, seeds = jobs.inputs(folder, prompts(given.prompts, given.num))
        opens = jobs.Opens(folder)
        figures = jobs.make(generate, store, seeds, opens)
        seconds = opens.seconds()
        graded = sum("grade" in dict(row) for table in store.scan(jobs.OUT) for row in table["scores"].to_pylist())
    start = figures["engine_start_s"]
    return {"seconds": round(seconds, 2), "engine_start_s": start, "tokens": figures["reply_tokens"], "graded": graded}


def raw(given: argparse.Namespace) -> dict[str, Any]:
    """Answer all, then grade all, with vLLM's offline class."""
    import torch
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    begin = time.monotonic()
    llm = LLM(**engine_args(engine(given), gpu=torch.cuda.is_available()))
    started = time.monotonic()
    texts = prompts(given.prompts, given.num)
    params = [
        SamplingParams(max_tokens=given.max_tokens, temperature=0.7, min_p=0.05, seed=n) for n in range(len(texts))
    ]
    answers = llm.chat([[{"role": "user", "content": text}] for text in texts], params, use_tqdm=False)
    said = [output.outputs[0].text for output in answers]
    asked = [[{"role": "user", "content": QUESTION.format(*pair)}] for pair in zip(texts, said, strict=True)]
    choice = SamplingParams(
        max_tokens=1, temperature=0.0, structured_outputs=StructuredOutputsParams(choice=list(GRADES))
    )
    grades = llm.chat(asked, choice, use_tqdm=False)
    return {
        "seconds": round(time.monotonic() - started, 2),
        "engine_start_s": round(started - begin, 1),
        "tokens": sum(len(output.outputs[0].token_ids) for output in (*answers, *grades)),
        "graded": sum(output.outputs[0].text in GRADES for output in grades),
    }


def ray(given: argparse.Namespace) -> dict[str, Any]:
    """Answer with one processor of `ray.data.llm`, grade with a second one behind it."""
    from ray import data, init
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    # more cores than there are: the tasks around the two engines need some, or nothing moves
    init(num_cpus=8, include_dashboard=True, log_to_driver=False, runtime_env={"env_vars": variables(given)})
    args = engine_args(engine(given), gpu=False)
    model = args.pop("model")
    args.pop("disable_log_stats")
    args["distributed_executor_backend"] = "mp"
    config = vLLMEngineProcessorConfig(
        model_source=model,
        engine_kwargs=args,
        batch_size=32,
        concurrency=1,
        log_engine_metrics=False,
        accelerator_type=None,
        placement_group_config={"bundles": [{"CPU": 1}]},
    )

    def question(row: dict[str, Any]) -> dict[str, Any]:
        return {
            "messages": [{"role": "user", "content": row["question"]}],
            "sampling_params": {
                "max_tokens": given.max_tokens,
                "temperature": 0.7,
                "min_p": 0.05,
                "seed": int(row["id"]),
            },
        }

    def grade(row: dict[str, Any]) -> dict[str, Any]:
        return {
            "messages": [{"role": "user", "content": QUESTION.format(row["question"], row["answer"])}],
            "sampling_params": {"max_tokens": 1, "temperature": 0.0, "structured_outputs": {"choice": list(GRADES)}},
        }

    answering = build_processor(
        config, preprocess=question, postprocess=lambda row: {**row, "answer": row["generated_text"]}
    )
    grading = build_processor(config, preprocess=grade, postprocess=lambda row: {"grade": row["generated_text"]})
    rows = [{"id": n, "question": text} for n, text in enumerate(prompts(given.prompts, given.num))]
    begin = time.monotonic()
    found = grading(answering(data.from_items(rows))).take_all()
    seconds = time.monotonic() - begin
    return {"seconds_with_start": round(seconds, 2), "graded": sum(row["grade"] in GRADES for row in found)}


def distilabel(given: argparse.Namespace) -> dict[str, Any]:
    """Answer and grade in a pipeline of two tasks, each with an engine of its own as distilabel does it."""
    from distilabel.models import vLLM
    from distilabel.pipeline import Pipeline
    from distilabel.steps import LoadDataFromDicts
    from distilabel.steps.tasks import TextGeneration

    args = engine_args(engine(given), gpu=False)
    model = args.pop("model")
    batch = {"input_batch_size": given.num}
    rows = [{"instruction": text} for text in prompts(given.prompts, given.num)]
    natural = {"max_new_tokens": given.max_tokens, "temperature": 0.7, "min_p": 0.05}
    with Pipeline(name="judged", cache_dir=tempfile.mkdtemp()) as pipeline:
        load = LoadDataFromDicts(data=rows, batch_size=given.num)
        answer = TextGeneration(
            name="answer", llm=vLLM(model=model, extra_kwargs=args, generation_kwargs=natural), **batch
        )
        grade = TextGeneration(
            name="grade",
            llm=vLLM(model=model, extra_kwargs=args, generation_kwargs={"max_new_tokens": 1, "temperature": 0.0}),
            template=QUESTION.replace("{0}", "{{ instruction }}").replace("{1}", "{{ answer }}"),
            columns=["instruction", "answer"],
            input_mappings={"answer": "generation"},
            output_mappings={"generation": "grade"},
            **batch,
        )
        load >> answer >> grade
    begin = time.monotonic()
    found = pipeline.run(use_cache=False)
    seconds = time.monotonic() - begin
    graded = [row["grade"] for row in found["default"]["train"]]
    return {"seconds_with_start": round(seconds, 2), "graded": len([g for g in graded if g])}


def variables(given: argparse.Namespace) -> dict[str, str]:
    """Return the environment of an engine's process."""
    return environment(engine(given), len(os.sched_getaffinity(0)), 0)


def main() -> None:
    """Run the systems in turn and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--num", type=int, default=256)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--model", default="builtin:smollm2-135m-instruct")
    parser.add_argument("--peers", default="ours,raw,ray")
    parser.add_argument("--distilabel", default=sys.executable, help="a Python that has distilabel beside this vLLM")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--name", default="judged", help="of the result file")
    given = parser.parse_args()
    systems = {"ours": ours, "raw": raw, "ray": ray, "distilabel": distilabel}
    if given.only:
        print(json.dumps(systems[given.only](given)))
        return
    own = [str(given.prompts), f"--num={given.num}", f"--max-tokens={given.max_tokens}", f"--model={given.model}"]
    runs: dict[str, list[dict[str, Any]]] = {}
    for turn in range(given.repeats):
        for which in given.peers.split(",")[:: 1 if turn % 2 == 0 else -1]:
            environment_ = variables(given) if which in ("raw", "distilabel") else {}
            python = given.distilabel if which == "distilabel" else sys.executable
            found = in_process("judged.py", [*own, f"--only={which}"], environment_, python)
            runs.setdefault(which, []).append(found)
    seconds = {
        which: statistics.median(run.get("seconds", run.get("seconds_with_start", 0.0)) for run in found)
        for which, found in runs.items()
    }
    result = {
        "what": "wall time of answering and grading, from the first request to the last result",
        "settings": {"requests": given.num, "max_tokens": given.max_tokens, "model": given.model},
        "bound": "the barrier's idle tail: where raw's two lists are each longer than a batch, little is to be gained",
        "runs": runs,
        "seconds": seconds,
        "speedup_of_ours": {w: round(s / seconds["ours"], 3) for w, s in seconds.items() if "ours" in seconds},
    }
    write(given.name, result)


if __name__ == "__main__":
    main()
