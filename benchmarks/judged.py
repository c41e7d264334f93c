"""A respond-then-judge job against the same work with a barrier between its two steps, in one run.

    python benchmarks/judged.py PROMPTS.jsonl [--num 768] [--max-tokens 64] [--peers ours,raw,ray]

Each system answers the prompts and then, in the next turn of the same conversation, grades each answer 1 to 5 with the
same model, prompts and sampling. `ours` is a `[generate]` job: the grade of one row is asked for while others are still
being answered and the cache still holds the conversation. `raw` is
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

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Engine, Reply
from gristmill.generation.engines.placement import environment
from gristmill.generation.engines.vllm import engine_args

GRADES = ("1", "2", "3", "4", "5")
QUESTION = "Grade your answer from 1 (wrong) to 5 (right). Say the grade alone."


def engine(given: argparse.Namespace) -> Engine:
    """Return the engine's settings, the same for all systems."""
    return Engine(model=given.model, max_model_len=2048)


def asked(question: str, answer: str) -> list[Any]:
    """Return the conversation that ends in the question for a grade."""
    said = (("user", question), ("assistant", answer), ("user", QUESTION))
    return [{"role": role, "content": content} for role, content in said]


def ours(given: argparse.Namespace) -> dict[str, Any]:
    """Answer and grade in one job."""
    from gristmill.cluster.runtime.session import session
    from gristmill.generation.contracts import Ask, Draft, ModelFilter, Verdict
    from gristmill.generation.job import Generate
    from gristmill.generation.methods.respond import Respond

    class Answer(Respond):
        """Keeps an answer that is cut off, so that all systems grade the same number."""

        def answered(self, draft: Draft, reply: Reply) -> Draft:
            return super().answered(draft, replace(reply, finish="stop"))

    class Grade(ModelFilter):
        """Asks for a grade in the words of this benchmark."""

        kind: str = "grade"

        async def judge(self, sample: Sample, ask: Ask) -> Verdict:
            turns = [Message(turn["role"], turn["content"]) for turn in asked(sample.instruction, sample.answer)]
            reply = await ask(turns, max_tokens=1, temperature=0.0, choices=GRADES)
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
    start = figures.engine_start_s
    return {"seconds": round(seconds, 2), "engine_start_s": start, "tokens": figures.tokens, "graded": graded}


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
    questions: list[Any] = [[{"role": "user", "content": text}] for text in texts]
    answers = llm.chat(questions, params, use_tqdm=False)
    said = [output.outputs[0].text for output in answers]
    choice = SamplingParams(
        max_tokens=1, temperature=0.0, structured_outputs=StructuredOutputsParams(choice=list(GRADES))
    )
    grades = llm.chat([asked(*pair) for pair in zip(texts, said, strict=True)], choice, use_tqdm=False)
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
            "messages": asked(row["question"], row["answer"]),
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
    """Answer and grade in a pipeline of two tasks, each with an engine of its own as distilabel does it.

    Its 1.5.3 hands vLLM `logits_processors`, which is no longer a setting of a request: it is taken and not looked at.
    """
    import vllm
    from distilabel.models import vLLM
    from distilabel.pipeline import Pipeline
    from distilabel.steps import LoadDataFromDicts, StepInput, step
    from distilabel.steps.tasks import ChatGeneration, TextGeneration

    class Params(vllm.SamplingParams, kw_only=True):
        logits_processors: Any = None

    vllm.SamplingParams = Params  # type: ignore[misc]  # distilabel takes the class by this name
    args = engine_args(engine(given), gpu=False)
    own = {name: args.pop(name) for name in ("model", "dtype", "seed")}
    batch = {"input_batch_size": given.num}
    rows = [{"instruction": text} for text in prompts(given.prompts, given.num)]
    natural = {"max_new_tokens": given.max_tokens, "temperature": 0.7, "min_p": 0.05}

    @step(inputs=["instruction", "generation"], outputs=["messages"])  # type: ignore[untyped-decorator]  # distilabel's
    def conversation(inputs: StepInput) -> Any:
        yield [{"messages": asked(row["instruction"], row["generation"])} for row in inputs]

    globals()["conversation"] = conversation  # where its worker processes look for it

    def llm(sampling: dict[str, Any]) -> Any:
        return vLLM(**own, extra_kwargs=args, generation_kwargs=sampling, disable_cuda_device_placement=True)

    with Pipeline(name="judged", cache_dir=tempfile.mkdtemp()) as pipeline:
        load = LoadDataFromDicts(data=rows, batch_size=given.num)
        answer = TextGeneration(name="answer", llm=llm(natural), **batch)
        turns = conversation(**batch)
        grade = ChatGeneration(name="grade", llm=llm({"max_new_tokens": 1, "temperature": 0.0}), **batch)
        load >> answer >> turns >> grade
    begin = time.monotonic()
    found = pipeline.run(use_cache=False)
    seconds = time.monotonic() - begin
    return {
        "seconds_with_start": round(seconds, 2),
        "graded": sum(bool(r["generation"]) for r in found["default"]["train"]),
    }


def speedups(runs: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Return the wall time of each system over ours, with the start of the engine where it is not known apart."""

    def median(which: str, *names: str) -> float:
        return float(statistics.median(sum(run[name] for name in names) for run in runs[which]))

    apart = {which for which, found in runs.items() if "seconds" in found[0]}
    return {
        which: round(median(which, "seconds") / median("ours", "seconds"), 3)
        if which in apart
        else round(median(which, "seconds_with_start") / median("ours", "seconds", "engine_start_s"), 3)
        for which in runs
    }


def variables(given: argparse.Namespace) -> dict[str, str]:
    """Return the environment of an engine's process."""
    return environment(engine(given), len(os.sched_getaffinity(0)), 0)


def main() -> None:
    """Run the systems in turn and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--num", type=int, default=768)
    parser.add_argument("--max-tokens", type=int, default=64)
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
    result = {
        "what": "wall time of answering and grading, from the first request to the last result",
        "settings": {"requests": given.num, "max_tokens": given.max_tokens, "model": given.model},
        "bound": "the barrier's idle tail, and the conversation read twice where the cache cannot hold all rows",
        "runs": runs,
        "speedup_of_ours": speedups(runs) if "ours" in runs else {},
    }
    write(given.name, result)


if __name__ == "__main__":
    main()
