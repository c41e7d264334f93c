"""The select job through real actors with the hashing encoder, and what can be said without Ray."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest

from gristmill.cluster.contract.errors import JobError, RunError, SchemaError
from gristmill.cluster.contract.sample import Message, Sample, seed
from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.models import dtypes
from gristmill.cluster.models.encoder import Embedding
from gristmill.cluster.store.store import Store
from gristmill.selection.contracts import Choice, Selector, VectorsOf, View
from gristmill.selection.data.matrix import Float32
from gristmill.selection.embedding.actors import OpenEncoder, RowChoice, folder
from gristmill.selection.figures import SelectFigures, StepFigures
from gristmill.selection.job import Select, Selecting
from gristmill.selection.outcome.decisions import NO_TEXT
from gristmill.selection.selectors.diversity import Diversity
from gristmill.selection.selectors.exact import Exact
from gristmill.selection.selectors.quality import Quality
from gristmill.selection.selectors.semantic import Semantic
from gristmill.selection.selectors.substring import Substring
from tests.fakes import HashingEncoder, open_hashing_encoder
from tests.invariants import check_dataset, samples_of
from tests.paths import ROOT
from tests.selection.made import made, put, run_of, work_for

SETTINGS = Select(
    encoder=Embedding(cpus=1),
    steps=(Exact(), Semantic(min_cosine=0.9), Diversity(method="k_center", budget=20)),
    shard_rows=8,
    embed_dropped=3,
)


def rows() -> list[Sample]:
    """41 rows: 30 strangers, 2 exact and 2 near copies, 1 without text, 6 dropped before."""
    topics = ("river", "bread", "moon", "tax", "河流", "面包")
    strangers = [
        made(f"{n * 7919}: explain {topics[n % 6]} number {n * n}", f"answer {n}", judge=n % 4) for n in range(30)
    ]
    copies = [made(s.instruction.upper() + ".", s.answer) for s in strangers[:2]]
    near = [made(s.instruction + " ok", s.answer) for s in strangers[2:4]]
    silent = Sample(id="e" * 32, messages=(Message("system", "You are terse."),), method="self_instruct", round=1)
    dropped = [made(f"dropped {n}", dropped="length: 1 word, must be at least 3") for n in range(6)]
    return [*strangers, *copies, silent, *near, *dropped]


def dies_after(number: int, marker: str) -> type[HashingEncoder]:
    """An encoder whose process is killed once, in the middle of the work."""

    class Dying(HashingEncoder):
        def __init__(self, settings: object) -> None:
            del settings
            self.seen = 0

        def encode(self, texts: Sequence[str]) -> Float32:
            self.seen += len(texts)
            if self.seen > number and not Path(marker).exists():
                Path(marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().encode(texts)

    return Dying


def refuses(settings: object) -> HashingEncoder:
    del settings
    raise JobError("select.encoder.model: no such model")


def select(settings: Select, run: Run, work: Work, open_encoder: OpenEncoder) -> SelectFigures:
    return Selecting(settings, run, work, open_encoder).make()


def step_of(figures: SelectFigures, kind: str) -> StepFigures:
    return next(step for step in figures.steps if step.kind == kind)


def bytes_of(store: Store, name: str) -> dict[str, bytes]:
    return {n: store.read_bytes(name, n) for n in store.names(name) if n.endswith(".arrow") or n == "manifest.json"}


@pytest.mark.ray
def test_every_kept_sample_comes_out_kept_or_dropped_with_its_reason(
    ray_session: None, store: Store, tmp_path: Path
) -> None:
    samples = put(store, "generate-x", rows())
    seeds = put(store, "ingest-x", [seed([Message("user", "a seed"), Message("assistant", "yes")])])
    work = work_for(SETTINGS, samples, seeds)
    figures = select(SETTINGS, run_of(store, tmp_path), work, open_hashing_encoder)
    out = check_dataset(store, work.output)
    assert [s.id for s in out] == [s.id for s in rows() if s.dropped is None]
    assert figures.input_rows == 41
    assert figures.rows == len(out) == 35
    assert figures.embedded == 34 + 3 + 1
    assert [(step.kind, step.rows, step.kept) for step in figures.steps] == [
        ("exact", 34, 32),
        ("semantic", 32, 30),
        ("diversity", 30, 20),
    ]
    assert sum(sum(step.reasons.values()) for step in figures.steps) == 14
    assert {pair.step for pair in figures.pairs} >= {"exact", "semantic"}
    assert all(pair.text and pair.to_text for pair in figures.pairs)
    assert set(figures.baselines) >= {"chosen", "random", "longest"}
    assert figures.kept == 20
    assert figures.dropped == 15 == sum(s.dropped is not None for s in out)
    by_id = {s.id: s for s in out}
    assert by_id["e" * 32].dropped == NO_TEXT
    for lost in out:
        if "lost_to" in lost.tags:
            assert by_id[lost.tags["lost_to"]].dropped is None or lost.dropped is not None
    before = {s.id: s for s in rows()}
    assert all(
        (s.origin, s.parents, s.messages) == (before[s.id].origin, before[s.id].parents, before[s.id].messages)
        for s in out
    )
    assert {name for s in out for name in s.scores} >= {"semantic_distance", "k_center_distance"}
    manifest = store.manifest(work.output)
    assert store.manifest(manifest.metadata["vectors"]).rows == 37
    assert store.manifest(manifest.metadata["vectors"]).metadata["dtype"] == "float16"
    assert store.manifest(manifest.metadata["seed_vectors"]).rows == 1


@pytest.mark.ray
def test_vectors_that_are_continued_keep_what_their_encoder_computed_in(
    ray_session: None, store: Store, tmp_path: Path
) -> None:
    here = dtypes.choose(SETTINGS.encoder.model).dtype
    other: dtypes.DType = "bfloat16" if here == "float32" else "float32"
    for began in (here, other):
        opened = tmp_path / f"opened-{began}"
        mine = Store(f"{store.uri}-{began}")
        samples = put(mine, "generate-x", rows())
        vectors = folder(samples, SETTINGS.wanted, RowChoice(SETTINGS.embed_dropped), shard_rows=SETTINGS.shard_rows)[0]
        if began == other:
            dtypes.write(mine, vectors, {"encoder": dtypes.DTypeChoice(began, "the machine of yesterday")})

        def opens(settings: Embedding, path: Path = opened) -> HashingEncoder:
            path.write_text(settings.compute_dtype)
            return HashingEncoder()

        select(SETTINGS, run_of(mine, tmp_path), work_for(SETTINGS, samples), opens)
        assert opened.read_text() == began
        assert mine.manifest(vectors).metadata["compute_dtype"] == began
        assert not mine.exists(vectors, dtypes.DTYPES)


@pytest.mark.ray
def test_a_killed_actor_and_another_number_of_actors_change_no_byte(
    ray_session: None, store: Store, tmp_path: Path
) -> None:
    samples = put(store, "generate-x", rows())
    work = work_for(SETTINGS, samples)
    select(SETTINGS, run_of(store, tmp_path), work, open_hashing_encoder)
    other = Store(str(tmp_path / "other"))
    put(other, "generate-x", rows())
    marker = tmp_path / "killed"
    two = SETTINGS.model_copy(update={"encoder": Embedding(cpus=1, actors=2)})
    assert work_for(two, samples) == work
    select(two, run_of(other, tmp_path), work, dies_after(9, str(marker)))
    assert marker.exists()
    vectors = store.manifest(work.output).metadata["vectors"]
    assert bytes_of(store, vectors) == bytes_of(other, vectors)
    shards = [{n: b for n, b in bytes_of(s, work.output).items() if n != "manifest.json"} for s in (store, other)]
    assert shards[0] == shards[1]  # the manifest notes the settings, and with them the number of actors


def test_what_is_left_of_a_text_is_what_later_steps_read(store: Store, tmp_path: Path) -> None:
    passage, tail = (" ".join(f"{word}{n}" for n in range(many)) for word, many in (("stone", 60), ("leaf", 20)))
    holder, cut = (
        made("Tell me of stones.", passage, judge=5),
        made("And more of them?", f"{passage}. {tail}.", judge=3),
    )
    alike, other = made("What lies on the ground?", f"{tail}.", judge=4), made("Who sings?", "A bird.")
    put(store, "generate-x", [holder, cut, alike, other])
    settings = Select(steps=(Substring(max_cut=0.9), Exact(part="answer")))
    work = work_for(settings, "generate-x")
    select(settings, run_of(store, tmp_path), work, open_hashing_encoder)
    out = {s.id: s for s in check_dataset(store, work.output)}
    assert out[cut.id].answer.strip() == f"{tail}."
    assert out[cut.id].dropped == "exact: same answer"
    assert out[cut.id].tags["lost_to"] == alike.id
    assert [out[s.id].dropped for s in (holder, alike, other)] == [None] * 3


DRIVER = """
import sys, time
from pathlib import Path
from gristmill.cluster.runtime.session import session
from gristmill.cluster.store.store import Store
from tests.fakes import HashingEncoder
from tests.selection.made import run_of, work_for
from tests.selection.test_job import SETTINGS, select

