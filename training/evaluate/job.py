"""The evaluate job: what fine-tuning changed, on held-out rows and on suites, and whether the model still answers.

<output>/shard-….arrow      ITEMS: every value of every item of the suites, and the losses of the held-out rows
        /evaluation.json
    base, tuned         names of the two models
    precision           the precision in which both models computed
    unit                what the losses are of: a token, or with a head a text, a token or a window
    rows, tokens        held-out samples, and the number of their units that are trained on
    dropped             held-out samples that could not be scored, by reason
    loss_before, loss_after               mean loss of a unit in nats, base and tuned model
    perplexity_before, perplexity_after   e to the power of the loss
    difference          loss_after - loss_before: below 0 is better
    ci_low, ci_high     95 % interval of the difference over families of samples; null with one family
    interval            kind of the interval: "bootstrap" (`bootstrap` draws), "student" (few families) or "none"
    families            number of families: samples with a common parent, of one group, or near copies
    families_better, families_worse       number of families with a lower loss, and with a higher one
    sign_p              p-value of the sign test: that as many families have a lower loss as a higher one
    detectable          smallest true difference that such data detects with a probability of 80 %
    smoke               [{id, prompt, reply, reference, finish, tokens, ok}] replies of the tuned model in vLLM
    seconds             seconds of each part: {open, before, after, smoke}
"""

import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field, ValidationError, field_validator

from gristmill.cluster.contract.errors import JobError, RunError, StoreError
from gristmill.cluster.contract.sample import from_table
from gristmill.cluster.io.ingest import Source
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.jobs.job import Job, Plan, Run, Work
from gristmill.cluster.models import names as models
from gristmill.cluster.models.engine import Engine
from gristmill.cluster.runtime.deaths import advice, deaths, ended, out_of_memory
from gristmill.cluster.runtime.progress import Bar
from gristmill.cluster.runtime.resources import await_room, need_of, spawn
from gristmill.cluster.store.store import Manifest, Store, file_shard
from gristmill.training.data import families, tokens
from gristmill.training.data import prepare as data
from gristmill.training.evaluate import actor as scoring
from gristmill.training.evaluate import heads, held_out
from gristmill.training.evaluate.scorers import AnyScorer
from gristmill.training.evaluate.scorers.pairwise import Pairwise
from gristmill.training.evaluate.serving import AskAll, serving
from gristmill.training.evaluate.statistics import items_needed
from gristmill.training.evaluate.suites import compare, looks
from gristmill.training.evaluate.suites.bench import Bench
from gristmill.training.evaluate.suites.freeze import freeze
from gristmill.training.figures import EvaluateFigures, SuiteFigures
from gristmill.training.gate.rule import Decision, Gate
from gristmill.training.loop import separation
from gristmill.training.settings import TrainSettings
from gristmill.training.tasks.heads import Head
from gristmill.training.tuning.model import MERGED, Precision

EVALUATION = "evaluation.json"
HELD_OUT_ITEMS = "shard-held-out"
TRAINED = re.compile(r"train-[0-9a-f]{12}")
"""Pattern of the name of a trained model in the store."""
NAME = re.compile(r"[\w-]{1,60}")
"""Pattern of the name of a suite."""
CHANGED = 0.3
"""Assumed share of items that change between right and wrong. With it, the plan estimates how many items an effect
needs."""


