"""The card of an exported Hugging Face dataset: a README.md that describes the dataset's contents and sources."""

import json
from collections import Counter
from dataclasses import dataclass, field
from itertools import starmap

import pyarrow as pa

from gristmill.cluster.jobs.state import recipe_of
from gristmill.cluster.store.store import Manifest, Store

SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
)
FEATURES = {
    "jsonl": "`id`, `messages` (turns in the OpenAI form), `tools`, `tags`, `scores`",
    "sharegpt": "`id`, `conversations` (from and value of each turn), `tools`",
    "alpaca": "`instruction`, `input`, `output`, with `history` and `system` where any sample has them",
    "parquet": "`id`, `parents`, `messages`, `tools`, `method`, `round`, `scores`, `tags`, `dropped`, `origin`",
    "preference": "`prompt`, `chosen`, `rejected` (turns each)",
    "feedback": "`prompt`, `completion` (turns each), `label` (whether the completion is good)",
    "prompts": "`prompt` (turns), `reference` (the answer)",
}


@dataclass
class Provenance:
    """Counts over all rows of a dataset, kept and dropped."""

    methods: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Dropped rows by filter, which is the part of the reason before the colon."""
    languages: Counter[str] = field(default_factory=Counter)
    """Kept rows by language."""


def write(store: Store, name: str, form: str, rows: int, features: str) -> str:
    """Return the text of the card of an export.

    Args:
        store: where the dataset is.
        name: the dataset's folder.
        form: the form of the export.
        rows: number of rows in the files in `data/`.
        features: YAML block with the columns and their types, or the empty string.
    """
    manifest = store.manifest(name)
    counts = Provenance()
    for table in store.scan(name, ["method", "tags", "dropped", "origin"]):
        _count(counts, table)
    return (
        "\n".join([*_header(counts, rows, features), *_body(manifest, counts, form, rows), *_recipe(store, counts)])
        + "\n"
    )


def size_category(rows: int) -> str:
    """Return the hub's size category for a number of rows, such as `1K<n<10K`."""
    return next((word for limit, word in SIZES if rows < limit), "n>1B")


def _count(counts: Provenance, table: pa.Table) -> None:
    for row in table.to_pylist():
        counts.methods[row["method"]] += 1
        if row["origin"]:
            counts.models[row["origin"]["model"]] += 1
            counts.runs[row["origin"]["run"]] += 1
        if row["dropped"]:
            counts.reasons[row["dropped"].partition(":")[0]] += 1
        else:
            counts.languages[dict(row["tags"]).get("language", "unknown")] += 1


def _header(counts: Provenance, rows: int, features: str) -> list[str]:
    """Return the lines of the YAML block. Every value from the data is quoted as JSON, which YAML can read."""
    languages = [json.dumps(lang) for lang, _ in counts.languages.most_common() if lang != "unknown"]
    made = any(method != "seed" for method in counts.methods)
    lines = ["---", "pretty_name: Gristmill dataset"]
    if languages:
        lines += ["language:", *(f"- {language}" for language in languages)]
    lines += ["task_categories:", "- text-generation", "size_categories:", f"- {size_category(rows)}", "tags:"]
    lines += ["- gristmill", *(["- synthetic"] if made else [])]
    # no `configs`: with it `datasets` names its cache by the pattern alone, and a second export under the same folder
    # name would be loaded as the first one; without it the files themselves, found by their names, decide
    return [*lines, *([features] if features else []), "---", ""]


def _body(manifest: Manifest, counts: Provenance, form: str, rows: int) -> list[str]:
    dropped = manifest.rows - manifest.kept
    lines = [
        f"# {manifest.name}",
        "",
        'Made with Gristmill. Load it with `datasets.load_dataset("path/to/this/folder", split="train")`.',
        "",
        f"- Rows in these files: {rows:,}, in the form `{form}`: {FEATURES[form]}",
        f"- Rows where they come from: {manifest.rows:,}, {manifest.kept:,} kept, {dropped:,} dropped",
        f"- Job: `{manifest.job}`, fingerprint `{manifest.fingerprint}`",
    ]
    lines += [f"- Made from ({role}): `{folder}`" for role, folder in sorted(manifest.inputs.items())]
    for title, first, counter in (
        ("Methods", "method", counts.methods),
        ("Models", "model", counts.models),
        ("Runs", "run", counts.runs),
        ("Languages of the kept rows", "language", counts.languages),
        ("Dropped by", "filter", counts.reasons),
    ):
        if counter:
            lines += ["", f"## {title}", "", f"| {first} | rows |", "|---|---:|"]
            lines += list(starmap("| {} | {:,} |".format, counter.most_common()))
    settings = json.dumps(public(dict(manifest.settings)), ensure_ascii=False, indent=1)
    return [*lines, "", "## Settings", "", "```json", settings, "```"]


def _recipe(store: Store, counts: Provenance) -> list[str]:
    """Return the lines with the recipe of the run that made most of the rows; none if the store has no such run."""
    run = next((run for run, _ in counts.runs.most_common(1)), "")
    if not run or not store.exists("runs", run, "recipe.json"):
        return []
    recipe = recipe_of(store, run)
    text = json.dumps(public({"name": recipe.name, **recipe.jobs}), ensure_ascii=False, indent=1)
    return ["", f"## Recipe of the run {run}", "", "```json", text, "```"]


def public(value: object) -> object:
    """Return settings with paths cut to their file names.

    A card is published, and the names of the user's folders should not be.
    """
    if isinstance(value, dict):
        return {key: _names(inner) if key == "path" else public(inner) for key, inner in value.items()}
    if isinstance(value, str) and value.startswith(("/", "~")):
        return value.rsplit("/", 1)[-1]
    return [public(inner) for inner in value] if isinstance(value, list) else value


def _names(paths: object) -> list[str]:
    listed = paths if isinstance(paths, list | tuple) else [paths]
    return [str(path).rsplit("/", 1)[-1] for path in listed]
