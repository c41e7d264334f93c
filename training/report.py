"""The parts of the summary and the report about the jobs `[lift]`, `[train]` and `[evaluate]`."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from gristmill.cluster.report import charts
from gristmill.cluster.report.material import Material
from gristmill.cluster.report.sections import Panel, Presentation, Section, Stage, Table, Tile
from gristmill.training.evaluate.suites import sections as suites
from gristmill.training.figures import EvaluateFigures, LiftFigures, TrainFigures, mixed
from gristmill.training.folds import FOLDS, said
from gristmill.training.gate.rule import Decision
from gristmill.training.loop import stopping
from gristmill.training.search import TRIALS, as_settings

MAX_TEXT = 4_000
METRICS, EVALUATION, LIFT = "metrics.jsonl", "evaluation.json", "lift.json"
MEASURED = ("agreement", "two_sample_accuracy", "coverage", "coverage_of_people")
"""Keys of the measures of a method in `lift.json`."""


class LiftPresentation(Presentation[LiftFigures]):
    """The recommended arm with its lift, and a description of the rows of each method."""

    def summary(self, figures: LiftFigures) -> Iterator[str]:
        """Yield the recommended arm with its lift, also as a share of the lift of people's labels."""
        share = f", {figures.gap_share:.0%} of what people's labels bring" if figures.gap_share is not None else ""
        change = f"accuracy {figures.accuracy_seeds:.3f} -> {figures.accuracy:.3f}"
        yield {
            "helps": f"{figures.recommended} helps: {change}, lift {_lift(figures)}{share}",
            "not shown": f"{figures.recommended} may help, which is not shown: {change}, lift {_lift(figures)}",
            "hurts": "nothing is recommended: what helped on the validation items hurts on the others",
            "not confirmed": f"nothing is recommended: fine-tuning does not confirm {figures.tuned}",
            "no arm helps": f"nothing helps: the seeds alone have accuracy {figures.accuracy_seeds:.3f}",
        }[figures.verdict]
        if figures.tuned_lift is None:
            yield "measured with a probe, not with the model that is fine-tuned"
        else:
            lift = _signed(figures.tuned_lift, figures.tuned_low, figures.tuned_high)
            spent = f", in {figures.tuned_seconds:,.0f} s" if figures.tuned_seconds is not None else ""
            yield f"{figures.tuned}, fine-tuned: lift {lift}{spent}"

    def tiles(self, material: Material, figures: LiftFigures) -> Iterator[Tile]:
        """Yield the lift of the recommended arm."""
        del material
        yield Tile("lift", f"{figures.lift:+.3f}", f"{figures.recommended}: {figures.verdict}")

    def sections(self, material: Material, figures: LiftFigures) -> Iterator[Section]:
        """Yield the lift of each arm with its interval, and a table of the methods."""
        manifest = material.manifests.get("lift")
        if manifest is None or not material.store.exists(manifest.name, LIFT):
            return
        found = material.store.read_json(manifest.name, LIFT)
        arms = found["test"][1:]
        note = (
            f"Accuracy of a probe minus its accuracy with the seeds alone ({figures.accuracy_seeds:.3f}), with 95 % "
            f"intervals, on {figures.items:,} items that people labelled. {figures.validation_items:,} other items "
            "chose the recommended arm."
        )
        names = [f"{arm['arm']} ({arm['rows']:,})" for arm in arms]
        panel = Panel("Lift by arm", charts.intervals(names, [(a["lift"], a["low"], a["high"]) for a in arms]), note)
        panels = [panel]
        if tuned := found["fine_tuned"].get("test"):
            gain = tuned[1]
            note = f"On the same items, by fine-tuned encoders; with the seeds alone {tuned[0]['accuracy']:.3f}."
            bars = charts.intervals([gain["arm"]], [(gain["lift"], gain["low"], gain["high"])])
            panels.append(Panel("Lift when fine-tuned", bars, note))
        tables = [_methods(found)] if found["methods"] else []
        missing = [(role, why, f"{count:,}") for role, some in found["left_out"].items() for why, count in some.items()]
        if missing:
            note = "Rows that take no part. So no probe learns from a test item or from a near copy of one."
            tables.append(Table((("of", ""), ("reason", ""), ("rows", "num")), missing, note))
        said = next(self.summary(figures))
        rows = f"Later jobs get the rows of the arm: {figures.recommended}."
        yield Section("Did the data help?", f"{said[0].upper()}{said[1:]}. {rows}", panels, tables)


