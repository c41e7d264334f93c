"""The train job: a dataset and a base model become an adapter and a merged model, under Ray Train with DeepSpeed.

<output>/adapter/…        PEFT adapter, if the tuning makes one
         merged/…         the finished model with its tokenizer, in files that transformers and vLLM load
         holdout.arrow    SAMPLES: the held-out rows, with the tag `family`
         left_out.json    by reason, the ids of rows that are not trained on because of held-out or test rows
         metrics.jsonl    one line for each step (`gristmill.training.loop.journal`)
         checkpoints/…    deleted when the manifest is written
"""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io.ingest import Source
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.jobs.job import Job, Plan, Run, Work
from gristmill.cluster.models import names as models
from gristmill.cluster.runtime.resources import Need, need_of, require
from gristmill.cluster.store.store import Shard, Store, file_shard
from gristmill.training import checkpoint, checks, memory, trials
from gristmill.training.data import facts
from gristmill.training.data import prepare as data
from gristmill.training.data.forecast import forecast
from gristmill.training.data.tokens import TOKENS
from gristmill.training.figures import TrainFigures, mixed
from gristmill.training.folds import FOLDS, measures_of, run_folds
from gristmill.training.loop import validation
from gristmill.training.loop import worker as loop
from gristmill.training.loop.journal import METRICS, left_out, read_journal
from gristmill.training.loop.state import WorkerPlan
from gristmill.training.optim.schedule import eval_every, num_steps
from gristmill.training.search import TRIALS, Search
from gristmill.training.settings import TrainSettings
from gristmill.training.supervision import heartbeat, supervisor
from gristmill.training.tasks import heads
from gristmill.training.tasks import prepare as tasks
from gristmill.training.trackers import STATE, following
from gristmill.training.tuning.model import ADAPTER, MERGED, dropouts


