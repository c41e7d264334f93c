"""The evaluate job: what fine-tuning changed, on rows that it did not see, and whether the tuned model talks.

<output>/evaluation.json
    base, tuned         names of the two models
    precision           what both were computed in
    rows, tokens        held-out samples, and their trained tokens
    dropped             held-out samples that could not be scored, by reason
    loss_before, loss_after               mean loss of a trained token in nats, base and tuned model
    perplexity_before, perplexity_after   e to that
    difference          loss_after - loss_before: below 0 is better
    ci_low, ci_high     its 95 % interval over families of samples; null with one family
    interval            how it was made: "bootstrap" (`bootstrap` draws), "student" (few families) or "none"
    families            number of families: samples with a common parent, of one group, or near copies
    families_better, families_worse       families whose loss fell, and rose
    sign_p              p-value of the sign test that as many fell as rose
    detectable          the smallest true difference that such data shows in 80 % of all cases
    samples             [{id, family, tokens, loss_before, loss_after}] mean loss of each sample
    smoke               [{id, prompt, reply, reference, finish, tokens, ok}] replies of the tuned model in vLLM
    seconds             {open, before, after, smoke}
"""

import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from gristmill.cluster.contract.errors import EngineError, JobError, RunError
from gristmill.cluster.contract.ids import request_seed
from gristmill.cluster.contract.sample import Message, from_table
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.jobs.job import Job, Plan, Run, Work
from gristmill.cluster.models import names as models
from gristmill.cluster.models.engine import Engine, Write, ask_all, engine_need, start
from gristmill.cluster.runtime.deaths import advice, deaths, ended, lowerable, out_of_memory
from gristmill.cluster.runtime.resources import need_of, require, spawn
from gristmill.cluster.store.store import Store, file_shard
from gristmill.training.data import families
from gristmill.training.data import prepare as data
from gristmill.training.evaluate import actor as scoring
from gristmill.training.figures import EvaluateFigures
from gristmill.training.loop import separation
from gristmill.training.settings import TrainSettings
from gristmill.training.tuning.model import MERGED, Precision

EVALUATION = "evaluation.json"
NEAR = "near copy of a row trained on"