def _lift(figures: LiftFigures) -> str:
    return _signed(figures.lift, figures.ci_low, figures.ci_high)


def _signed(value: float, low: float | None, high: float | None) -> str:
    """Return a difference as text, with its interval if it has one."""
    return f"{value:+.3f}" if low is None or high is None else f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _methods(found: Mapping[str, Any]) -> Table:
    """Return the table of the methods: rows, labels, agreement, two-sample accuracy and coverage."""
    numbers = ("agrees with people", "two-sample accuracy", "covers", "people's cover")
    columns = (("method", ""), ("rows", "num"), ("labels", ""), *((name, "num") for name in numbers))
    note = (
        "Agreement: labels that a probe taught by people's labels gives too. Two-sample accuracy: how often a probe "
        "says rightly whether a text is the method's or a person's; 0.5 is chance. Covers: share of people's texts "
        "with a text of the method near; beside it the same for as many other texts of people."
    )
    rows = []
    for one in found["methods"]:
        labels = ", ".join(f"{name} {count:,}" for name, count in one["labels"].items())
        shares = ["" if one[name] is None else f"{one[name]:.2f}" for name in MEASURED]
        rows.append((one["method"], f"{one['rows']:,}", labels, *shares))
    return Table(columns, rows, note)


def held_out(figures: TrainFigures) -> Iterator[str]:
    """Yield notes on the held-out samples, and on samples left out because of them."""
    yield f"{figures.holdout} samples of {figures.families} families are held out"
    if figures.left_out:
        why = "because they are related to held-out or test samples"
        yield f"{figures.left_out} samples are left out of training, {why}"
    if figures.relatives:
        yield (
            f"{figures.relatives} held-out samples share a parent with samples trained on, because each was made from "
            'several; with validation_split = "seeds" none does'
        )


def ended(figures: TrainFigures) -> Iterator[str]:
    """Yield a note if training ended early, and one if the model does not have the weights of the last step."""
    if figures.stopped_early:
        yield f"training ended at step {figures.steps}, because {_what(figures)} did not become better any more"
    if figures.kept_step not in (None, figures.steps):
        yield f"the model has the weights of step {figures.kept_step}, with the best {_what(figures)}"


def measures(figures: TrainFigures) -> Iterator[str]:
    """Yield the measures of the finished model on the held-out samples."""
    if figures.measures:
        yield f"held out: {', '.join(f'{name} {value:.3f}' for name, value in figures.measures.items())}"


def _what(figures: TrainFigures) -> str:
    return f"held-out {figures.metric}"


def left_out(figures: TrainFigures) -> Iterator[str]:
    """Yield notes if batches were left out, or steps changed no weight."""
    if figures.batches_left_out:
        yield f"{figures.batches_left_out} batches are left out, because their loss or gradients were not finite"
    if figures.steps_skipped:
        share = figures.steps_skipped / figures.steps
        yield f"{figures.steps_skipped} steps ({share:.1%}) changed no weight, because gradients in fp16 overflowed"


def untracked(figures: TrainFigures) -> Iterator[str]:
    """Yield a note for each tracker that did not get every step."""
    for kind, count in figures.untracked.items():
        yield f"the tracker {kind} did not get {count} of {figures.steps} steps; metrics.jsonl has all of them"


def searched(figures: TrainFigures) -> Iterator[str]:
    """Yield the settings that a search chose, and the losses of a cross-validation."""
    if figures.trials:
        values = as_settings(figures.chosen)
        chosen = f"trained with the best settings of {figures.trials} trials: {values}"
        yield f"{chosen}; the value of a {figures.metric} that chose is too good"
    if figures.fold_losses:
        yield from said(figures.fold_losses, figures.fold_measures)