class Slow(HashingEncoder):
    def __init__(self, settings): pass
    def encode(self, texts):
        time.sleep(1.5)
        return super().encode(texts)

with session("local", 1, 0):
    store = Store(sys.argv[1])
    select(SETTINGS, run_of(store, Path(sys.argv[2])), work_for(SETTINGS, "generate-x"), Slow)
"""


@pytest.mark.ray
def test_a_killed_driver_goes_on_behind_its_last_shard_to_the_same_bytes(
    ray_session: None, store: Store, tmp_path: Path
) -> None:
    put(store, "generate-x", rows())
    other = Store(str(tmp_path / "other"))
    put(other, "generate-x", rows())
    work = work_for(SETTINGS, "generate-x")
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(store.local), str(tmp_path)],
        env=environment,
        cwd=ROOT,
        stderr=subprocess.PIPE,
    )
    vectors = ""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and driver.poll() is None:
        vectors = next((n for n in store.names() if n.startswith("vectors-")), "")
        if vectors and len(store.committed(vectors)) >= 2:
            break
        time.sleep(0.1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    done = store.committed(vectors)
    assert 2 <= len(done) < 6, (driver.returncode, driver.stderr and driver.stderr.read()[-2000:])
    stamps = {n: (store.folder(vectors) / e.name).stat().st_mtime_ns for n, e in done.items()}
    figures = select(SETTINGS, run_of(store, tmp_path), work, open_hashing_encoder)
    assert stamps == {n: (store.folder(vectors) / e.name).stat().st_mtime_ns for n, e in done.items()}
    assert figures.embedded == 37 - sum(entry.rows for entry in done.values())
    select(SETTINGS, run_of(other, tmp_path), work, open_hashing_encoder)
    assert bytes_of(store, work.output) == bytes_of(other, work.output)
    assert bytes_of(store, vectors) == bytes_of(other, vectors)


@pytest.mark.ray
def test_vectors_are_shared_by_jobs_that_differ_in_their_steps(ray_session: None, store: Store, tmp_path: Path) -> None:
    samples = put(store, "generate-x", rows())
    select(SETTINGS, run_of(store, tmp_path), work_for(SETTINGS, samples), open_hashing_encoder)
    again = SETTINGS.model_copy(update={"steps": (Semantic(min_cosine=0.7),)})
    figures = select(again, run_of(store, tmp_path), work_for(again, samples), open_hashing_encoder)
    assert figures.embedded == 0


class OwnEncoder(Selector):
    """Wants vectors of answers, by settings that are not the job's, and shows what it got."""

    kind: str = "own"

    def wants(self, job: VectorsOf) -> VectorsOf | None:
        return VectorsOf(job.encoder.model_copy(update={"max_tokens": 17}), "answer")

    def pick(self, view: View, rng: Random) -> Choice:
        del rng
        expected = HashingEncoder().encode(view.texts("answer").to_pylist()).astype(np.float16)
        assert np.array_equal(view.unit("own").whole(), expected)
        return Choice(np.full(len(view), -1))


