"""The lift job: whether built samples, or unlabelled texts, make a classifier better on items that people labelled.

<output>/shard-00000.arrow   SAMPLES: the rows of the recommended arm, which later jobs use
         lift.json           arms, labels, and what was left out:
             validation, test    [{arm, rows, accuracy, lift, low, high, kind}] on the two parts of the test items
             fine_tuned          the same lists for a fine-tuned encoder, for the seeds and the recommended arm
             methods             [{method, rows, labels, agreement, two_sample_accuracy, coverage,
                                 coverage_of_people}] the rows of each method
             left_out            {role: {reason: rows}}
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from gristmill.cluster.contract.errors import JobError, RunError
from gristmill.cluster.contract.sample import Sample, from_table, to_table
from gristmill.cluster.io.ingest import Source
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.jobs.job import Job, Plan, Run, Work
from gristmill.cluster.models import names as models
from gristmill.cluster.models.encoder import Embedding, Encoder, open_embedding
from gristmill.cluster.runtime import log
from gristmill.cluster.runtime.deaths import deaths, ended
from gristmill.cluster.runtime.resources import await_room, need_of, spawn
from gristmill.cluster.store.store import Shard, Store
from gristmill.training.data.families import families
from gristmill.training.evaluate import arms as compared
from gristmill.training.evaluate import fine_tuning
from gristmill.training.evaluate.arms import Result
from gristmill.training.evaluate.fine_tuning import Confirm
from gristmill.training.evaluate.probe import Features, Floats, Ints, Probe, characters, vectors
from gristmill.training.evaluate.quality import quality_of
from gristmill.training.figures import LiftFigures

LIFT = "lift.json"
AT_ONCE = 256
"""Number of texts that are encoded between two updates of the progress bar."""
KNOWN = 0.8
"""Smallest share of the tokens that the encoder must know before `auto` chooses it."""
FEW_ITEMS = 30
"""Smallest number of test items in each of the two parts."""


class Lift(Job):
    """`[lift]`: find out which texts help a classifier, and pass on the rows of the arm that helps most.

    An arm is a set of labelled texts from which a probe, a small classifier, learns. The first arm is people's seeds
    alone. Each other arm adds texts to the seeds: the built samples, as many random drafts, the samples of one method,
    or unlabelled texts that a probe has labelled. If `labelled` is given, its texts make one more arm, which shows how
    much can be gained. One part of the test items decides which arm is recommended. The other part is used for nothing
    else, and gives the lift and its interval. If no arm helps, only the seeds are passed on. The result holds for the
    probe; a fine-tuned model may gain more or less. With `confirm`, an encoder is fine-tuned on the seeds and on the
    recommended arm. If it gains nothing from the arm, no arm is recommended.

    Source: lifts are paired by item and drawn by family, see `gristmill.training.evaluate.statistics`.
    """

    name: ClassVar[str] = "lift"
    figures: ClassVar[type[Figures]] = LiftFigures
    presentation: ClassVar[str] = "gristmill.training.report:LiftPresentation"
    example: ClassVar[Mapping[str, Any]] = {"seeds": "seeds.jsonl", "test": "test.jsonl", "unlabelled": "texts.jsonl"}
    not_identity: ClassVar[frozenset[str]] = frozenset(
        {"input", "seeds", "test", "unlabelled", "labelled", "cpus", "gpus"}
    )

    seeds: Source
    """Texts that people labelled. Each arm learns from them."""
    test: Source
    """Other texts that people labelled. Nothing is learned from them."""
    unlabelled: Source | None = None
    """Texts for the probe to label. Labels that these texts have are ignored."""
    labelled: Source | None = None
    """Further texts that people labelled. They show how much people's labels of more texts would help."""
    validation: float = Field(default=0.3, gt=0, lt=1)
    """Share of the test items that decides which arm is recommended."""
    shares: Literal["validation", "seeds"] | dict[str, Annotated[float, Field(gt=0)]] = "validation"
    """Expected share of each label among the texts of `unlabelled`; self-training labels them in these shares.
    `validation`: as among the test items that choose the arm. `seeds`: as among the seeds. Or a number for each
    label."""
    draws: int = Field(default=3, gt=0)
    """Number of draws of the random arm."""
    probe: Probe = Probe()
    """The small classifier and its features of a text."""
    encoder: Embedding = Embedding(model=models.E5)
    """The encoder that makes a vector of each text. It is not loaded if the probe uses characters."""
    confirm: Confirm | Literal[False] = False
    """Fine-tuning that must agree with the probe. `true` uses the default settings. It takes minutes on a machine
    without a GPU."""
    bootstrap: int = Field(default=2000, gt=0)
    """Number of bootstrap draws for an interval."""
    seed: int = 0
    """Seed of all random choices."""
    cpus: float | None = Field(default=None, gt=0)
    """Number of CPU cores for the process that compares. The default is all cores of the largest machine."""
    gpus: float | None = Field(default=None, ge=0)
    """Number of GPUs for the process that compares. The default is 1 if the cluster has GPUs, else 0."""

    @field_validator("confirm", mode="before")
    @classmethod
    def _by_default(cls, value: object) -> object:
        return {} if value is True else value

    def sources(self) -> dict[str, Source]:
        """Return the inputs that no job of the recipe makes, by role."""
        given = {"seeds": self.seeds, "test": self.test, "unlabelled": self.unlabelled, "labelled": self.labelled}
        return super().sources() | {role: source for role, source in given.items() if source is not None}

    def check(self, base: Path) -> list[str]:
        """Return the problems of the settings beyond their types."""
        del base
        found = []
        for where, model in (("encoder", self.encoder.model), ("confirm", self.confirm and self.confirm.model)):
            if model and (problem := models.missing(model)):
                found.append(f"{where}.model: {model}: {problem}")
        return found

    def needs(self, outputs: Mapping[str, str]) -> dict[str, str]:
        """Return the built samples, which are those of the last earlier job that makes samples."""
        made = next((outputs[name] for name in ("select", "review", "generate") if name in outputs), "")
        if not made and self.input is None and self.unlabelled is None:
            raise JobError("lift: nothing to compare with the seeds, must have `input`, `unlabelled` or a [generate]")
        return {"samples": made} if made else {}

    def plan(self, store: Store, work: Work) -> Plan:
        """Return the plan of the comparison."""
        plan = Plan(self.name, work.output, shards=1, actors=1, cpus=self.cpus or 1, gpus=self.gpus or 0)
        plan.state = "done" if store.complete(work.output) else "to do"
        counts = {
            role: store.manifest(folder).kept if store.complete(folder) else work.expected.get(folder, 0)
            for role, folder in work.inputs.items()
        }
        plan.samples = sum(counts.values())
        plan.kept = counts.get("seeds", 0) + counts.get("samples", 0)
        plan.notes.append(", ".join(f"{role} {count:,}" if count else role for role, count in counts.items()))
        return plan

    def make(self, run: Run, work: Work) -> LiftFigures:
        """Compare the arms, write `lift.json` and the rows of the recommended one, and commit."""
        import ray

        began = time.monotonic()
        need = need_of("lift.gpus", self.cpus, self.gpus)
        await_room("lift.cpus", [need], run.wait_s)
        run.ledger.append("shards_planned", job=self.name, shards=1, committed=0)
        actor = spawn(LiftActor, need, self, run.store, dict(work.inputs), run.logs)
        try:
            texts, left_out = ray.get(actor.open.remote())
            for line in left_out:
                run.screen.say(f"lift: {line}")
            with run.screen.bar("lift: texts", texts) as bar:
                for start in range(0, texts, AT_ONCE):
                    stop = min(texts, start + AT_ONCE)
                    ray.get(actor.embed.remote(start, stop))
                    bar.update(stop)
            runs, probed = ray.get(actor.measure.remote()), time.monotonic()
            if runs:
                with run.screen.bar("lift: fine-tuning", runs) as bar:
                    for done in range(runs):
                        ray.get(actor.fine_tune.remote(done))
                        bar.update(done + 1)
            tuned = round(time.monotonic() - probed, 1) if runs else None
            found, shard = ray.get(actor.finish.remote(work.output))
        except ray.exceptions.RayTaskError:  # of a living process
            raise
        except deaths() as error:
            raise RunError(f"lift: {ended('the process that compares', error)}; see {run.logs}/lift.log") from error
        finally:
            ray.kill(actor)
        run.store.write_json(found, work.output, LIFT)
        figures = replace(figures_of(found, texts, shard, time.monotonic() - began), tuned_seconds=tuned)
        files = (run.store.file(work.output, LIFT),)
        run.store.commit(self.manifest(work, "samples", (shard,), files=files), figures.to_json())
        run.ledger.append("shard_done", job=self.name, shard=shard.name, rows=shard.rows, kept=shard.kept,
                          seconds=figures.seconds)  # fmt: skip
        return figures


