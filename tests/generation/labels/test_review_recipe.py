"""Reviews in recipes: files of verdicts, what the next job takes, the report, and the examples that ship."""

import asyncio
import json
from pathlib import Path

import pytest

from gristmill.cluster.cli.text import run_lines
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.io.ingest import Source, ingest
from gristmill.cluster.jobs.recipe import load, open_recipe
from gristmill.cluster.report import run as report
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Store
from gristmill.generation.contracts import Snapshot
from gristmill.generation.labels.job import Review
from gristmill.generation.methods.annotate import Annotate
from tests.fakes import ScriptedAsk
from tests.generation.reviews import ROWS, by_text, label_studio, queue_of, reviewed
from tests.invariants import samples_of
from tests.paths import EXAMPLES


def test_the_same_review_makes_the_same_bytes(store: Store, tmp_path: Path) -> None:
    other = Store(str(tmp_path / "other"))
    settings = Review(combine="dawid_skene", shard_rows=2)
    for place_ in (store, other):
        _, _, name = reviewed(place_, settings)
    assert [n for n in store.names(name) if n.endswith(".arrow")] == [f"shard-0000{n}.arrow" for n in range(3)]
    for file in store.names(name):
        if file != "figures.json":
            assert store.read_bytes(name, file) == other.read_bytes(name, file)


def test_a_reviewed_dataset_is_input_of_the_next_job_with_its_labels(store: Store, tmp_path: Path) -> None:
    path = label_studio(tmp_path, "said.json", ("还行吧", 1, "差评"))
    _, _, name = reviewed(store, Review(verdicts=(path,)))
    next_ = Store(str(tmp_path / "next"))
    seeds = samples_of(next_, ingest(next_, Source(path=(store.at(name, "*.arrow"),))))
    assert len(seeds) == 5
    assert {s.tags["label_source"] for s in seeds} == {"human", "majority"}
    last = Store(str(tmp_path / "last"))
    human = samples_of(last, ingest(last, Source(path=(store.at(name, "people.jsonl"),))))
    assert [(s.instruction, s.answer, s.tags["label"]) for s in human] == [("还行吧", "差评", "差评")]
    snapshot = Snapshot(0, seeds=human, documents=[Sample("f" * 32, (Message("user", "好"),))])
    shown = asyncio.run(Annotate(labels=("好评", "差评")).prepare(snapshot, None, ScriptedAsk()))
    for said in ("文字：还行吧", "标签：差评"):
        assert said in repr(shown), "what people said is what the next annotators see first"


RECIPE = """
[review]
input = "voted.jsonl"
combine = "dawid_skene"
queue = 2
verdicts = "said/*.json"
"""


def recipe_in(folder: Path, text: str = RECIPE) -> Path:
    lines = [{"messages": [m._asdict() for m in s.messages], "tags": dict(s.tags)} for s in ROWS[:5]]
    (folder / "voted.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "said").mkdir(exist_ok=True)
    path = folder / "mill.toml"
    path.write_text(f'store = "{folder}/store"\n{text}')
    return path


def test_a_recipe_finds_verdicts_beside_itself_and_they_are_part_of_what_is_made(tmp_path: Path) -> None:
    recipe, works = open_recipe(recipe_in(tmp_path))
    assert recipe.jobs["review"].plan(Store(recipe.store), works["review"]).notes[-1] == "0 files of verdicts"
    label_studio(tmp_path / "said", "a.json", ("谢谢", 1, "差评"))
    again, more = open_recipe(recipe_in(tmp_path))
    assert more["review"].output != works["review"].output
    assert again.jobs["review"].plan(Store(again.store), more["review"]).notes[-1] == "1 files of verdicts"


def test_what_is_wrong_with_verdicts_is_said_before_anything_starts(tmp_path: Path) -> None:
    path = recipe_in(tmp_path)
    (tmp_path / "said" / "a.json").write_text('[{"text": "x"}]')
    with pytest.raises(JobError, match=r"review\.verdicts: .*a\.json: entry 1: has neither"):
        load(path)
    with pytest.raises(JobError, match=r"review\.verdicts: .*gone\.json: no such file"):
        load(path, ['review.verdicts="gone.json"'])
    with pytest.raises(JobError, match=r"review\.labels: one appears twice"):
        load(path, ['review.labels=["a", "a"]', 'review.on_bad_verdict="skip"'])


def test_a_reviewed_dataset_stands_between_generate_and_select(tmp_path: Path) -> None:
    path = recipe_in(tmp_path, '[generate]\ninput = "voted.jsonl"\n[review]\n[select]\nsteps = [{kind = "exact"}]\n')
    _, works = open_recipe(path)
    assert list(works) == ["generate", "review", "select"]
    assert works["review"].inputs["samples"] == works["generate"].output
    assert works["select"].inputs["samples"] == works["review"].output


def test_the_report_and_the_summary_show_who_agrees_with_whom(store: Store, tmp_path: Path) -> None:
    path = label_studio(tmp_path, "said.json", ("谢谢", 1, "差评"))
    figures, _, name = reviewed(store, Review(min_confidence=0.6, verdicts=(path,)))
    outputs = {"generate": "generate-x", "review": name}
    store.write_json({"name": "x", "jobs": {}, "outputs": outputs}, "runs", "x-1", "recipe.json")
    ledger = Ledger(store, "runs/x-1")
    ledger.append("run_started", jobs=list(outputs))
    for job, output in outputs.items():
        ledger.append("job_started", job=job, output=output)
        ledger.append("job_done", job=job, output=output, figures=figures.to_json() if job == "review" else {})
    report.write(store, "x-1")
    page = store.read_bytes("runs", "x-1", "report.html").decode()
    table = page[page.index("<h2>Agreement on labels</h2>") :].split("</section>", maxsplit=1)[0]
    assert '<td>model and rule</td><td class="num">4</td><td class="num">75%</td>' in table
    assert "model, right by what people say" in table
    data = json.loads(page.split('<script id="data" type="application/json">')[1].split("</script>")[0])
    rows = {row["instruction"]: row for row in data["samples"]}
    assert rows["谢谢"]["answer"] == "差评", "the page shows the labels after the review"
    assert rows["还行吧"]["fate"] == "dropped before selection"
    said = "\n".join(run_lines(store, "x-1"))
    assert "Krippendorff's alpha of the annotators" in said
    assert "model right 0%" in said


def test_the_example_of_votes_from_elsewhere_is_reviewed_as_it_says(store: Store) -> None:
    recipe = load(EXAMPLES / "review_votes.toml")
    settings = recipe.jobs["review"]
    assert isinstance(settings, Review)
    assert settings.input is not None
    samples = samples_of(store, ingest(store, settings.input))
    figures, rows, name = reviewed(store, settings, samples)
    assert (figures.verdicts, figures.people, figures.disputed) == (12, 2, 1)
    assert by_text(rows)["Thank you for nothing: the form is still not there."].answer == "complaint"
    assert by_text(rows)["为什么垃圾总是没人收？"].tags["label_source"] == "human"
    assert queue_of(store, name)[0]["fields"]["text"].startswith("Why is nobody"), "what people dispute"
    assert figures.accuracy["dawid_skene"] >= figures.accuracy["keywords"]


def test_the_example_of_annotate_and_review_loads() -> None:
    recipe, works = open_recipe(EXAMPLES / "review.toml")
    assert list(recipe.jobs) == ["generate", "review"]
    assert works["review"].inputs["samples"] == works["generate"].output