def _trials(material: Material, name: str, figures: TrainFigures) -> Iterator[Table]:
    """Yield the table of the trials of a search, and that of the folds."""
    metric = figures.metric
    if material.store.exists(name, TRIALS):
        found = material.store.read_json(name, TRIALS)
        keys = list(found[0]["values"])
        columns = (("trial", "num"), *((key, "") for key in keys), ("state", ""), ("steps", "num"), (metric, "num"))
        rows = [
            (
                f"{number}",
                *(json.dumps(trial["values"][key]) for key in keys),
                trial["state"],
                f"{trial['steps']:,}",
                "" if trial["loss"] is None else f"{stopping.value(metric, trial['loss']):.4f}",
            )
            for number, trial in enumerate(found, 1)
        ]
        yield Table(columns, rows, f"The trials of the search, with their held-out {metric}.")
    if material.store.exists(name, FOLDS):
        names = ("fold", "held out", "families", "trained on", "steps", "loss", *figures.fold_measures)
        parts = [
            (
                f"{n}",
                *(f"{one[key]:,}" for key in ("held", "families", "trained", "steps")),
                f"{one['loss']:.4f}",
                *(f"{one['measures'][key]:.4f}" for key in figures.fold_measures),
            )
            for n, one in enumerate(material.store.read_json(name, FOLDS), 1)
        ]
        yield Table(tuple((key, "num") for key in names), parts, "The folds, with what was measured of held-out rows.")


class TrainPresentation(Presentation[TrainFigures]):
    """The numbers of samples trained on and held out, and the loss during training."""

    def summary(self, figures: TrainFigures) -> Iterator[str]:
        """Yield notes on held-out samples, on left-out batches, and on the end of training."""
        yield from held_out(figures)
        yield from mixed(figures.mixture)
        yield from left_out(figures)
        yield from ended(figures)
        yield from measures(figures)
        yield from untracked(figures)
        yield from searched(figures)

    def tiles(self, material: Material, figures: TrainFigures) -> Iterator[Tile]:
        """Yield the held-out loss, unless the evaluate job shows it before and after training."""
        if "evaluate" not in material.figures and figures.holdout_loss is not None:
            yield Tile("held-out loss", f"{figures.holdout_loss:.3f}", "after training")

    def flow(self, left: int, material: Material, figures: TrainFigures) -> Iterator[Stage]:
        """Yield the number of samples trained on, and the number of held-out samples."""
        del left, material
        yield Stage("trained on", figures.kept, charts.KEPT)
        yield Stage("held out", figures.holdout, charts.KEPT)

    def sections(self, material: Material, figures: TrainFigures) -> Iterator[Section]:
        """Yield the loss curve, and a table of samples left out and of changes to samples."""
        name = material.manifests["train"].name if "train" in material.manifests else ""
        if not name or not material.store.exists(name, METRICS):
            return
        lines = material.store.read_bytes(name, METRICS).decode().splitlines()
        journal = [m for m in (json.loads(line) for line in lines if line.strip()) if "step" in m]
        notes = (*held_out(figures), *left_out(figures), *ended(figures), *untracked(figures), *searched(figures))
        note = " ".join((f"{len(journal)} optimizer steps.", *map(_sentence, notes)))
        panels = [Panel("Loss while training", charts.loss_curve(journal, figures.unit), note)]
        if between := [line for line in journal if "measures" in line]:
            note = " ".join(map(_sentence, measures(figures)))
            panels.append(Panel("Measures while training", charts.measure_curves(between), note))
        lost = [(reason, f"{count:,}") for reason, count in {**figures.drop_reasons, **figures.notes}.items()]
        pairs = zip(figures.mixture, mixed(figures.mixture), strict=True)
        lost += [(f"packed rows in an epoch of {line}", f"{one['epoch_rows']:,}") for one, line in pairs]
        if figures.task != "causal_lm":
            lost.insert(0, (f"task {figures.task}, labels: {', '.join(figures.labels) or 'none'}", ""))
        elif figures.separation != "positions":
            lost.append((f"packed samples are kept apart by: {figures.separation}", ""))
        columns = (("samples left out, and changes that fit samples to model and template", "clip"), ("number", "num"))
        tables = (*([Table(columns, lost)] if lost else []), *_trials(material, name, figures))
        yield Section("Training", "", panels, tables)


