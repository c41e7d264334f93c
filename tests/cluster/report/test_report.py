"""The report: everything that is there, nothing that is not, and no text that can break the page."""

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gristmill.cluster.contract.errors import StoreError
from gristmill.cluster.contract.sample import Message, Origin, Sample, seed, to_table
from gristmill.cluster.contract.schema import vectors as vectors_schema
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.report import charts as report_charts
from gristmill.cluster.report import run as report
from gristmill.cluster.report.material import MAX_ROWS, plain_reason
from gristmill.cluster.report.page import script_safe
from gristmill.cluster.store.ledger import Ledger, lock
from gristmill.cluster.store.store import Manifest, Store
from gristmill.generation.figures import GenerateFigures
from gristmill.selection.figures import SelectFigures, StepFigures
from gristmill.training.figures import EvaluateFigures, TrainFigures

RUN = "night-1a2b3c4d"
NASTY = "</script><script>alert('x')</script> & <b>bold</b> \u2028"
SEED = seed([Message("user", "写一首关于春天的诗"), Message("assistant", "春风又绿江南岸")])


def made(number: int, instruction: str, dropped: str | None = None, **scores: float) -> Sample:
    origin = Origin(RUN, "0" * 32, "scripted", 7, 10, 5, "stop")
    messages = (Message("user", instruction), Message("assistant", f"answer {number}"))
    return Sample(f"{number:032x}", messages, (SEED.id,), "self_instruct", 1, scores, {}, dropped, origin)


SAMPLES = [
    made(1, "列举三条河流", judge=4.5, novelty=0.9),
    made(2, NASTY, judge=3.5, novelty=0.8),
    made(3, "Name three rivers", judge=3.0, novelty=0.5),
    made(4, "Name", "length: 1 word, must be at least 3"),
    made(5, "Name a lake", f"novelty: too near {SEED.id}", novelty=0.1),
    made(6, "Name a pond", "novelty: too near " + "a" * 32, novelty=0.2),
]


def put(store: Store, name: str, samples: list[Sample], **metadata: str) -> None:
    shard = store.commit_shard(name, "shard-00000", to_table(samples))
    job = name.split("-", maxsplit=1)[0]
    inputs = {"samples": "generate-1"} if job == "select" else {}
    manifest = Manifest(name, "samples", job, "f" * 32, inputs, {}, (shard,), metadata=metadata)
    store.commit(manifest, figures_of(job, manifest.rows, manifest.kept).to_json())


def figures_of(job: str, rows: int, kept: int, **more: Any) -> Figures:
    """Figures of a job that took two seconds."""
    both: dict[str, Any] = {"rows": rows, "kept": kept, "seconds": 2.0}
    if job == "generate":
        work: dict[str, Any] = {
            "acceptance": 0.5,
            "tokens_per_kept": 10.0,
            "engine_start_s": 1.0,
            "engine_seconds_per_kept": 0.1,
        }
        return GenerateFigures(**both, drafts=rows, prefix_cache_hit_rate=0.5, **work, **more)
    if job == "select":
        return SelectFigures(**both, input_rows=rows, dropped=rows - kept, embedded=0, samples_per_s=1.0, **more)
    return Figures(**both, **more)


def step(kind: str, rows: int, kept: int, **more: Any) -> StepFigures:
    return StepFigures(kind=kind, rows=rows, kept=kept, **{"seconds": 0.1, **more})


def put_vectors(store: Store, name: str, samples: list[Sample]) -> None:
    schema = vectors_schema(3)
    values = np.random.default_rng(0).normal(size=(len(samples), 3)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=schema.field("vector").type)
    names, scripts = pa.array([s.id for s in samples], pa.string()), pa.array(["Latin"] * len(samples), pa.string())
    unknown = pa.array([0.0] * len(samples), pa.float32())
    table = pa.Table.from_arrays([names, scripts, unknown, column], schema=schema)
    shard = store.commit_shard(name, "shard-00000", table, compress=False)
    store.commit(Manifest(name, "vectors", "embed", "f" * 32, {}, {}, (shard,), metadata={"dim": "3"}))