@pytest.mark.ray
def test_a_steps_own_encoder_reads_only_what_is_left(ray_session: None, store: Store, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"steps": (Exact(), OwnEncoder())})
    samples = put(store, "generate-x", rows(), shard_rows=7)
    work = work_for(settings, samples)
    figures = select(settings, run_of(store, tmp_path), work, open_hashing_encoder)
    assert figures.embedded == step_of(figures, "own").rows == 32  # of 34, without two exact copies
    again = SETTINGS.model_copy(update={"steps": (Exact(), OwnEncoder(), Quality(budget=5))})
    assert select(again, run_of(store, tmp_path), work_for(again, samples), open_hashing_encoder).embedded == 0
    every = SETTINGS.model_copy(update={"steps": (OwnEncoder(),)})
    figures = select(every, run_of(store, tmp_path), work_for(every, samples), open_hashing_encoder)
    assert figures.embedded == 34


@pytest.mark.ray
def test_an_encoder_that_cannot_be_opened_is_the_recipes_error(ray_session: None, store: Store, tmp_path: Path) -> None:
    samples = put(store, "generate-x", rows())
    with pytest.raises(JobError, match="no such model"):
        select(SETTINGS, run_of(store, tmp_path), work_for(SETTINGS, samples), refuses)


@pytest.mark.ray
def test_no_rows_at_all_make_an_empty_dataset(ray_session: None, store: Store, tmp_path: Path) -> None:
    samples = put(store, "generate-x", [])
    work = work_for(SETTINGS, samples)
    figures = select(SETTINGS, run_of(store, tmp_path), work, open_hashing_encoder)
    assert (figures.kept, figures.dropped) == (0, 0)
    assert samples_of(store, work.output) == []


def test_steps_without_vectors_need_no_ray_and_no_encoder(store: Store, tmp_path: Path) -> None:
    settings = Select(steps=(Exact(answers=False), Quality(budget=0.5)))
    samples = put(store, "generate-x", rows())
    work = work_for(settings, samples)
    assert not settings.uses_ray(store, work) and SETTINGS.uses_ray(store, work)
    assert settings.model_copy(update={"distributed": True}).uses_ray(store, work)
    figures = select(settings, run_of(store, tmp_path), work, refuses)
    assert figures.kept == 16
    assert "vectors" not in store.manifest(work.output).metadata
    check_dataset(store, work.output)


