"""The data that recipes make with the scripted engine, pinned by digest: what moves the code must not change it.

Whoever changes data on purpose raises the `revision` of the class, and pins the new digests:

    python -m tests.test_pinned
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import RunError
from gristmill.cluster.jobs.recipe import open_recipe
from gristmill.cluster.store.store import Store
from gristmill.selection.job import Select
from gristmill.selection.selectors.balance import Balance
from gristmill.selection.selectors.exact import Exact
from gristmill.selection.selectors.longest import Longest
from gristmill.selection.selectors.minhash import MinHash
from gristmill.selection.selectors.substring import Substring
from tests.generation.ground import WORK, a_run, contents, ground, job, with_seeds
from tests.selection.made import work_for
from tests.test_examples import RECIPES

KNOWN = Path(__file__).parent / "pinned.json"
METHODS: tuple[dict[str, object], ...] = (
    {"kind": "self_instruct"},
    {"kind": "evol_instruct"},
    {"kind": "magpie"},
    {"kind": "persona"},
    {"kind": "taxonomy"},
    {"kind": "respond"},
    {"kind": "multi_turn"},
    {"kind": "augment"},
    {"kind": "retrieve"},
    {"kind": "backtranslation"},
    {"kind": "grounded"},
    {"kind": "targeted", "labels": ["good", "bad"]},
    {"kind": "annotate", "labels": ["good", "bad"]},
)
STEPS = (Exact(), MinHash(), Substring(), Balance(by="method", budget=0.9), Longest(budget=0.8))


def digests(folder: Path) -> Iterator[tuple[str, str]]:
    """The digest of every dataset, and the fingerprint of every job of the recipes that ship, by name."""
    for settings in METHODS:
        store = with_seeds(Store(str(folder / str(settings["kind"]))))
        with suppress(RunError):  # the scripted engine is no good at some; what was made counts
            ground(store, job(methods=[settings], target=9, max_drafts=60, filters=[{"kind": "length"}]))
        yield str(settings["kind"]), ids.digest({name: data.hex() for name, data in contents(store).items()})
    store = with_seeds(Store(str(folder / "all")))
    ground(store, job(target=40))
    yield "filters", ids.digest({name: data.hex() for name, data in contents(store).items()})
    select = Select(steps=STEPS)
    work = work_for(select, WORK.output)
    select.make(a_run(store), work)
    shards = [name for name in store.names(work.output) if name.startswith("shard")]
    yield "select", ids.digest({name: store.read_bytes(work.output, name).hex() for name in shards})
    for path in RECIPES:
        recipe, _ = open_recipe(path)
        for name, section in recipe.jobs.items():
            yield f"fingerprint of {path.stem}.{name}", section.fingerprint()


def test_recipes_make_the_data_that_they_made(tmp_path: Path) -> None:
    made, known = dict(digests(tmp_path)), json.loads(KNOWN.read_text())
    assert made.keys() == known.keys()
    assert {name for name in made if made[name] != known[name]} == set()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as there:
        KNOWN.write_text(json.dumps(dict(digests(Path(there))), indent=1) + "\n")
    sys.exit(0)
