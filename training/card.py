"""Export of a trained model into a folder, with a card that says what it was made of and how well it does."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import starmap
from pathlib import Path

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import JobError, StoreError
from gristmill.cluster.io.card import public
from gristmill.cluster.store.store import Manifest, Store, file_shard
from gristmill.cluster.store.uri import expanded
from gristmill.training.data.prepare import trained_on
from gristmill.training.figures import EvaluateFigures, ModelFigures, TrainFigures
from gristmill.training.folds import said
from gristmill.training.serve import trained
from gristmill.training.tuning.model import ADAPTER, MERGED

LICENSES = {
    "builtin:smollm2-135m-instruct": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
}
"""Name on the hub and licence of each builtin model that can be trained."""
README = "README.md"
PIPELINES = {
    "causal_lm": "text-generation",
    "sequence_classification": "text-classification",
    "token_classification": "token-classification",
    "question_answering": "question-answering",
}
"""The hub's name of each task."""


def export(store: Store, name: str, target: str, form: str) -> str:
    """Copy the merged model, or the adapter, of a run into a new folder with a card, and return what was written.

    Args:
        store: where the model is.
        name: a run or a trained model, or the beginning of its name.
        target: a local folder that is absent or empty.
        form: `model` or `adapter`.

    Raises:
        JobError: when there is no such model, or the folder cannot be written.
        StoreError: when a file of the model was altered.
    """
    model = trained(store, name)
    folder = expanded(target)
    if "://" in target or folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise JobError(f"{target}: must be a local folder that is absent or empty")
    manifest = store.manifest(model.name)
    part = MERGED if form == "model" else ADAPTER
    files = [shard for shard in manifest.shards if shard.name.startswith(f"{part}/")]
    if not files:
        raise JobError(f"{model.name}: has no adapter, its tuning makes none; export the form model")
    card = write(store, manifest, adapter=form == "adapter")
    for shard in files:
        source, copy = model.folder / shard.name, folder / Path(shard.name).relative_to(part)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        if file_shard(copy, folder).digest != shard.digest:
            raise StoreError(f"{source}: content does not match its digest, it was altered; train the model again")
    (folder / README).write_text(card, encoding="utf-8")
    return f"{form} of {model.name}: {len(files)} files and {README} written to {target}"


def write(store: Store, manifest: Manifest, *, adapter: bool) -> str:
    """Return the text of the card of a trained model."""
    figures = TrainFigures.read(store.figures(manifest.name))
    base, licence = _base(str(manifest.settings["model"]))
    evaluation = _evaluation(store, manifest.name)
    lines = [*_header(base, licence, figures.task, adapter=adapter), "", f"# {manifest.name}", ""]
    lines += [f"{base}, fine-tuned by Gristmill. {'An adapter (PEFT).' if adapter else 'Adapters are merged.'}"]
    if not licence:
        lines += [
            "",
            "The licence of the base model is not known to Gristmill; look it up before you publish this model.",
        ]
    lines += [*_data(store, manifest, figures), *_scores(evaluation), *_training(figures)]
    settings = json.dumps(public(dict(manifest.settings)), ensure_ascii=False, indent=1)
    return "\n".join([*lines, "", "## Settings", "", "```json", settings, "```"]) + "\n"


def _base(name: str) -> tuple[str, str]:
    """Return the name of a base model for people, and its licence; empty if it is not known."""
    if name in LICENSES:
        return LICENSES[name]
    card = expanded(name) / README
    if not card.is_file():
        return name if not expanded(name).is_dir() else expanded(name).name, ""
    _, _, block = card.read_text(encoding="utf-8", errors="replace").partition("---\n")
    found = [line.partition(":")[2].strip() for line in block.partition("\n---")[0].splitlines()
             if line.startswith("license:")]  # fmt: skip
    return expanded(name).name, found[0] if found else ""


def _header(base: str, licence: str, task: str, *, adapter: bool) -> list[str]:
    """Return the lines of the YAML block. Every value is quoted as JSON, which YAML can read."""
    lines = ["---", f"base_model: {json.dumps(base)}", *([f"license: {json.dumps(licence)}"] if licence else [])]
    library = "peft" if adapter else "transformers"
    return [*lines, f"library_name: {library}", f"pipeline_tag: {PIPELINES[task]}", "tags:", "- gristmill", "---"]