class Train(TrainSettings, Job):
    """`[train]`: fine-tune a model on the assistant's turns in the kept samples."""

    name: ClassVar[str] = "train"
    figures: ClassVar[type[Figures]] = TrainFigures
    presentation: ClassVar[str] = "gristmill.training.report:TrainPresentation"
    example: ClassVar[Mapping[str, Any]] = {"input": "samples.jsonl"}
    upstream: ClassVar[tuple[str, ...]] = ("lift", "select", "review", "generate")
    dashboard: ClassVar[bool] = True
    not_identity: ClassVar[frozenset[str]] = Job.not_identity | TrainSettings.not_identity
    working: ClassVar[tuple[str, ...]] = (
        *(f"{folder}/*" for folder in (checkpoint.FOLDER, checkpoint.BEST, heartbeat.FOLDER, trials.FOLDER)),
        *(f"{supervisor.RAY_FOLDER}/*", f"{data.PACKED}*", f"{data.HELDOUT}*", f"{TOKENS}*", data.PREPARED),
        *(tasks.LABELS, STATE, loop.RESIZE, loop.FAILED),
    )

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the model; contents of base model and template replace their paths."""
        value = super().identity()
        if not self.search.space:
            del value["fields"]["search"]
        if not self.folds:
            del value["fields"]["folds"]
        value["fields"]["model"] = models.identity(self.model)
        if self.template:
            value["fields"]["template"] = Path(self.template).read_text(encoding="utf-8")
        if self.task.causal:  # as before there were other tasks
            del value["fields"]["task"]
        return value

    def check(self, base: Path) -> list[str]:
        """Return the problems of the settings beyond their types."""
        del base
        found = checks.setting_problems(self) + self.trackers.problems()
        found += self.search.problems(self.model_copy(update={"search": Search()}), checks.setting_problems)
        problem = models.missing(self.model)
        if problem:
            found.append(f"model: {self.model}: {problem}")
        else:
            found += facts.problems(self.model, self.max_length)
            found += heads.problems(self.task, self.model, self.max_length)
        return found + self.encoding_problems() + self.task_problems()

    def sources(self) -> dict[str, Source]:
        """Return the inputs that no job of the recipe makes, by role."""
        found = super().sources()
        found |= {_nth(data.MIXTURE, n): part.input for n, part in enumerate(self.mixture, 1)}
        if self.replay_input:
            found[data.REPLAY] = self.replay_input
        if isinstance(self.validation, Source):
            found[data.VALIDATION] = self.validation
        return found | {_nth(data.TEST, n): source for n, source in enumerate(self.test, 1)}

    def needs(self, outputs: Mapping[str, str]) -> dict[str, str]:
        """Return the dataset of the recipe's seeds if a share of the seeds is held out; else nothing."""
        if self.validation_split == "samples" or isinstance(self.validation, Source):
            return {}
        if "ingest" not in outputs:
            raise JobError(
                'train.validation_split: "seeds", but no job before train has an input; must be "samples", or give '
                "generate.input"
            )
        return {data.SEEDS: outputs["ingest"]}

    def plan(self, store: Store, work: Work) -> Plan:
        """Return the plan of the training. Steps and tokens are counted from the rows if the rows exist already."""
        most = self.worlds[-1]
        plan = Plan(self.name, work.output, actors=most, cpus=most * self.cpus_per_worker, shards=1)
        plan.gpus = most * (self.gpus_per_worker or 0)
        plan.state = "done" if store.complete(work.output) else "continues" if store.exists(work.output) else "to do"
        trained = data.datasets(work.inputs)
        others = (store.manifest(name).kept for name in [*trained.values()][1:] if store.complete(name))
        plan.samples = plan.kept = work.num_samples(store) + sum(others)
        self._require_dropout()
        found = forecast(store, trained, plan.samples, self)
        plan.tokens = found.tokens
        task = "" if self.task.causal else f"{self.task.kind}, "
        how = f"{task}{self.tuning.said}, {self.optimizer.kind}, ZeRO-{self.zero.stage}, {self.precision}"
        plan.notes.append(f"{self.model}, {how}, {found.how}")
        plan.notes.extend(filter(None, [*found.notes, self.tuning.missing()]))
        more = self.search.count + self.folds
        if more:
            plan.tokens *= 1 + more
            plan.notes.append(
                f"{self.search.count} trials of a search and {self.folds} folds before the model is trained; the "
                "tokens are those of all"
            )
        plan.notes.extend(memory.notes(self, plan.tokens))
        return plan

    def make(self, run: Run, work: Work) -> TrainFigures:
        """Search for settings if this is asked for, then train with the best ones."""
        if not self.search.space:
            return self._make(run, work)
        self._require()
        chosen, done, best = trials.Trials(run, work, supervisor.fit).run_search(self)
        assert isinstance(chosen, Train)
        return chosen._make(run, work, trials=len(done), chosen=dict(best.values))

    def _make(self, run: Run, work: Work, **found: Any) -> TrainFigures:  # noqa: ANN401 - figures of a search
        """Pack, train, export and commit; continue from the newest checkpoint if there is one."""
        began = time.monotonic()
        folder = run.store.folder(work.output)
        if not self.elastic:
            supervisor.say_other_world(self, run, folder, self.worlds[0])
        base = models.local(self.model)
        each = self._require()
        run.ledger.append("shards_planned", job=self.name, shards=1, committed=0)
        with run.screen.bar("train: packing"):
            prepare = data.prepare if self.task.causal else tasks.prepare
            packed = prepare(run.store, work.output, work.inputs, base, self)
        self._say_held_out(run, packed)
        for line in mixed(packed.sources):
            run.screen.say(f"train: {line}")
        for what, count in packed.notes.items():
            run.screen.say(f"train: {count} {what}")
        if packed.drops:
            run.screen.say(f"train: samples not used: {', '.join(f'{n} {why}' for why, n in packed.drops.items())}")
        packing_s = time.monotonic() - began
        if self.folds:
            folds = run_folds(self, run, work, supervisor.fit)
            found |= {"fold_losses": tuple(fold.loss for fold in folds), "fold_measures": measures_of(folds)}
        steps = self.steps or num_steps(self.epochs, packed.epoch_rows, self.global_batch_size)
        head = tasks.head(run.store, work.output, self)
        if head:
            run.screen.say(f"train: {head.said}")
        cut = self.batching(self.worlds[-1])
        every = eval_every(self.eval_steps, packed.epoch_rows, self.global_batch_size)
        labels = validation.names(run.store, work.inputs, self)
        plan = WorkerPlan(
            self, run.store, work.output, base, steps, cut, each, run.logs, head, eval_steps=every, labels=labels
        )
        config = self.public()
        with following(self.trackers, folder, run.store.folder(""), config, run.screen.say) as lost:
            supervisor.fit(self, plan, run, memory.planned(self, gpu=each.gpus > 0))
        journal = read_journal(folder / METRICS)
        figures = replace(
            _figures(packed, journal, steps),
            task=self.task.kind,
            unit=self.task.unit,
            metric=self.metric,
            labels=head.names if head else (),
            packing_seconds=round(packing_s, 1),
            untracked={kind: count for kind, count in lost.items() if count},
            **found,
            seconds=round(time.monotonic() - began, 1),
        )
        self._commit(run, work, folder, figures)
        run.ledger.append("shard_done", job=self.name, shard=MERGED, rows=packed.samples, kept=packed.samples,
                          seconds=figures.seconds)  # fmt: skip
        return figures

    def _require(self) -> Need:
        """Return the needs of a worker, and refuse workers that do not fit into the cluster at once."""
        self._require_dropout()
        if missing := self.tuning.missing():
            raise JobError(f"train.{missing}")
        each = need_of("train.gpus_per_worker", self.cpus_per_worker, self.gpus_per_worker)
        require("train.workers", [each] * self.worlds[0])
        return each

    def _require_dropout(self) -> None:
        """Refuse `dropout` for a model without dropout. It needs transformers, which takes seconds to import."""
        folder = models.folder(self.model)
        if self.dropout is None or folder is None:
            return
        from transformers import AutoConfig

        if not dropouts(AutoConfig.from_pretrained(folder).get_text_config().to_dict()):
            raise JobError(
                f"train.dropout: {self.dropout}, but the config of {self.model} has no dropout; must not be set for it"
            )

    def _say_held_out(self, run: Run, packed: data.PackedCounts) -> None:
        """Print how many rows are held out, and how many are not used for each reason."""
        what = f"{packed.holdout} of {packed.families} families"
        run.screen.say(f"train: {packed.samples} samples to train on, {what} held out")
        for what, drops in (("not trained on", packed.drops), ("validation samples not used", packed.holdout_drops)):
            if drops:
                reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(drops.items()))
                run.screen.say(f"train: {what}: {reasons}")
        if packed.relatives:
            run.screen.say(
                f"train: {packed.relatives} of the held-out samples share a parent with samples trained on, because "
                'each was made from several; hold out seeds for a stricter test (train.validation_split = "seeds")'
            )

    def _commit(self, run: Run, work: Work, folder: Path, figures: TrainFigures) -> None:
        held = run.store.committed(work.output, data.HOLDOUT)[data.HOLDOUT]
        files = [p for part in (ADAPTER, MERGED) for p in sorted((folder / part).rglob("*")) if p.is_file()]
        files += [path for path in (folder / name for name in (TRIALS, FOLDS)) if path.exists()]
        shards: list[Shard] = [file_shard(p, folder) for p in [*files, folder / data.LEFT_OUT, folder / METRICS]]
        said = {"notes": figures.notes, "drops": figures.drop_reasons, "mixture": figures.mixture}
        metadata = {name: json.dumps(value, ensure_ascii=False) for name, value in said.items() if value}
        run.store.commit(
            self.manifest(work, "model", (held, *shards), {"precision": figures.precision, **metadata}),
            figures.to_json(),
        )
        data.sweep(run.store, work.output)
        run.store.delete(work.output, tasks.LABELS)  # the finished model has them
        run.store.delete(work.output, STATE)
        (folder / loop.RESIZE).unlink(missing_ok=True)
        for name in (checkpoint.FOLDER, checkpoint.BEST, supervisor.RAY_FOLDER, heartbeat.FOLDER, trials.FOLDER):
            shutil.rmtree(folder / name, ignore_errors=True)