def figures_of(found: Mapping[str, Any], texts: int, shard: Shard, seconds: float) -> LiftFigures:
    """Return the figures. `found` is the content of `lift.json`, and `shard` is the shard that was written."""
    chosen = next(part for part in found["test"] if part["arm"] == found["recommended"])
    tuned = found["fine_tuned"].get("test")
    return LiftFigures(
        rows=texts,
        kept=shard.kept,
        items=found["items"],
        validation_items=found["validation_items"],
        arms=len(found["test"]),
        recommended=found["recommended"],
        verdict=found["verdict"],
        features=found["features"],
        accuracy_seeds=found["test"][0]["accuracy"],
        accuracy=chosen["accuracy"],
        lift=chosen["lift"],
        ci_low=chosen["low"],
        ci_high=chosen["high"],
        gap_share=found["gap_share"],
        tuned=tuned[1]["arm"] if tuned else "",
        tuned_lift=tuned[1]["lift"] if tuned else None,
        tuned_low=tuned[1]["low"] if tuned else None,
        tuned_high=tuned[1]["high"] if tuned else None,
        seconds=round(seconds, 1),
    )


class LiftActor:
    """An actor that holds all texts of a lift job, at most some hundred thousand, and compares the arms."""

    def __init__(self, job: Lift, store: Store, inputs: Mapping[str, str], logs: str | None) -> None:
        """Take the job and the names of its inputs by role; `open` reads them."""
        log.to_file(logs, "lift")
        self._job, self._store, self._inputs = job, store, inputs

    def open(self) -> tuple[int, list[str]]:
        """Read all rows; return the number of texts, and lines about the rows that take no part.

        Raises:
            JobError: when the seeds have fewer than two labels, when no usable seed is left for a label, when `shares`
                has other labels than the seeds, or when the test has too few items.
        """
        rows = {role: _samples(self._store, name, role) for role, name in self._inputs.items()}
        rows["samples"], removed = compared.without_instruction(
            rows.get("samples", ()), [*rows["seeds"], *rows["test"]]
        )
        self._corpus = corpus = compared.corpus_of(rows)
        if len(corpus.names) < 2:
            raise JobError(f"lift.seeds: {len(corpus.names)} different labels, must be two or more")
        left = np.bincount(corpus.labels[corpus.places["seeds"]], minlength=len(corpus.names))
        if not left.all():
            reasons = ", ".join(f"{reason}: {count}" for reason, count in corpus.left_out["seeds"].items())
            raise JobError(
                f"lift.seeds: no text is left with the label {corpus.names[int(left.argmin())]} ({reasons}), each "
                "label must have one; give more seeds"
            )
        if isinstance(self._job.shares, dict) and set(self._job.shares) != set(corpus.names):
            raise JobError(
                f"lift.shares: numbers for {', '.join(sorted(self._job.shares))}, must be for the labels of the seeds: "
                f"{', '.join(corpus.names)}"
            )
        items = corpus.places["test"]
        self._families = families(to_table([corpus.samples[n] for n in items]))
        self._validation, self._test = self._halves(items)
        fewest = min(len(self._validation), len(self._test))
        if fewest < FEW_ITEMS:
            raise JobError(
                f"lift.test: {len(items)} items, of which one part has {fewest}, must have {FEW_ITEMS} or more in "
                "each of its two parts; give more items or set lift.validation"
            )
        self._vectors: list[Any] = []
        self._encoder = self._opened()
        lines = [
            f"{role}: {count:,} of {len(rows[role]):,} rows take no part: {reason}"
            for role, reasons in corpus.left_out.items()
            for reason, count in reasons.items()
        ]
        lines += [
            f"samples: the rows of {method} are compared and passed on without their first paragraph, {head!r}, with "
            "which no seed and no test item begins"
            for method, head in removed.items()
        ]
        return len(corpus.texts), lines

    def embed(self, start: int, stop: int) -> None:
        """Encode the texts `start` to `stop` - 1, if the probe uses an encoder."""
        if self._encoder:
            self._vectors.append(self._encoder.encode(self._corpus.texts[start:stop]))

    def measure(self) -> int:
        """Compare all arms with the probe; return the number of fine-tuning runs that must follow."""
        job, corpus = self._job, self._corpus
        self._features = self._made_features()
        arms = compared.arms_of(corpus, self._features, self._shares(), draws=job.draws, seed=job.seed)
        self._arms = {arm.name: arm for arm in arms}
        items = corpus.places["test"]
        rights = {name: compared.right(arm, corpus, self._features, items) for name, arm in self._arms.items()}
        self._parts = {part: self._compared(rights, chosen) for part, chosen in self._named_parts().items()}
        self._name = compared.recommended(self._parts["validation"])
        self._tuned: dict[str, list[Floats]] = {}
        return 0 if not job.confirm or self._name == compared.SEEDS else 2 * job.confirm.runs

    def fine_tune(self, run: int) -> None:
        """Fine-tune once: on the seeds if `run` is even, on the recommended arm if it is odd."""
        job, corpus, items = self._job, self._corpus, self._corpus.places["test"]
        settings = job.confirm or Confirm()
        arm = self._arms[(compared.SEEDS, self._name)[run % 2]]
        rows, labels, weights = arm.draws[run // 2 % len(arm.draws)]
        texts = fine_tuning.read(corpus.texts, settings)
        learned = fine_tuning.Learned(rows, labels, weights, len(corpus.names))
        found = fine_tuning.fine_tune(texts, learned, items, settings, job.seed + run // 2)
        self._tuned.setdefault(arm.name, []).append((found == corpus.labels[items]).astype(np.float64))

    def finish(self, output: str) -> tuple[dict[str, Any], Shard]:
        """Write the rows of the recommended arm; return the content of `lift.json` and the shard."""
        corpus, name = self._corpus, self._name
        gains = {result.arm: result for result in self._parts["test"]}
        chosen, people = gains[name], gains.get(compared.PEOPLE)
        tuned = self._confirmed()
        if chosen.lift.high is not None and chosen.lift.high < 0:  # the arm helped on one part and hurts on the other
            name, verdict = compared.SEEDS, "hurts"
        elif name == compared.SEEDS:
            verdict = "no arm helps"
        elif tuned and tuned["validation"][1].lift.value <= 0:
            name, verdict = compared.SEEDS, "not confirmed"
        else:
            verdict = "helps" if chosen.lift.low is not None and chosen.lift.low > 0 else "not shown"
        gap = people.lift.value if people and people.lift.low is not None and people.lift.low > 0 else None
        shard = self._store.commit_shard(output, "shard-00000", to_table(compared.written(self._arms[name], corpus)))
        seen = np.concatenate([corpus.places["seeds"], self._validation])
        return {
            "recommended": name,
            "verdict": verdict,
            "features": "encoder" if self._encoder else "characters",
            "labels": list(corpus.names),
            "items": len(self._test),
            "validation_items": len(self._validation),
            "gap_share": gains[name].lift.value / gap if gap else None,
            **{part: [_line(result) for result in results] for part, results in self._parts.items()},
            "fine_tuned": {part: [_line(result) for result in results] for part, results in tuned.items()},
            "methods": quality_of(corpus, self._features, seen),
            "left_out": corpus.left_out,
        }, shard

    def _confirmed(self) -> dict[str, list[Result]]:
        """Return, by part of the test items, the results of fine-tuning on the seeds and on the recommended arm."""
        if not self._tuned:
            return {}
        rights = {name: np.mean(runs, axis=0) for name, runs in self._tuned.items()}
        return {part: self._compared(rights, chosen) for part, chosen in self._named_parts().items()}

    def _opened(self) -> Encoder | None:
        """Return the encoder, or None if the probe uses characters."""
        features, texts = self._job.probe.features, self._corpus.texts
        if features == "characters":
            return None
        encoder = open_embedding(self._job.encoder)
        known = 1 - float(encoder.unknown(texts).mean())
        return encoder if features == "encoder" or known >= KNOWN else None

    def _made_features(self) -> Features:
        """Return the features of all texts, fitted on the texts that an arm other than people's may learn from."""
        taken = [rows for role, rows in self._corpus.places.items() if role not in ("test", "labelled")]
        fitted = np.concatenate(taken)
        if self._encoder:
            return vectors(np.concatenate(self._vectors), fitted, self._job.probe)
        return characters(self._corpus.texts, fitted, self._job.probe)

    def _shares(self) -> Floats:
        """Return the expected share of each label among the unlabelled texts; counted shares are never 0."""
        corpus, given = self._corpus, self._job.shares
        if isinstance(given, dict):
            shares = np.array([given[name] for name in corpus.names], np.float64)
        else:
            rows = self._validation if given == "validation" else corpus.places["seeds"]
            shares = np.bincount(corpus.labels[rows], minlength=len(corpus.names)).astype(np.float64) + 1
        found: Floats = shares / shares.sum()
        return found

    def _halves(self, items: Ints) -> tuple[Ints, Ints]:
        """Return the validation items and the other test items. All items of a family are in the same part."""
        order = np.random.default_rng(self._job.seed).permutation(int(self._families.max(initial=-1)) + 1)
        first = (order < self._job.validation * len(order))[self._families]
        return items[first], items[~first]

    def _named_parts(self) -> dict[str, Ints]:
        return {"validation": self._validation, "test": self._test}

    def _compared(self, rights: Mapping[str, Floats], items: Ints) -> list[Result]:
        """Compare arms on some test items. `rights` says for each arm which of all items it has right, seeds first."""
        places = np.searchsorted(self._corpus.places["test"], items)
        kin = np.unique(self._families[places], return_inverse=True)[1].astype(np.int64)
        arms, parts = [self._arms[name] for name in rights], [right[places] for right in rights.values()]
        return compared.compare(arms, parts, kin, bootstrap=self._job.bootstrap, seed=self._job.seed)


def _samples(store: Store, name: str, role: str) -> list[Sample]:
    """Return the samples of a dataset. Dropped ones are included if they were built: the random arm draws from all."""
    every = [sample for table in store.scan(name) for sample in from_table(table)]
    return every if role == "samples" else [sample for sample in every if sample.dropped is None]


def _line(result: Result) -> dict[str, Any]:
    gain = result.lift
    return {
        "arm": result.arm,
        "rows": result.rows,
        "accuracy": result.accuracy,
        "lift": gain.value,
        "low": gain.low,
        "high": gain.high,
        "kind": gain.kind,
    }