def _evaluation(store: Store, model: str) -> EvaluateFigures | None:
    """Return the figures of the evaluation of a model with the most suites, or None."""
    found = [
        EvaluateFigures.read(store.figures(one.name))
        for one in store.entries()[0]
        if one.kind == "evaluation" and one.inputs.get("model") == model
    ]
    return max(found, key=lambda one: (len(one.suites), one.rows), default=None)


def _data(store: Store, manifest: Manifest, figures: TrainFigures) -> Iterator[str]:
    """Yield what the model was trained on: counts, methods, and the datasets from the seeds on."""
    yield from ("", "## Data", "")
    yield f"Trained on {figures.kept:,} samples; {figures.holdout:,} of {figures.families:,} families are held out."
    rows = trained_on(store, manifest.name)
    methods = Counter(rows["method"].to_pylist())
    yield from ("", "| method | samples trained on |", "|---|---:|")
    yield from starmap("| {} | {:,} |".format, methods.most_common())
    yield from ("", "| dataset | made by | rows | kept | digest |", "|---|---|---:|---:|---|")
    for one in _lineage(store, manifest):
        digest = ids.digest([shard.digest for shard in one.shards])[:16]
        yield f"| `{one.name}` | {one.job} | {one.rows:,} | {one.kept:,} | `{digest}` |"


def _lineage(store: Store, manifest: Manifest) -> list[Manifest]:
    """Return the datasets that a model was made of, directly or not, the oldest first."""
    found: dict[str, Manifest] = {}
    names = [*manifest.inputs.values()]
    while names:
        name = names.pop(0)
        if name not in found and store.complete(name):
            found[name] = store.manifest(name)
            names += found[name].inputs.values()
    return [*found.values()][::-1]


def _scores(evaluation: EvaluateFigures | None) -> Iterator[str]:
    """Yield the results of the evaluation, each with its 95 % interval."""
    yield from ("", "## Results", "")
    if evaluation is None:
        yield "The model has not been evaluated."
        return
    interval = _interval(evaluation.ci_low, evaluation.ci_high)
    yield (
        f"Held-out loss {evaluation.loss_before:.4f} before and {evaluation.loss_after:.4f} after training, in nats "
        f"per {evaluation.unit}: difference {evaluation.difference:+.4f}{interval}, {evaluation.verdict}. "
        f"{evaluation.rows:,} samples of {evaluation.families:,} families."
    )
    if not evaluation.suites:
        return
    yield from ("", "Intervals are 95 %, over families of items. p-values are adjusted over all suites (Holm).", "")
    yield "| suite | items | model | value | difference from the base | p | verdict |"
    yield "|---|---:|---|---:|---:|---:|---|"
    for suite in evaluation.suites:
        made = ", made by a model" if suite.made else ""
        for model in suite.models:
            yield f"| {suite.suite} ({suite.kind}, {suite.role}{made}) | {suite.items:,} | {_row(model)} |"


def _row(model: ModelFigures) -> str:
    difference = "" if model.difference is None else f"{model.difference:+.3f}{_interval(model.ci_low, model.ci_high)}"
    p = "" if model.p_adjusted is None else f"{model.p_adjusted:.3f}"
    value = f"{model.value:.3f}{_interval(model.low, model.high)}"
    return " | ".join((public_name(model.model), value, difference, p, model.verdict))


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"


def public_name(model: str) -> str:
    """Return the name of a model without the folders of its path, which are the user's."""
    return str(public(model))


def _training(figures: TrainFigures) -> Iterator[str]:
    """Yield how the model was trained."""
    yield from ("", "## Training", "")
    yield f"{figures.steps:,} optimizer steps in {figures.precision}, {figures.trained_tokens:,} trained tokens."
    if figures.trials:
        yield f"Settings are the best of {figures.trials} trials: {json.dumps(dict(figures.chosen))}."
    if figures.fold_losses:
        yield from (f"Cross-validation: {line}." for line in said(figures.fold_losses, figures.fold_measures))
    if figures.labels:
        yield f"Labels: {', '.join(figures.labels)}."
    for reason, count in figures.drop_reasons.items():
        yield f"- left out: {count:,} samples, {reason}"
