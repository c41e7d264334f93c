"""The data that recipes make with the scripted engine, pinned by digest: what moves the code must not change it.

Whoever changes data on purpose raises the `revision` of the class, and pins the new digests. What did not move keeps
its pin:

    python -m tests.test_pinned
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import RunError
from gristmill.cluster.contract.settings import Settings
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
MOVED: dict[str, str] = {
    "c1345787e12e2ec92aa6d7276bfa9186": "e6f730c077096623e1c764c09ecc8300",  # method self_instruct
    "b4ff4e082a6debd9fa01918e01130856": "9f029f2ae85a8d002fe2fd26ce457a39",  # method evol_instruct
    "95f65d59754f17c9d6a495edc896511a": "72c9d08bdb2e7d42c2be4c0d207513fc",  # method magpie
    "a0b011afd62395bd5734d25af763f180": "2ff28661f8fb9bf72dfb0a6782bc7ef6",  # method augment
    "3115cb32142f049e588a5afb695932d2": "3e3a898285247a3380bedbc32d907ae4",  # method retrieve
    "79c592bdac1a2328fa4846fbdfb127ed": "1f9082836a1fef9a53b81bfe4cb2cddd",  # method backtranslation
    "26f53f15dc28775349341b754aa686a1": "7936d10faf04bb68c2ee0466f9a0cd7d",  # method grounded
    "0106af1e395e4a25101d28d57262126c": "cb5bc3be90f0222549694b97128e946c",  # method targeted
    "b2d20219be3af83b837620b346473c2c": "4571877701b9de25bdfc81c582a4fd48",  # method annotate
    "154021e4ae907a08b413a68b98fc678f": "3898d3441a2cd9037bad2295690b5c91",  # augment.generate
    "d363d95e4af8f0bed25ca04eeb3c79ab": "7ac4b754a460d5344dedb2ff8d67c405",  # targeted_entities.generate
}
"""Fingerprints as they are pinned, and as they are now, of steps and jobs whose settings got other names or forms.

Ids and seeds follow from fingerprints; with the pinned ones the same data comes out.
"""
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


def data_of(store: Store) -> str:
    """The digest of all shards, and of the manifest but for the settings that it repeats."""
    files = {name: data.hex() for name, data in contents(store).items() if name != "manifest.json"}
    manifest = json.loads(contents(store)["manifest.json"]) if store.complete(WORK.output) else {}
    return ids.digest([files, {name: value for name, value in manifest.items() if name != "settings"}])


def digests(folder: Path) -> Iterator[tuple[str, str]]:
    """The digest of every dataset, and the fingerprint of every job of the recipes that ship, by name."""
    for settings in METHODS:
        store = with_seeds(Store(str(folder / str(settings["kind"]))))
        with suppress(RunError):  # the scripted engine is no good at some; what was made counts
            ground(store, job(methods=[settings], target=9, max_drafts=60, filters=[{"kind": "length"}]))
        yield str(settings["kind"]), data_of(store)
    store = with_seeds(Store(str(folder / "all")))
    ground(store, job(target=40))
    yield "filters", data_of(store)
    select = Select(steps=STEPS)
    work = work_for(select, WORK.output)
    select.make(a_run(store), work)
    shards = [name for name in store.names(work.output) if name.startswith("shard")]
    yield "select", ids.digest({name: store.read_bytes(work.output, name).hex() for name in shards})
    for path in RECIPES:
        recipe, _ = open_recipe(path)
        for name, section in recipe.jobs.items():
            yield f"fingerprint of {path.stem}.{name}", section.fingerprint()


def digests_as_pinned(folder: Path) -> dict[str, str]:
    """The digests with the fingerprints that steps had before their settings were renamed (`MOVED`)."""
    before = {new: old for old, new in MOVED.items()}
    fingerprint = Settings.fingerprint
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settings, "fingerprint", lambda step: before.get(fingerprint(step)) or fingerprint(step))
        return dict(digests(folder))


def test_recipes_make_the_data_that_they_made(tmp_path: Path) -> None:
    made, known = digests_as_pinned(tmp_path), json.loads(KNOWN.read_text())
    assert made.keys() == known.keys()
    assert {name for name in made if made[name] != known[name]} == set()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as there:
        KNOWN.write_text(json.dumps(digests_as_pinned(Path(there)), indent=1) + "\n")
    sys.exit(0)
