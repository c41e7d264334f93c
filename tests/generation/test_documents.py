"""The recipes that take documents, as whole jobs on the scripted engine: every row says what it is made from."""

from dataclasses import replace

import pytest

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.io.ingest import ingest
from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.jobs.recipe import load
from gristmill.cluster.models.engine import Choose, Reply, Request
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Store
from gristmill.generation.job import Generate
from tests.fakes import ScriptedEngine
from tests.generation.ground import Loop
from tests.invariants import check_dataset, samples_of
from tests.paths import EXAMPLES


class AskingEngine(ScriptedEngine):
    """Replies that are questions, made of words of the prompt, so that rules on words find something."""

    async def ask(self, request: Request) -> Reply:
        reply = await super().ask(request)
        if isinstance(request, Choose):
            return reply
        words = request.prefix.split()[-12:]
        return replace(reply, text=f"{reply.text} {' '.join(words)}?", finish="stop")


def made(store: Store, name: str) -> tuple[list[Sample], dict[str, Sample]]:
    """Run a recipe of the examples and return its rows and all samples that they can be made from, by id."""
    generate = load(EXAMPLES / f"{name}.toml").jobs["generate"]
    assert isinstance(generate, Generate)
    inputs = {role: ingest(store, source) for role, source in generate.sources().items()}
    work = Work(f"generate-{name}", "f" * 32, inputs)
    run = Run("run", store, Ledger(store, "run"), Screen(quiet=True), None)
    generate.drive(run, work, Loop(run, generate, work, AskingEngine))
    given = {sample.id: sample for folder in inputs.values() for sample in samples_of(store, folder)}
    return check_dataset(store, work.output, *inputs.values()), given


@pytest.mark.parametrize("name", ["grounded", "annotate", "retrieve"])
def test_the_recipe_makes_rows_whose_parents_are_known(name: str, store: Store) -> None:
    rows, given = made(store, name)
    kept = [row for row in rows if row.dropped is None]
    assert len(kept) == 12 and {row.method for row in rows} == {name}
    assert not [row.dropped for row in rows if "failed" in str(row.dropped)]
    assert all({*row.parents} <= {*given} and row.parents for row in rows)
    if name == "grounded":
        for row in kept:
            chunks = [given[parent].tags["chunk"] for parent in row.parents]
            assert row.tags["chunk"] == "; ".join(chunks) and row.scores["faithfulness"] >= 0.5
    if name == "annotate":
        assert all(row.tags["label"] == row.answer and row.scores["confidence"] >= 0.5 for row in kept)
        assert all(row.instruction == given[row.parents[0]].instruction for row in rows)
    if name == "retrieve":
        assert all(len(row.parents) == 4 for row in kept), "the seed and three that are related to it"
