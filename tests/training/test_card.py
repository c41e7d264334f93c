"""The export of a trained model: its files, and a card with what it was made of and its results."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.cli.main import main
from gristmill.cluster.contract.sample import to_table
from gristmill.cluster.store.store import Manifest, Store, file_shard
from gristmill.training.figures import ModelFigures, SuiteFigures
from tests.cluster.report.test_report import EVALUATED, TRAINED
from tests.training.conftest import chats

BASE, MODEL = "builtin:smollm2-135m-instruct", "train-0123456789ab"


def suite() -> SuiteFigures:
    models = (
        ModelFigures(model="/home/someone/models/base", value=0.5, low=0.4, high=0.6),
        ModelFigures(model=MODEL, value=0.75, low=0.7, high=0.8, difference=0.25, ci_low=0.1, ci_high=0.4, p=0.01,
                     p_adjusted=0.02),
    )  # fmt: skip
    return SuiteFigures(
        suite="reviews", folder="suite-1", kind="labels", role="target", made=True, items=80, families=70, unasked=0,
        effect=0.05, models=models,
    )  # fmt: skip


def put(store: Store, base: str = BASE, *, adapter: bool = True, evaluated: bool = True) -> Path:
    """A store with eight seeds, six selected rows of which two are held out, a model, and its evaluation."""
    rows = chats(8)
    made = [replace(row, method="evol_instruct") for row in rows[:6]]
    for name, job, some, inputs in (
        ("ingest-1", "ingest", rows, {}),
        ("select-1", "select", [*made[:5], made[5].drop("exact: copy")], {"samples": "ingest-1"}),
    ):
        shard = store.commit_shard(name, "shard-00000", to_table(some))
        store.commit(Manifest(name, "samples", job, "0" * 32, inputs, {}, (shard,)))
    folder = store.folder(MODEL)
    for part in ("merged", *(("adapter",) if adapter else ())):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        (folder / part / "weights.safetensors").write_bytes(part.encode() * 100)
    held = store.commit_shard(MODEL, "holdout", to_table(made[:2]))
    store.write_json({"near copy of a test row": [made[4].id]}, MODEL, "left_out.json")
    files = [file_shard(path, folder) for path in sorted(folder.rglob("*")) if path.parent != folder]
    settings = {"model": base, "learning_rate": 0.001, "template": "/home/someone/chat.jinja"}
    manifest = Manifest(MODEL, "model", "train", "0" * 32, {"samples": "select-1"}, settings, (held, *files))
    figures = replace(TRAINED, kept=2, holdout=2, families=2, trials=4, chosen={"learning_rate": 0.001},
                      fold_losses=(2.0, 3.0))  # fmt: skip
    store.commit(manifest, figures.to_json())
    if evaluated:
        evaluation = Manifest("evaluate-1", "evaluation", "evaluate", "0" * 32, {"model": MODEL}, {}, ())
        store.commit(evaluation, replace(EVALUATED, suites=(suite(),)).to_json())
    store.write_json({"name": "night", "outputs": {"train": MODEL}}, "runs", "night-1", "recipe.json")
    return folder


def export(store: Store, target: Path, form: str = "model", code: int = 0) -> str:
    assert main(["export", "night", str(target), "--form", form, "--store", store.uri]) == code
    return (target / "README.md").read_text(encoding="utf-8") if code == 0 else ""


def test_the_card_says_what_the_model_was_made_of_and_how_well_it_does(store: Store, tmp_path: Path) -> None:
    folder = put(store)
    card = export(store, tmp_path / "out")
    for part in (
        'base_model: "HuggingFaceTB/SmolLM2-135M-Instruct"\nlicense: "apache-2.0"\nlibrary_name: transformers\n',
        "| evol_instruct | 2 |",
        "| `ingest-1` | ingest | 8 | 8 | `",
        "| `select-1` | select | 6 | 5 | `",
        "Held-out loss 3.0000 before and 2.5000 after training, in nats per token: difference -0.5000 [-0.700, -0.300]",
        "| reviews (labels, target, made by a model) | 80 | base | 0.500 [0.400, 0.600] |  |  |  |",
        f"| 80 | {MODEL} | 0.750 [0.700, 0.800] | +0.250 [0.100, 0.400] | 0.020 | better |",
        'Settings are the best of 4 trials: {"learning_rate": 0.001}.',
        "held-out loss of 2 folds 2.5000, standard deviation 0.7071",
        '"learning_rate": 0.001',
    ):
        assert part in card, card
    assert "/home/someone" not in card, "the user's folders are not published"
    assert card.index("ingest-1") < card.index("select-1"), "the oldest is first"
    for name in ("config.json", "weights.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / "merged" / name).read_bytes()
    adapter = export(store, tmp_path / "adapter", "adapter")
    assert "library_name: peft" in adapter and "An adapter (PEFT)." in adapter
    assert (tmp_path / "adapter/weights.safetensors").read_bytes().startswith(b"adapter")


def test_the_licence_is_that_of_the_base_or_said_to_be_unknown(store: Store, tmp_path: Path) -> None:
    base = tmp_path / "my-base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: mit\ntags: [x]\n---\n# Base\nlicense: none of this\n")
    put(store, str(base), evaluated=False)
    card = export(store, tmp_path / "one")
    assert 'base_model: "my-base"\nlicense: "mit"\n' in card and "has not been evaluated" in card
    (base / "README.md").unlink()
    card = export(store, tmp_path / "two")
    assert "\nlicense:" not in card and "The licence of the base model is not known" in card


def test_what_cannot_be_exported_is_one_clear_line(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = put(store, adapter=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    wanted: list[tuple[Any, str, int, str]] = [
        (tmp_path / "out", "adapter", 2, "has no adapter, its tuning makes none"),
        (tmp_path / "full", "model", 2, "must be a local folder that is absent or empty"),
        ("s3://bucket/model", "model", 2, "must be a local folder that is absent or empty"),
    ]
    for target, form, code, must in wanted:
        export(store, target, form, code)
        (line,) = capsys.readouterr().err.splitlines()
        assert must in line
    weights = folder / "merged/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[::-1])
    export(store, tmp_path / "out", "model", 1)
    assert "content does not match its digest" in capsys.readouterr().err
    assert json.loads((folder / "manifest.json").read_text())["name"] == MODEL
