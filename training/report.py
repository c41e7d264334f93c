"""What the summary and the report show of the train and the evaluate job."""

import json
from collections.abc import Iterator

from gristmill.cluster.report import charts
from gristmill.cluster.report.material import Material
from gristmill.cluster.report.sections import Panel, Presentation, Section, Stage, Table, Tile
from gristmill.training.figures import EvaluateFigures, TrainFigures

MAX_TEXT = 4_000
METRICS, EVALUATION = "metrics.jsonl", "evaluation.json"


class TrainPresentation(Presentation[TrainFigures]):
    """How many samples were trained on and held out, and the loss while training."""

    def tiles(self, material: Material, figures: TrainFigures) -> Iterator[Tile]:
        """Yield the held-out loss, unless evaluation has both of them."""
        if "evaluate" not in material.figures and figures.holdout_loss is not None:
            yield Tile("held-out loss", f"{figures.holdout_loss:.3f}", "after training")

    def flow(self, left: int, material: Material, figures: TrainFigures) -> Iterator[Stage]:
        """Yield the samples trained on and those held out."""
        del left, material
        yield Stage("trained on", figures.kept, charts.KEPT)
        yield Stage("held out", figures.holdout, charts.KEPT)

    def sections(self, material: Material, figures: TrainFigures) -> Iterator[Section]:
        """Yield the loss curve."""
        del figures
        name = material.manifests["train"].name if "train" in material.manifests else ""
        if not name or not material.store.exists(name, METRICS):
            return
        lines = material.store.read_bytes(name, METRICS).decode().splitlines()
        journal = [m for m in (json.loads(line) for line in lines if line.strip()) if "step" in m]
        panel = Panel("Loss while training", charts.loss_curve(journal), f"{len(journal)} optimizer steps.")
        yield Section("Training", "", [panel])


class EvaluatePresentation(Presentation[EvaluateFigures]):
    """The held-out loss before and after, and what the tuned model answers."""

    def summary(self, figures: EvaluateFigures) -> Iterator[str]:
        """Yield both losses with the interval of their difference."""
        interval = f"95 % interval of the difference {figures.ci_low:+.4f} to {figures.ci_high:+.4f}"
        yield f"held-out loss {figures.loss_before:.4f} -> {figures.loss_after:.4f} ({interval})"

    def tiles(self, material: Material, figures: EvaluateFigures) -> Iterator[Tile]:
        """Yield both losses."""
        del material
        before, after = figures.loss_before, figures.loss_after
        yield Tile("held-out loss", f"{before:.3f} → {after:.3f}", f"{after - before:+.3f} nats per token")

    def sections(self, material: Material, figures: EvaluateFigures) -> Iterator[Section]:
        """Yield the losses as a chart, and the smoke test as a table."""
        low, high = figures.ci_low, figures.ci_high
        note = (
            "The same held-out samples through the base model and the tuned one. "
            f"95 % interval of the change: {low:+.4f} to {high:+.4f} nats per token."
        )
        panel = Panel("Before and after", charts.before_after(figures.loss_before, figures.loss_after, low, high), note)
        replies = _replies(material)
        columns = tuple((head, "clip") for head in ("held-out instruction", "the tuned model says", "held-out answer"))
        tables = (Table(columns, replies, fixed=(33, 34, 33)),) if replies else ()
        yield Section("Evaluation", "", [panel], tables)


def _replies(material: Material) -> list[tuple[str, str, str]]:
    """Return what the tuned model answered in its smoke test, from `evaluation.json`."""
    measured = material.manifests.get("evaluate")
    if measured is None or not material.store.exists(measured.name, EVALUATION):
        return []
    answers = material.store.read_json(measured.name, EVALUATION).get("smoke", [])
    return [(a["prompt"][:MAX_TEXT], a["reply"][:MAX_TEXT], a["reference"][:MAX_TEXT]) for a in answers]