class Evaluate(Job):
    """`[evaluate]`: compare the tuned model with its base on held-out samples, and let it answer a few of them."""

    name: ClassVar[str] = "evaluate"
    figures: ClassVar[type[Figures]] = EvaluateFigures
    presentation: ClassVar[str] = "gristmill.training.report:EvaluatePresentation"
    not_identity: ClassVar[frozenset[str]] = frozenset({"input", "cpus", "gpus"})

    precision: Precision | Literal["auto"] = "auto"
    """Precision in which both models compute. `auto` is the fastest on the machine, see `models.dtypes`."""
    bootstrap: int = Field(default=2000, gt=0)
    """Bootstrap draws of families for the interval."""
    seed: int = 0
    """Seed of the bootstrap draws."""
    smoke_prompts: int = Field(default=4, ge=0)
    """Number of held-out instructions that the tuned model answers in the inference engine; 0 for none."""
    smoke_tokens: int = Field(default=128, gt=0)
    """Most tokens of such an answer."""
    engine: Engine = Engine()
    """The inference engine; its `model` is replaced by the tuned one."""
    cpus: float | None = Field(default=None, gt=0)
    """Cores for scoring. By default one with a GPU; without one, all cores of the largest machine."""
    gpus: float | None = Field(default=None, ge=0)
    """GPUs for scoring. By default one where the cluster has any, else none."""

    def needs(self, outputs: Mapping[str, str]) -> dict[str, str]:
        """Return the model to evaluate: what the recipe's train job makes."""
        if "train" not in outputs:
            raise JobError("evaluate: the recipe has no [train], must have one; add it, it makes the model to evaluate")
        return {"model": outputs["train"]}

    def check(self, base: Path) -> list[str]:
        """Return what is wrong with the settings beyond their types."""
        del base
        if "model" in self.engine.model_fields_set:
            return ["engine.model: is set, must not be; the tuned model takes its place"]
        return []

    def plan(self, store: Store, work: Work) -> Plan:
        """Say what would be evaluated."""
        state = "done" if store.complete(work.output) else "continues" if store.exists(work.output) else "to do"
        plan = Plan(self.name, work.output, state, shards=1, actors=2, cpus=self.cpus or 1, gpus=self.gpus or 0)
        model = work.inputs.get("model", "")
        if model and store.complete(model):
            plan.samples = store.manifest(model).rows
        plan.tokens = self.smoke_prompts * self.smoke_tokens
        plan.notes.append(f"held-out loss of base and tuned model, {self.smoke_prompts} answers in the engine")
        return plan

    def make(self, run: Run, work: Work) -> EvaluateFigures:
        """Score both models, let the tuned one answer, write `evaluation.json` and commit."""
        began = time.monotonic()
        folder = run.store.folder(work.output)
        run.ledger.append("shards_planned", job=self.name, shards=1, committed=0)
        with run.screen.bar("evaluate", 3) as bar:
            found = self._scores(run, work, bar)
            started = time.monotonic()
            found["smoke"] = self._smoke(run, work, found.pop("table"))
            found["seconds"]["smoke"] = round(time.monotonic() - started, 1)
            bar.update(3)
        ok = sum(1 for reply in found["smoke"] if reply["ok"])
        run.store.write_json(found, work.output, EVALUATION)
        measured = {field.name: found[field.name] for field in fields(EvaluateFigures) if field.name in found}
        measured |= {"seconds": round(time.monotonic() - began, 1), "seconds_by_part": found["seconds"]}
        figures = EvaluateFigures(kept=found["rows"], smoke_replies=len(found["smoke"]), smoke_ok=ok, **measured)
        if figures.uncertain:
            run.screen.say(f"evaluate: {figures.uncertain}")
        entry = file_shard(folder / EVALUATION, folder)
        run.store.commit(
            self.manifest(work, "evaluation", (entry,)),
            figures.to_json(),
        )
        run.ledger.append("shard_done", job=self.name, shard=entry.name, rows=found["rows"], kept=found["rows"],
                          seconds=figures.seconds)  # fmt: skip
        return figures

    def _scores(self, run: Run, work: Work, bar: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return the content of `evaluation.json` without the smoke test, and the rows as `table`."""
        import ray

        manifest = run.store.manifest(work.inputs["model"])
        base = str(manifest.settings["model"])
        table, drops = rows_of(run.store, work.inputs)
        if drops:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(drops.items()))
            run.screen.say(f"evaluate: samples that are not scored: {reasons}")
        own = need_of("evaluate.gpus", self.cpus, self.gpus)
        require("evaluate.cpus", [own])
        settings = TrainSettings.model_validate({n: manifest.settings[n] for n in TrainSettings.model_fields})
        scorer = spawn(scoring.Scorer, own, run.logs, own.cpus, self.precision, settings.encoding)
        paths = {"before": models.local(base), "after": str(run.store.folder(work.inputs["model"]) / MERGED)}
        try:
            opened = ray.get(scorer.open.remote(paths["after"], data.conversations(table)))
            run.screen.say(f"evaluate: {opened['precision']}, {opened['why']}")
            scores = {}
            for done, (name, path) in enumerate(paths.items(), 1):
                scores[name] = ray.get(scorer.losses.remote(path))
                bar.update(done, f"loss {name} {scores[name].mean:.3f}")
            if scores["after"].apart != separation.APART:
                run.screen.say(f"evaluate: {scores['after'].apart}")
        except ray.exceptions.RayTaskError:  # of a living process
            raise
        except deaths() as error:
            what = ended("the scoring process", error)
            how = f"{advice('evaluate.precision to bf16')}; see" if out_of_memory(error) else "see"
            raise RunError(f"evaluate: {what}; {how} {run.logs}/evaluate.log") from error
        finally:
            ray.kill(scorer)
        scored = table.take(pa.array(opened["places"]))
        names, kin = scored["id"].to_pylist(), families.families(scored)
        found = scoring.compare(names, scores["before"], scores["after"], kin, draws=self.bootstrap, seed=self.seed)
        return {
            "base": base,
            "tuned": work.inputs["model"],
            "precision": opened["precision"],
            "dropped": {**drops, **opened["drops"]},
            **found,
            "seconds": {"open": opened["seconds"], **{name: score.seconds for name, score in scores.items()}},
            "table": table,
        }

    def _smoke(self, run: Run, work: Work, table: pa.Table) -> list[dict[str, Any]]:
        """Return the tuned model's answers to a few held-out instructions.

        Raises:
            RunError: when every answer is empty, or none comes to a stop.
        """
        import ray

        asked = _prompts(table, self.smoke_prompts)
        if not asked:
            return []
        tuned = str(run.store.folder(work.inputs["model"]) / MERGED)
        requests = [
            Write(prompt, max_tokens=self.smoke_tokens, seed=request_seed(sample, 0)) for sample, prompt, _ in asked
        ]
        gpus = self.gpus if self.engine.gpus is None else self.engine.gpus
        own = {"model": tuned, "cpus": self.engine.cpus or self.cpus, "gpus": gpus}
        engine = self.engine.model_copy(update=own)
        actor = start(engine, run.logs, "smoke", engine_need("evaluate", engine, 1))
        try:
            replies = ask_all(actor, requests)
        except (ray.exceptions.RayError, EngineError) as error:
            what = f"{ended('the engine', error)} on {tuned}"
            lower = lowerable("evaluate.engine", self.engine, "kv_cache_gib", "max_num_seqs")
            how = f"{advice(lower)}; see" if out_of_memory(error) else "see"
            raise RunError(f"evaluate, smoke test: {what}; {how} {run.logs}") from error
        finally:
            ray.kill(actor)
        answers = [
            {
                "id": sample,
                "prompt": prompt[-1].text,
                "reply": reply.text,
                "reference": reference,
                "finish": reply.finish,
                "tokens": reply.reply_tokens,
                "ok": bool(reply.text.strip()) and reply.finish == "stop",
            }
            for (sample, prompt, reference), reply in zip(asked, replies, strict=True)
        ]
        require_talk(answers)
        return answers


def rows_of(store: Store, inputs: Mapping[str, str]) -> tuple[pa.Table, dict[str, int]]:
    """Return the rows to score, and how many others cannot be, by reason.

    They are the job's own samples where it has an input, without those near the rows that the model was trained on;
    else the samples that training held out.

    Raises:
        JobError: when no row is left.
    """
    if "samples" not in inputs:
        return data.held_out(store, inputs["model"]), {}
    table = store.read(inputs["samples"])
    fit, drops = data.usable(table)
    near = families.near_to(table, fit, [data.trained_on(store, inputs["model"])])
    if near.any():
        drops[NEAR] = int(near.sum())
    if not (fit & ~near).any():
        raise JobError(
            f"evaluate.input: none of {table.num_rows} samples can be scored ({drops}), at least one must; give others "
            "or name the file in train.test, which keeps rows like them out of training"
        )
    return table.filter(pa.array(fit & ~near)), drops


def _prompts(table: pa.Table, count: int) -> list[tuple[str, tuple[Message, ...], str]]:
    """Return (id, messages before the first answer, that answer) of the first rows by id that a user begins."""
    found = []
    for sample in sorted(from_table(table), key=lambda row: row.id):
        first = next(place for place, turn in enumerate(sample.messages) if turn.role == "assistant")
        if first and not sample.beyond_text:
            found.append((sample.id, sample.messages[:first], sample.messages[first].text))
    return found[:count]


def require_talk(replies: list[dict[str, Any]]) -> None:
    """Refuse a model that answers nothing or never stops.

    Raises:
        RunError: when every reply is empty, or no reply ends by itself.
    """
    if not any(reply["reply"].strip() for reply in replies):
        raise RunError(
            f"evaluate, smoke test: all {len(replies)} replies are empty, must not be; "
            "lower train.learning_rate or train.epochs"
        )
    if not any(reply["finish"] == "stop" for reply in replies):
        how = sorted({reply["finish"] for reply in replies})
        raise RunError(
            f"evaluate, smoke test: all {len(replies)} replies end by {how}, one at least must stop by itself; raise "
            "evaluate.smoke_tokens, or lower train.learning_rate"
        )