def _nth(role: str, number: int) -> str:
    """Return the role of one of several inputs, counted from 1."""
    return f"{role}-{number}" if number > 1 else role


def _starts(journal: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [m for m in journal if "start" in m]


def _figures(packed: data.PackedCounts, journal: list[dict[str, Any]], steps: int) -> TrainFigures:
    done = [m for m in journal if "step" in m]
    end: Mapping[str, Any] = next((m for m in reversed(journal) if "end" in m), {})
    seconds, tokens = sum(m["seconds"] for m in done), sum(m["tokens"] for m in done)
    return TrainFigures(
        rows=packed.samples + packed.holdout,
        kept=packed.samples,
        holdout=packed.holdout,
        families=packed.families,
        relatives=packed.relatives,
        left_out=packed.left_out,
        dropped=sum(packed.drops.values()),
        drop_reasons=dict(sorted(packed.drops.items())),
        packed_rows=packed.bins,
        steps=end.get("end", steps),
        stopped_early=end.get("end", steps) < steps,
        kept_step=end.get("kept"),
        precision=_starts(journal)[-1]["precision"],
        notes=dict(packed.notes),
        mixture=tuple(packed.sources),
        separation=_starts(journal)[-1]["separation"],
        tokens=tokens,
        trained_tokens=sum(m["trained_tokens"] for m in done),
        tokens_per_s=round(tokens / seconds, 1) if seconds else 0.0,
        step_seconds=round(seconds, 1),
        loss_first=done[0]["loss"] if done else None,
        loss_last=done[-1]["loss"] if done else None,
        holdout_loss=end.get("holdout_loss"),
        measures=end.get("measures", {}),
        merged_difference=end.get("merged_difference"),
        starts=len(_starts(journal)),
        batches_left_out=len(left_out(journal)),
        steps_skipped=sum(bool(m.get("skipped")) for m in done),
    )