def rewrite(store: Store, name: str, figures: Figures) -> None:
    store.write_json(figures.to_json(), name, "figures.json")


TRAINED = TrainFigures(
    rows=2, kept=1, holdout=1, families=1, dropped=0, packed_rows=1, steps=4, precision="fp32", tokens=36,
    trained_tokens=20, step_seconds=1.0, starts=1, seconds=4.0, drop_reasons={"template refuses: no": 3},
    notes={"answers not used: too long": 2}, separation="mask",
)  # fmt: skip
EVALUATED = EvaluateFigures(
    rows=1, kept=1, loss_before=3.0, loss_after=2.5, perplexity_before=20.1, perplexity_after=12.2, difference=-0.5,
    ci_low=-0.7, ci_high=-0.3, interval="bootstrap", families=40, families_better=39, families_worse=1, sign_p=1e-9,
    detectable=0.2, precision="fp32", smoke_replies=1, smoke_ok=1, seconds=1.0,
)  # fmt: skip


def begin(store: Store, **outputs: str) -> Ledger:
    jobs = {
        "generate": {"filters": [{"kind": "novelty"}, {"kind": "length"}]},
        "select": {"steps": [{"kind": "exact"}, {"kind": "semantic"}]},
    }
    store.write_json({"name": "night", "jobs": jobs, "outputs": outputs}, "runs", RUN, "recipe.json")
    ledger = Ledger(store, f"runs/{RUN}")
    ledger.append("run_started", jobs=list(outputs))
    for job, output in outputs.items():
        ledger.append("job_started", job=job, output=output)
    return ledger


def whole_run(store: Store) -> None:
    put(store, "ingest-1", [SEED])
    put(store, "generate-1", SAMPLES)
    lost = SAMPLES[2]
    lost = Sample(
        **{n: getattr(lost, n) for n in ("id", "messages", "parents", "method", "round", "origin")},
        scores={**lost.scores, "semantic_distance": 0.03},
        tags={"lost_to": SAMPLES[0].id},
        dropped=f"semantic: cosine 0.97 to {SAMPLES[0].id}",
    )
    chosen = [*SAMPLES[:2], lost]
    put(store, "select-1", chosen, vectors="vectors-1", seed_vectors="vectors-2")
    steps = (step("exact", 3, 3), step("semantic", 3, 2))
    rewrite(store, "select-1", figures_of("select", 3, 2, steps=steps))
    put_vectors(store, "vectors-1", SAMPLES)
    put_vectors(store, "vectors-2", [SEED])
    lines: list[dict[str, float]] = [
        {"start": 0},
        *({"step": n, "loss": 3 - n / 10, "tokens": 9} for n in range(1, 5)),
        {"end": 4},
    ]
    lines[4]["holdout_loss"] = 2.9
    store.write_bytes("".join(json.dumps(line) + "\n" for line in lines).encode(), "train-1", "metrics.jsonl")
    store.commit(Manifest("train-1", "model", "train", "f", {}, {}, ()), TRAINED.to_json())
    told = [{"prompt": "Name a lake", "reply": "The <Bodensee>", "reference": "Garda", "ok": True}]
    store.write_json({"smoke": told}, "evaluate-1", "evaluation.json")
    store.commit(Manifest("evaluate-1", "evaluation", "evaluate", "f", {}, {}, ()), EVALUATED.to_json())
    ledger = begin(store, generate="generate-1", select="select-1", train="train-1", evaluate="evaluate-1")
    ledger.append("job_done", job="ingest", output="ingest-1", figures={})
    for job in ("generate", "select", "train", "evaluate"):
        ledger.append("job_done", job=job, output=f"{job}-1", figures={})
    ledger.append("run_done")