class EvaluatePresentation(Presentation[EvaluateFigures]):
    """The held-out loss before and after, and answers of the tuned model."""

    def summary(self, figures: EvaluateFigures) -> Iterator[str]:
        """Yield both losses, the interval of their difference with its verdict, and the results of the suites."""
        losses = f"held-out loss {figures.loss_before:.4f} -> {figures.loss_after:.4f}"
        yield f"{losses} ({_interval(figures)}): {figures.verdict}"
        yield from measured(figures)
        if figures.uncertain:
            yield figures.uncertain
        yield from suites.summary(figures)
        if figures.decision:
            yield _decided(figures.decision)

    def tiles(self, material: Material, figures: EvaluateFigures) -> Iterator[Tile]:
        """Yield both losses."""
        del material
        before, after = figures.loss_before, figures.loss_after
        yield Tile("held-out loss", f"{before:.3f} → {after:.3f}", f"{after - before:+.3f} nats per {figures.unit}")
        if figures.decision:
            passed = sum(one.says == "above" for one in figures.decision.findings)
            yield Tile("gate", figures.decision.verdict, f"{passed} of {len(figures.decision.findings)} suites pass")

    def sections(self, material: Material, figures: EvaluateFigures) -> Iterator[Section]:
        """Yield the losses as a chart, the smoke test as a table, and the sections of the suites."""
        low, high = figures.ci_low, figures.ci_high
        losses = (figures.loss_before, figures.loss_after)
        note = (
            f"{figures.rows} held-out samples through the base model and the tuned one; {_interval(figures)}, in nats "
            f"per {figures.unit}: {figures.verdict}. Samples with a common parent, of one group, or near copies are "
            "one family, and families are what the interval is over."
        )
        note = " ".join(filter(None, (note, *map(_sentence, measured(figures)), _sentence(figures.uncertain))))
        panel = Panel("Before and after", charts.before_after(*losses, low, high, figures.unit), note)
        replies = _replies(material)
        columns = tuple((head, "clip") for head in ("held-out instruction", "the tuned model says", "held-out answer"))
        tables = (Table(columns, replies, fixed=(33, 34, 33)),) if replies else ()
        yield Section("Evaluation", "", [panel], tables)
        if figures.decision:
            yield gate_section(figures.decision)
        yield from suites.sections(material, figures)


def _decided(decision: Decision) -> str:
    return f"gate: {'; '.join((decision.verdict, *decision.reasons))}"


def gate_section(decision: Decision) -> Section:
    """Return the verdict of the gate with what each suite says."""
    numbers = ("margin", "difference", "families", "look", "p", "at most")
    columns = (("suite", ""), *((name, "num") for name in numbers), ("", ""))
    rows = [
        (
            one.name,
            f"{one.margin:+g}",
            f"{one.difference:+.3f}",
            f"{one.families:,}",
            str(one.look),
            f"{one.p:.2g}",
            f"{one.level:.2g}",
            one.why or one.says,
        )
        for one in decision.findings
    ]
    note = (
        "Tuned minus base, mean over families. A suite is above its margin if p is at most what it may be at its look; "
        f"all suites must be. All looks together have the level {decision.level:.2g}."
    )
    return Section(
        "Gate", _sentence("; ".join((decision.verdict, *decision.reasons))), (), [Table(columns, rows, note)]
    )


def measured(figures: EvaluateFigures) -> Iterator[str]:
    """Yield the measures of the answers to the held-out samples, if the model has the head of a task."""
    before = figures.measures_before
    each = [
        f"{name} {before[name]:.3f} -> {value:.3f}" for name, value in figures.measures_after.items() if name in before
    ]
    if each:
        yield f"held-out samples, the head untrained and trained: {', '.join(each)}"


def _interval(figures: EvaluateFigures) -> str:
    if figures.ci_low is None or figures.ci_high is None:
        return "no interval of the difference, which needs two families"
    how = {"bootstrap": "bootstrap", "student": "Student's"}[figures.interval]
    ends = f"{figures.ci_low:+.4f} to {figures.ci_high:+.4f}"
    return f"95 % interval of the difference {ends}, {how} over {figures.families} families"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "." if text else ""


def _replies(material: Material) -> list[tuple[str, str, str]]:
    """Return the answers of the tuned model in its smoke test, from `evaluation.json`."""
    measured = material.manifests.get("evaluate")
    if measured is None or not material.store.exists(measured.name, EVALUATION):
        return []
    answers = material.store.read_json(measured.name, EVALUATION).get("smoke", [])
    return [(a["prompt"][:MAX_TEXT], a["reply"][:MAX_TEXT], a["reference"][:MAX_TEXT]) for a in answers]