class Evaluate(Job):
    """`[evaluate]`: compare the tuned model with its base, on held-out samples and on suites of your own."""

    name: ClassVar[str] = "evaluate"
    figures: ClassVar[type[Figures]] = EvaluateFigures
    presentation: ClassVar[str] = "gristmill.training.report:EvaluatePresentation"
    not_identity: ClassVar[frozenset[str]] = frozenset({"input", "cpus", "gpus"})
    newer: ClassVar[frozenset[str]] = frozenset({"gate"})

    precision: Precision | Literal["auto"] = "auto"
    """Precision in which both models compute. `auto` chooses the fastest one on the machine (see `models.dtypes`)."""
    bootstrap: int = Field(default=2000, gt=0)
    """Number of bootstrap draws of families for an interval."""
    seed: int = 0
    """Seed of the bootstrap draws."""
    smoke_prompts: int = Field(default=4, ge=0)
    """Number of held-out instructions that the tuned model answers in the inference engine; 0 for none."""
    smoke_tokens: int = Field(default=128, gt=0)
    """Largest number of tokens in such an answer."""
    engine: Engine = Engine()
    """The inference engine that runs each model in turn. Its `model` and `endpoint` may not be set."""
    suites: dict[str, AnyScorer] = Field(default_factory=dict)
    """Suites by name. A suite has items of your own, and a scorer that judges the replies to them. All models get the
    same items, the same prompts and the same engine settings."""
    against: tuple[str, ...] = ()
    """Further models to ask the suites: `builtin:…`, folders, names of models on a hub, or earlier trainings in the
    store, such as `train-0123456789ab`."""
    gate: Gate | None = None
    """The rule that decides whether the tuned model takes the place of its base model. It needs suites."""
    cpus: float | None = Field(default=None, gt=0)
    """Number of CPU cores for scoring. The default is 1 with a GPU, else all cores of the largest machine."""
    gpus: float | None = Field(default=None, ge=0)
    """Number of GPUs for scoring. The default is 1 if the cluster has GPUs, else 0."""

    @field_validator("suites")
    @classmethod
    def _plain_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not NAME.fullmatch(name) or name == held_out.SUITE:
                raise ValueError(
                    f"{name!r} is no name of a suite, must be up to 60 letters, digits, _ and -, other than "
                    f"{held_out.SUITE}"
                )
        return value

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the figures; the weights of further models replace their paths."""
        value = super().identity()
        value["fields"]["against"] = [models.identity(name) for name in self.against]
        if self.gate and self.gate.anchor:
            value["fields"]["gate"]["fields"]["anchor"] = models.identity(self.gate.anchor)
        return value

    def sources(self) -> dict[str, Source]:
        """Return the inputs that no job of the recipe makes, by role: the samples, and the items of each suite."""
        given = {_role(name): scorer.input for name, scorer in self.suites.items() if scorer.ingested}
        return super().sources() | given

    def needs(self, outputs: Mapping[str, str]) -> dict[str, str]:
        """Return the model that the recipe's train job makes, and the earlier trainings in `against`."""
        if "train" not in outputs:
            raise JobError("evaluate: the recipe has no [train], must have one; add it, it makes the model to evaluate")
        earlier = {f"against.{name}": name for name in self.against if TRAINED.fullmatch(name)}
        return {"model": outputs["train"], **earlier}

    def check(self, base: Path) -> list[str]:
        """Return the problems of the settings beyond their types."""
        del base
        found = [
            f"engine.{name}: is set, must not be; each model that is compared takes its place"
            for name in ("model", "endpoint")
            if name in self.engine.model_fields_set
        ]
        for name in self.against:
            problem = "" if TRAINED.fullmatch(name) else models.missing(name)
            if problem:
                found.append(f"against: {name}: {problem}")
        for name, scorer in self.suites.items():
            found += [f"suites.{name}.{problem}" for problem in scorer.problems()]
            if isinstance(scorer, Pairwise) and not scorer.judge.endpoint and models.missing(scorer.judge.model):
                found.append(f"suites.{name}.judge.model: {scorer.judge.model}: {models.missing(scorer.judge.model)}")
        if not self.gate:
            return found
        judged = [name for name, one in self.suites.items() if isinstance(one, Pairwise) and self.gate.decides(name)]
        if judged and self.gate.looks > 1:
            found.append(f"gate.looks: is {self.gate.looks} with the judged suite {judged[0]}, must be 1")
        return found + self.gate.problems(list(self.suites), self.against)

    def plan(self, store: Store, work: Work) -> Plan:
        """Return the plan of the evaluation."""
        state = "done" if store.complete(work.output) else "continues" if store.exists(work.output) else "to do"
        plan = Plan(self.name, work.output, state, shards=1, actors=2, cpus=self.cpus or 1, gpus=self.gpus or 0)
        model = work.inputs.get("model", "")
        if model and store.complete(model):
            plan.samples = store.manifest(model).rows
        plan.tokens = self.smoke_prompts * self.smoke_tokens
        plan.notes.append(f"held-out loss of base and tuned model, {self.smoke_prompts} answers in the engine")
        for name, scorer in self.suites.items():
            rows = work.inputs.get(_role(name), "")
            count = f"{store.manifest(rows).kept:,} rows, " if store.complete(rows) else ""
            plan.notes.append(f"suite {name}: {scorer.kind}, {count}{2 + len(self.against)} models")
        for effect in sorted({scorer.effect for scorer in self.suites.values()}):
            plan.notes.append(
                f"suites: a difference of {effect:g} takes about {items_needed(effect, CHANGED):,} items where 3 of 10 "
                "change between right and wrong"
            )
        if self.gate:
            plan.notes += self.gate.notes({name: scorer.role for name, scorer in self.suites.items()}, CHANGED)
        return plan

    def make(self, run: Run, work: Work) -> EvaluateFigures:
        """Score the held-out rows, ask all models, write ITEMS and `evaluation.json`, and commit."""
        began = time.monotonic()
        models_ = self._models(run, work)
        base, tuned, *_ = models_.values()
        seed = int(run.store.manifest(work.inputs["model"]).settings.get("seed", 0))
        headed = heads.heads_of([*models_.values()], base, tuned, seed)
        heads.require_answers(self.suites, headed)
        suites = [
            looks.in_blocks(freeze(run.store, name, one, work.inputs.get(_role(name))), self.gate)
            for name, one in self.suites.items()
        ]
        bench = Bench(run, work.output, models_, suites)
        near = bench.contamination(data.trained_on(run.store, work.inputs["model"])) if suites else {}
        draws = compare.Draws(self.bootstrap, self.seed)
        done = run.store.committed(work.output)
        run.ledger.append("shards_planned", job=self.name, shards=1 + len(bench.parts), committed=len(done))
        found = self._held_out(run, work)
        compared, decision, tokens = looks.ask(
            bench,
            self.gate,
            lambda some, values: compare.compare(some, list(models_), values, near, draws),
            partial(self._serving, run, headed),
            self._smoke(run, work, found, headed.get(tuned)),
        )
        run.store.write_json(found, work.output, EVALUATION)
        figures = _figures(found, compared, decision, tokens, time.monotonic() - began)
        for line in (figures.uncertain, *(f"suite {one.suite}: {one.undecided}" for one in compared if one.undecided)):
            if line:
                run.screen.say(f"evaluate: {line}")
        folder = run.store.folder(work.output)
        shards = [*run.store.committed(work.output).values(), file_shard(folder / EVALUATION, folder)]
        run.store.commit(self.manifest(work, "evaluation", shards), figures.to_json())
        run.ledger.append("shard_done", job=self.name, shard=EVALUATION, rows=found["rows"], kept=found["rows"],
                          seconds=figures.seconds)  # fmt: skip
        return figures

    def _models(self, run: Run, work: Work) -> dict[str, str]:
        """Return the folders of all models by name: the base model, the tuned one, and those of `against`."""
        tuned = work.inputs["model"]
        base, folder = _base(run.store, run.store.manifest(tuned))
        found = {base: folder, tuned: _merged(run.store, tuned)}
        for name in self.against:
            if name in found:
                run.screen.say(f"evaluate: against {name}: is compared anyway, as the base or the tuned model")
            else:
                found[name] = _folder(run.store, name)
        return found

    def _held_out(self, run: Run, work: Work) -> dict[str, Any]:
        """Return the content of `evaluation.json`. If there is none yet, make it, without the smoke test."""
        if run.store.exists(work.output, EVALUATION):
            return dict(run.store.read_json(work.output, EVALUATION))
        with run.screen.bar("evaluate: held out", 2) as bar:
            found = self._scores(run, work, bar)
        run.store.write_json(found, work.output, EVALUATION)
        return found

    def _scores(self, run: Run, work: Work, bar: Bar) -> dict[str, Any]:
        """Return the content of `evaluation.json` without the smoke test, and commit the ITEMS of the held-out rows."""
        import ray

        manifest = run.store.manifest(work.inputs["model"])
        base, before = _base(run.store, manifest)
        table, drops = held_out.rows_of(run.store, work.inputs)
        if drops:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(drops.items()))
            run.screen.say(f"evaluate: samples that are not scored: {reasons}")
        own = need_of("evaluate.gpus", self.cpus, self.gpus)
        await_room("evaluate.cpus", [own], run.wait_s)
        settings = _settings(manifest)
        causal = settings.task.causal
        kind, encoding = (scoring.Scorer, settings.encoding) if causal else (heads.HeadScorer, settings)
        samples = tokens.conversations(table) if causal else from_table(table)
        scorer = spawn(kind, own, run.logs, own.cpus, self.precision, encoding)
        paths = {"before": before, "after": _merged(run.store, work.inputs["model"])}
        try:
            opened = ray.get(scorer.open.remote(paths["after"], samples))
            run.screen.say(f"evaluate: {opened['precision']}, {opened['why']}")
            scores = {}
            for done, (name, path) in enumerate(paths.items(), 1):
                scores[name] = ray.get(scorer.losses.remote(path))
                bar.update(done, f"loss {name} {scores[name].mean:.3f}")
            if scores["after"].apart != separation.APART:
                run.screen.say(f"evaluate: {scores['after'].apart}")
        except ray.exceptions.RayTaskError:  # raised by a living process
            raise
        except deaths() as error:
            what = ended("the scoring process", error)
            how = f"{advice('evaluate.precision to bf16')}; see" if out_of_memory(error) else "see"
            raise RunError(f"evaluate: {what}; {how} {run.logs}/evaluate.log") from error
        finally:
            ray.kill(scorer)
        scored = table.take(pa.array(opened["places"]))
        by_model = {base: scores["before"], work.inputs["model"]: scores["after"]}
        run.store.commit_shard(work.output, HELD_OUT_ITEMS, held_out.items_of(scored, by_model))
        kin = families.families(scored)
        found = scoring.compare(scores["before"], scores["after"], kin, draws=self.bootstrap, seed=self.seed)
        return {
            "base": base,
            "tuned": work.inputs["model"],
            "precision": opened["precision"],
            "unit": settings.task.unit,
            "dropped": {**drops, **opened["drops"]},
            **found,
            "measures_before": dict(scores["before"].measures),
            "measures_after": dict(scores["after"].measures),
            "seconds": {"open": opened["seconds"], **{name: score.seconds for name, score in scores.items()}},
        }

    def _smoke(self, run: Run, work: Work, found: dict[str, Any], head: Head | None) -> Callable[[AskAll], None] | None:
        """Return a function that asks the tuned model held-out instructions and adds the answers to `found`.

        Return None if the answers are there already, or if there is nothing to ask. The function raises RunError when
        every answer is empty, or when no answer ends by itself.
        """
        if "smoke" in found:
            return None
        found["smoke"] = []
        if head:  # it writes no text
            return None
        asked = held_out.prompts(held_out.rows_of(run.store, work.inputs)[0], self.smoke_prompts)

        def talk(engine: AskAll) -> None:
            started = time.monotonic()
            found["smoke"] = held_out.smoke(asked, engine(held_out.requests(asked, self.smoke_tokens)))
            found["seconds"]["smoke"] = round(time.monotonic() - started, 1)
            run.store.write_json(found, work.output, EVALUATION)

        return talk if asked else None

    def _serving(self, run: Run, headed: Mapping[str, Head], folder: str, name: str) -> AbstractContextManager[AskAll]:
        if folder in headed:
            need = need_of("evaluate.gpus", self.cpus, self.gpus)
            await_room("evaluate.cpus", [need], run.wait_s)
            return heads.answering(folder, headed[folder], need, self.precision, run.logs, "evaluate")
        gpus = self.gpus if self.engine.gpus is None else self.engine.gpus
        own = {"model": folder, "cpus": self.engine.cpus or self.cpus, "gpus": gpus}
        return serving(self.engine.model_copy(update=own), run, name, "evaluate.engine")