def page_of(store: Store, max_rows: int = MAX_ROWS) -> tuple[str, dict[str, Any]]:
    """The page without Plotly's own script, and the data in it."""
    path = report.write(store, RUN, max_rows)
    assert path == store.at("runs", RUN, "report.html")
    page = store.read_bytes("runs", RUN, "report.html").decode()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.https?:", page), "the page asks the network"
    plotly = re.compile(r"<script>(?!\s*\"use strict\")(?=.{0,200}plotly).*?</script>", re.DOTALL)
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found
    return plotly.sub("", page), json.loads(found.group(1))


def bars_of(data: dict[str, Any], number: int) -> dict[str, str]:
    trace = data["figures"][f"chart-{number}"]["data"][0]
    return dict(zip(trace["customdata"], trace["text"], strict=True))


def test_a_whole_run_shows_the_funnel_the_reasons_and_the_losses(store: Store) -> None:
    whole_run(store)
    page, data = page_of(store)
    assert bars_of(data, 0) == {
        "seeds": "1",
        "drafts": "6  (100%)",
        "after novelty": "4  (67%)",
        "after length": "3  (50%)",
        "after exact": "3  (50%)",
        "after semantic": "2  (33%)",
        "kept": "2  (33%)",
        "trained on": "1  (17%)",
        "held out": "1  (17%)",
    }
    assert bars_of(data, 1) == {
        "novelty: too near another sample": "2",
        "length: … word, must be at least …": "1",
        "semantic: cosine to another sample": "1",
    }
    for heading in (
        "From seeds to data",
        "Scores",
        "Lengths",
        "Map of meanings",
        "Training",
        "Evaluation",
        "Samples",
        "Jobs",
    ):
        assert f"<h2>{heading}</h2>" in page
    for line in ("template refuses: no", "answers not used: too long", "packed samples are kept apart by: mask"):
        assert line in page
    assert "3.000 → 2.500" in page
    assert "-0.7000 to -0.3000" in page
    assert "<b>50%</b>" in page
    assert "The &lt;Bodensee&gt;" in page
    assert 'class="badge done"' in page


def test_measures_while_training_have_a_chart_and_losses_their_unit(store: Store) -> None:
    whole_run(store)
    measured = {"holdout_loss": 2.5, "measures": {"accuracy": 0.5, "macro_f1": 0.25}}
    lines = [{"step": n, "loss": 3.0, **(measured if n % 2 == 0 else {})} for n in range(1, 5)]
    store.write_bytes("".join(json.dumps(line) + "\n" for line in lines).encode(), "train-1", "metrics.jsonl")
    trained = replace(TRAINED, unit="text", metric="macro_f1", measures={"accuracy": 0.75, "macro_f1": 0.625})
    store.write_json(trained.to_json(), "train-1", "figures.json")
    store.write_json(replace(EVALUATED, unit="text").to_json(), "evaluate-1", "figures.json")
    page, data = page_of(store)
    assert "Measures while training" in page and "Held out: accuracy 0.750, macro_f1 0.625." in page
    curves = [
        one["data"]
        for one in data["figures"].values()
        if {t.get("name") for t in one["data"]} == {"accuracy", "macro_f1"}
    ]
    assert [(trace["x"], trace["y"]) for trace in curves[0]] == [([2, 4], [0.5, 0.5]), ([2, 4], [0.25, 0.25])]
    titles = json.dumps(data["figures"])
    assert "loss, nats per text" in titles and "per token" not in titles + page


def test_the_map_colours_every_fate_and_the_seeds(store: Store) -> None:
    whole_run(store)
    _, data = page_of(store)
    names = [trace["name"] for trace in data["figures"][data["map"]]["data"]]
    assert names == ["dropped before selection (3)", "dropped in selection (1)", "kept (2)", "seed (1)"]
    seeds = data["figures"][data["map"]]["data"][3]
    assert seeds["text"] == ["写一首关于春天的诗"]