def test_a_shard_ends_where_its_texts_are_long(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Select(steps=(Exact(answers=False),))
    samples = put(store, "generate-x", rows(), shard_rows=10)
    work = work_for(settings, samples)
    bytes_ = max(store.read_shard(samples, shard).nbytes for shard in store.manifest(samples).shards)
    monkeypatch.setattr("gristmill.selection.outcome.decisions.SHARD_BYTES", bytes_ // 2)
    select(settings, run_of(store, tmp_path), work, refuses)
    shards = store.manifest(work.output).shards
    assert 4 < len(shards) < 18 and len({shard.rows for shard in shards[:-1]}) == 1
    assert all(store.read_shard(work.output, shard).nbytes < bytes_ for shard in shards)
    check_dataset(store, work.output)


@pytest.mark.parametrize("others", [0, 1])
def test_samples_without_text_go_though_hardly_any_has_one(store: Store, tmp_path: Path, others: int) -> None:
    silent = [Sample(f"{n:032x}", (Message("system", "You are terse."),)) for n in range(3)]
    settings = Select(steps=(Exact(),))
    work = work_for(settings, put(store, "generate-x", [*silent, *(made(f"question {n}") for n in range(others))]))
    figures = select(settings, run_of(store, tmp_path), work, refuses)
    assert (figures.kept, figures.dropped) == (others, 3)
    assert [s.dropped for s in samples_of(store, work.output)][:3] == [NO_TEXT] * 3


def test_an_id_that_stands_twice_is_refused(store: Store, tmp_path: Path) -> None:
    settings = Select(steps=(Exact(),))
    samples = put(store, "generate-x", [made("a"), made("a")])
    with pytest.raises(SchemaError, match="comes twice"):
        select(settings, run_of(store, tmp_path), work_for(settings, samples), refuses)


def test_the_plan_knows_the_rows_and_whether_it_was_done(store: Store) -> None:
    work = work_for(SETTINGS, "generate-x")
    assert SETTINGS.plan(store, work).state == "to do"
    put(store, "generate-x", rows())
    plan = SETTINGS.plan(store, work)
    assert (plan.samples, plan.shards, plan.actors, plan.notes[0]) == (35, 5, 1, "exact -> semantic -> diversity")
    assert "GiB" in plan.notes[1]


def test_an_absent_model_is_found_before_anything_runs() -> None:
    wrong = Select(encoder=Embedding(model="builtin:none"))
    assert wrong.check(Path())[0].startswith("encoder.model: builtin:none: no such builtin model")
    assert Select(encoder=Embedding(model="builtin:none"), steps=(Exact(),)).check(Path()) == []


def test_where_and_how_fast_is_no_part_of_the_identity() -> None:
    base = Select()
    assert base.fingerprint() == Select(encoder=Embedding(actors=4, cpus=3)).fingerprint()
    assert base.fingerprint() != Select(encoder=Embedding(max_tokens=64)).fingerprint()
    assert base.fingerprint() != Select(steps=(Exact(), Semantic(min_cosine=0.9))).fingerprint()


def test_a_step_that_would_lose_too_much_stops_the_job_and_leaves_the_pairs(store: Store, tmp_path: Path) -> None:
    copies = [made("Name a river.", f"The {n}th.") for n in range(1200)]
    samples = put(store, "generate-x", [*copies, *(made(f"question {n}", "x") for n in range(100))], 200)
    settings = Select(steps=(Exact(answers=False),))
    with pytest.raises(RunError, match=r"select.steps.0 \(exact\): 1,199 of 1,300 samples would be lost to one"):
        select(settings, run_of(store, tmp_path), work_for(settings, samples), refuses)
    stopped = store.read_json("runs", "test-run", "stopped.json")
    assert stopped["pairs"][0]["text"] == stopped["pairs"][0]["to_text"] == "Name a river."
    allowed = Select(steps=(Exact(max_group=1.0, max_loss=1.0, answers=False),))
    figures = select(allowed, run_of(store, tmp_path), work_for(allowed, samples), refuses)
    assert figures.kept == 101


def test_the_same_rows_in_other_shards_make_the_same_choice(store: Store, tmp_path: Path) -> None:
    settings = Select(steps=(Exact(), Quality(budget=0.5)))
    kept = []
    for name, order, shard_rows in (("generate-a", rows(), 10), ("generate-b", rows()[::-1], 7)):
        work = work_for(settings, put(store, name, order, shard_rows))
        select(settings, run_of(store, tmp_path), work, refuses)
        kept.append({s.id for s in samples_of(store, work.output) if s.dropped is None})
    assert kept[0] == kept[1]