def _folder(store: Store, name: str) -> str:
    """Return the folder of a model, which may be an earlier training in the store."""
    return _merged(store, name) if TRAINED.fullmatch(name) else models.local(name)


def _merged(store: Store, name: str) -> str:
    return str(store.folder(name) / MERGED)


def _base(store: Store, manifest: Manifest) -> tuple[str, str]:
    """Return the name and the folder of the base model of a training, also if the store was moved since."""
    given = str(manifest.settings["model"])
    name = models.recorded(given)
    moved = TRAINED.fullmatch(name) and store.complete(name)
    return name, _folder(store, name if moved else given)


def _settings(manifest: Manifest) -> TrainSettings:
    """Return the settings of a training; those that are newer than it have their defaults.

    Raises:
        StoreError: when another version of gristmill wrote settings that this one does not know.
    """
    known = manifest.settings
    try:
        return TrainSettings.model_validate({name: known[name] for name in TrainSettings.model_fields if name in known})
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise StoreError(
            f"{manifest.name}: its setting {where} is of another version of gristmill, must be of this one; run the "
            "train job again"
        ) from error


def _role(suite: str) -> str:
    return f"suites.{suite}"


def _figures(
    found: Mapping[str, Any], suites: tuple[SuiteFigures, ...], decision: Decision | None, tokens: int, seconds: float
) -> EvaluateFigures:
    measured = {field.name: found[field.name] for field in fields(EvaluateFigures) if field.name in found}
    measured |= {"tokens": found["tokens"] + tokens, "seconds": round(seconds, 1), "seconds_by_part": found["seconds"]}
    ok = sum(1 for reply in found["smoke"] if reply["ok"])
    return EvaluateFigures(
        kept=found["rows"], smoke_replies=len(found["smoke"]), smoke_ok=ok, suites=suites, decision=decision, **measured
    )