def test_a_sample_comes_with_its_parents_its_winner_and_its_origin(store: Store) -> None:
    whole_run(store)
    _, data = page_of(store)
    by_id = {entry["id"]: entry for entry in data["samples"]}
    assert len(by_id) == 6
    lost = by_id[SAMPLES[2].id]
    assert lost["fate"] == "dropped in selection"
    assert lost["lost_to"] == {"id": SAMPLES[0].id, "text": "列举三条河流"}
    assert lost["parents"] == [{"id": SEED.id, "text": "写一首关于春天的诗"}]
    assert lost["origin"]["model"] == "scripted"
    assert lost["scores"]["judge"] == 3.0
    assert by_id[SAMPLES[3].id]["fate"] == "dropped before selection"


def test_no_text_of_a_sample_can_leave_its_place(store: Store) -> None:
    whole_run(store)
    page, data = page_of(store)
    assert "alert('x')</script>" not in page
    assert "<b>bold" not in page
    nasty = next(entry for entry in data["samples"] if "alert" in entry["instruction"])
    assert nasty["instruction"] == NASTY
    hovers = [text for trace in data["figures"][data["map"]]["data"] for text in trace["text"]]
    assert all("<b>" not in text and "<script" not in text for text in hovers)


def test_a_run_that_has_just_begun_has_a_page(store: Store) -> None:
    begin(store, generate="generate-1", select="select-1")
    assert 'class="badge stopped"' in page_of(store)[0], "its driver is gone"
    with lock(store, f"runs/{RUN}"):
        page, data = page_of(store)
    assert "<h2>Samples</h2>" not in page
    assert data == {"figures": {}, "map": "", "samples": []}
    assert 'class="badge running"' in page


def test_a_failed_run_says_why(store: Store) -> None:
    begin(store, generate="generate-1").append("run_failed", error="engine died: <no memory>")
    page, _ = page_of(store)
    assert "engine died: &lt;no memory&gt;" in page
    assert 'class="badge failed"' in page


def test_only_select_on_data_from_outside(store: Store) -> None:
    put(store, "generate-1", SAMPLES)  # stands for what was ingested
    put(store, "select-1", SAMPLES[:3])
    begin(store, select="select-1").append("job_done", job="select", output="select-1", figures={})
    page, data = page_of(store)
    assert list(bars_of(data, 0)) == ["samples read", "after length", "after novelty", "kept"]
    assert "Map of meanings" not in page
    assert "Training" not in page


def test_empty_datasets_make_a_page(store: Store) -> None:
    put(store, "ingest-1", [])
    put(store, "generate-1", [])
    put(store, "select-1", [], vectors="vectors-1")
    put_vectors(store, "vectors-1", [])
    ledger = begin(store, generate="generate-1", select="select-1")
    ledger.append("job_done", job="ingest", output="ingest-1", figures={})
    _, data = page_of(store)
    assert data["samples"] == []
    assert bars_of(data, 0) == {"seeds": "0"}


def test_the_table_is_bounded_and_says_so(store: Store) -> None:
    kept = [made(n, f"kept {n}") for n in range(400)]
    dropped = [made(n, f"dropped {n}", "length: too short") for n in range(400, 1000)]
    put(store, "generate-1", [*dropped, *kept])
    begin(store, generate="generate-1")
    page, data = page_of(store)
    assert len(data["samples"]) == report.MAX_TABLE == 500
    assert sum(entry["fate"] == "kept" for entry in data["samples"]) == 250
    assert "500 of 1,000 samples" in page


def test_the_same_store_makes_the_same_page(store: Store) -> None:
    whole_run(store)
    report.write(store, RUN)
    first = store.read_bytes("runs", RUN, "report.html")
    report.write(store, RUN)
    assert store.read_bytes("runs", RUN, "report.html") == first


def test_an_unknown_run_is_named(store: Store) -> None:
    with pytest.raises(StoreError, match="no-such-run"):
        report.write(store, "no-such-run")


@pytest.mark.parametrize(
    ("reason", "plain"),
    [
        ("judge: below threshold", "judge: below threshold"),
        (f"exact: same instruction as {'b' * 32}", "exact: same instruction as another sample"),
        (f"semantic: cosine 0.97 to {'0' * 32}", "semantic: cosine to another sample"),
        ("language: answer not in en or zh", "language: answer not in en or zh"),
        ("no colon 12", "no colon 12"),
    ],
)
def test_reasons_lose_what_belongs_to_one_sample(reason: str, plain: str) -> None:
    assert plain_reason(reason) == plain


def test_json_in_the_page_is_json_and_ends_no_script() -> None:
    text = script_safe({"a": NASTY})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": NASTY}


def test_a_histogram_counts_every_number_once() -> None:
    values = {"kept": np.array([1.0, 2.0, 2.0, 50.0, np.nan]), "dropped in selection": np.array([])}
    (trace,) = report_charts.histograms(values, "x", clip=True)["data"]
    assert sum(trace["customdata"]) == 2 * 4  # each step of the staircase has two corners
    assert sum(trace["y"]) == pytest.approx(200, abs=0.1)


def test_the_map_is_the_plane_of_most_variance_and_settles_its_signs() -> None:
    rng = np.random.default_rng(1)
    plane = rng.normal(size=(200, 2)) * [5.0, 2.0]
    basis = np.linalg.qr(rng.normal(size=(10, 10)))[0][:2]
    vectors = (plane @ basis).astype(np.float32)
    points, share = report_charts.flat_2d(vectors)
    assert share == pytest.approx(1, abs=1e-6)
    before = np.linalg.norm(plane[:, None] - plane[None], axis=2)
    after = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.testing.assert_allclose(before, after, atol=1e-4)
    np.testing.assert_allclose(np.abs(report_charts.flat_2d(-vectors)[0]), np.abs(points), atol=1e-6)
    assert report_charts.flat_2d(vectors[:1])[0].shape == (1, 2)
    assert report_charts.flat_2d(vectors[:0])[0].shape == (0, 2)


def test_long_chinese_text_is_broken_into_lines() -> None:
    lines = report_charts.hover("河" * 130).split("<br>")
    assert [len(line) for line in lines] == [60, 60, 10]
    assert report_charts.hover("a<b").count("&lt;") == 1


def test_surplus_drafts_count_as_accepted_in_the_number_and_in_the_words(store: Store) -> None:
    put(store, "generate-1", [*SAMPLES, made(7, "Name a sea", "target: surplus")])
    begin(store, generate="generate-1").append("job_done", job="generate", output="generate-1", figures={})
    page, _ = page_of(store)
    assert "<b>57%</b><span>4 of 7 drafts, 1 of them more than were wanted</span>" in page


def test_the_rounds_of_generation_are_drawn(store: Store) -> None:
    rounds = [
        {"round": 1, "discriminator human": 40},
        {"round": 2, "discriminator human": 60, "discriminator accuracy": 0.8},
        {"round": 3, "discriminator human": 60, "discriminator accuracy": 0.55},
    ]
    put(store, "generate-1", SAMPLES)
    rewrite(store, "generate-1", figures_of("generate", 6, 3, by_round=tuple(rounds)))
    begin(store, generate="generate-1").append("job_done", job="generate", output="generate-1", figures={})
    page, data = page_of(store)
    assert "<h2>Round by round</h2>" in page
    lines = {t["name"]: (t["x"], t["y"]) for f in data["figures"].values() for t in f["data"] if "name" in t}
    assert lines["discriminator accuracy"] == ([2, 3], [0.8, 0.55])
    assert lines["discriminator human"] == ([1, 2, 3], [40, 60, 60])


def test_the_novelty_chart_says_where_it_stops_telling_apart(store: Store) -> None:
    put(store, "generate-1", SAMPLES)
    filters = [{"kind": "novelty", "max_similarity": 0.7, "exact_from": 0.4}]
    begin(store, generate="generate-1").append("job_done", job="generate", output="generate-1", figures={})
    recipe = {"name": "night", "jobs": {"generate": {"filters": filters}}, "outputs": {"generate": "generate-1"}}
    store.write_json(recipe, "runs", RUN, "recipe.json")
    assert "0.6 means 0.6 or more" in page_of(store)[0]
