"""Freezing: rows become the items of a suite, with final prompts, in a dataset that no later run changes.

<store>/suite-<fingerprint>/shard-00000.arrow   SAMPLES: the prompt as it is asked, then the right answer; the tag
                                                `family`, and the tag `prefix` if the suite gives the beginning of the
                                                model's turn. Rows that cannot be judged are dropped with their reason.

The fingerprint depends on the rows and on the scorer's settings. So the same items always have the same folder.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import FAMILY, PREFERENCE, Message, Sample, from_table, to_table
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.store.lease import making
from gristmill.cluster.store.store import Manifest, Store, place
from gristmill.training.data.families import families, near_rows
from gristmill.training.data.holdout import with_families
from gristmill.training.evaluate.scorers.contract import ANSWERS, PREFIX, Item, Scorer
from gristmill.training.evaluate.suites.items import BLOCK, Rows, some

log = logging.getLogger(__name__)

SAID_OF = ("role", "made", "effect")
"""Settings that only describe a suite; they change no item and no value."""


@dataclass(frozen=True)
class Suite:
    """A frozen suite."""

    name: str
    """Its name in the recipe."""
    folder: str
    scorer: Scorer
    """The scorer, with the settings that follow from the items."""
    items: Sequence[Item]
    families: NDArray[np.int64]
    """[items] family of each item, numbered from 0."""
    dropped: Mapping[str, int]
    """Number of rows that could not become items, by reason."""
    rows: Sequence[Sample] = ()
    """[items] the row that each item was made from."""
    looks: NDArray[np.int64] | None = None
    """[items] the look of a gate before which each item is asked, from 1; 0 for an item that is held back. None asks
    all before the first look."""

    @property
    def last(self) -> int:
        """The last look."""
        return 1 if self.looks is None else int(self.looks.max(initial=0))

    def places(self, look: int) -> NDArray[np.int64]:
        """Return the indices of the items that are asked before a look, and not before an earlier one."""
        return np.arange(len(self.items)) if self.looks is None else np.flatnonzero(self.looks == look)

    def until(self, look: int) -> NDArray[np.int64]:
        """Return the indices of the items that are asked before a look or an earlier one."""
        if self.looks is None:
            return np.arange(len(self.items))
        return np.flatnonzero((self.looks > 0) & (self.looks <= look))

    def part(self, places: NDArray[np.int64]) -> "Suite":
        """Return the suite with some of its items, by their ascending indices."""
        return replace(
            self,
            items=some(self.items, places),
            families=self.families[places],
            rows=some(self.rows, places) if self.rows else (),
            looks=None if self.looks is None else self.looks[places],
        )


def freeze(store: Store, name: str, scorer: Scorer, rows: str | None) -> Suite:
    """Return the suite of a dataset's rows, or of the scorer's own rows; its folder is written if it does not exist.

    Raises:
        JobError: when no row can be judged.
    """
    rows = rows or _own_rows(store, scorer)
    folder, fingerprint = place_of(scorer, rows)
    if not store.complete(folder):
        table, fitted = _frozen(store.read(rows), scorer)
        _commit(store, table, Manifest(folder, "samples", "suite", fingerprint, {"samples": rows}, fitted.public(), ()))
    suite = opened(store, name, scorer, folder)
    if not suite.items:
        raise JobError(
            f"evaluate.suites.{name}: none of the rows can be judged ({dict(suite.dropped)}), at least one must"
        )
    return suite


def _own_rows(store: Store, scorer: Scorer) -> str:
    """Return the dataset of the rows that a scorer makes; it is written if it does not exist."""
    made = scorer.rows()
    folder, fingerprint = place("items", {**scorer.identity(), "rows": ids.digest([row.id for row in made])}, {})
    if not store.complete(folder):
        _commit(store, to_table(made), Manifest(folder, "samples", "suite", fingerprint, {}, scorer.public(), ()))
    return folder


def _commit(store: Store, table: pa.Table, manifest: Manifest) -> None:
    """Write a table as the one shard of a dataset, unless another run has done so in between."""
    with making(store, manifest.name, say=log.info) as held:
        if not held.complete(manifest.name):
            shard = held.commit_shard(manifest.name, "shard-00000", table)
            held.commit(replace(manifest, shards=(shard,)), Figures(rows=shard.rows, kept=shard.kept).to_json())


def place_of(scorer: Scorer, rows: str) -> tuple[str, str]:
    """Return (folder name, fingerprint) of a suite; `rows` is the dataset that it is made from."""
    identity = scorer.identity()
    fields = {name: value for name, value in identity["fields"].items() if name not in SAID_OF}
    return place("suite", {**identity, "fields": fields}, {"samples": rows})


def opened(store: Store, name: str, scorer: Scorer, folder: str) -> Suite:
    """Return the suite in a folder that exists."""
    table, source = store.read(folder), store.read(store.manifest(folder).inputs["samples"])
    kept = np.flatnonzero(table["dropped"].is_null().to_numpy())
    items, rows = Rows(table, kept, _item), Rows(source, kept, _same)
    kin = np.unique([item.tags[FAMILY] for item in items], return_inverse=True)[1].astype(np.int64)
    reasons = Counter(reason.partition(": ")[2] for reason in table["dropped"].drop_null().to_pylist())
    return Suite(name, folder, scorer.fitted(items), items, kin, dict(reasons), rows)


def contamination(store: Store, suites: Sequence[Suite], trained: pa.Table) -> dict[str, tuple[int, int]]:
    """Return, by suite, the number of items that are near copies of a row trained on, and the number of these rows.

    Items are compared without the text that the setting `prompt` adds. All suites are compared at once, which takes
    about two microseconds of CPU for each character of the rows trained on.
    """
    tables, left = [trained], {item.id for suite in suites for item in suite.items}
    for suite in suites:
        rows = store.read(store.manifest(suite.folder).inputs["samples"])
        taken = [name in left for name in rows["id"].to_pylist()]
        tables.append(rows.filter(pa.array(taken, pa.bool_())))
        left -= set(tables[-1]["id"].to_pylist())
    whole = pa.concat_tables(tables)
    names, near = whole["id"].to_pylist(), dict[str, set[int]]()
    for one, other in zip(*(side.tolist() for side in near_rows(whole)), strict=True):
        row, item = min(one, other), max(one, other)
        if row < trained.num_rows <= item:
            near.setdefault(names[item], set()).add(row)
    found = {suite.name: [near[item.id] for item in suite.items if item.id in near] for suite in suites}
    return {name: (len(rows), len(set().union(*rows))) for name, rows in found.items()}


def _frozen(table: pa.Table, scorer: Scorer) -> tuple[pa.Table, Scorer]:
    """Return the rows of the suite, and the scorer with settings that follow from its items."""
    asked = _mapped(table, lambda sample: _asked(sample, scorer))
    kept = np.flatnonzero(asked["dropped"].is_null().to_numpy())
    fitted, seen = scorer.fitted(Rows(asked, kept, _item)), set[bytes]()

    def judged(sample: Sample) -> Sample:
        item = _item(sample)
        digest = b"" if sample.dropped else bytes.fromhex(item.digest)
        again = "asked before" if scorer.ingested and digest in seen else ""
        reason = "" if sample.dropped else fitted.refuse(item) or again
        if not sample.dropped and not reason:
            seen.add(digest)
        return sample.drop(f"suite: {reason}") if reason else sample

    return with_families(_mapped(asked, judged), families(table)), fitted


def _mapped(table: pa.Table, change: Callable[[Sample], Sample]) -> pa.Table:
    """Return a SAMPLES table with changed rows, of which only a block is Python objects at once."""
    blocks = (table.slice(start, BLOCK) for start in range(0, table.num_rows, BLOCK))
    changed = [to_table([change(sample) for sample in from_table(block)]) for block in blocks]
    return pa.concat_tables([to_table([]), *changed]).combine_chunks()


def _same(sample: Sample) -> Sample:
    return sample


def _asked(sample: Sample, scorer: Scorer) -> Sample:
    """Return a row with its last user turn as it is asked, or as dropped if it cannot be asked."""
    if sample.dropped:
        return replace(sample, dropped=f"suite: {sample.dropped}")
    answered = bool(sample.messages) and sample.messages[-1].role == "assistant"
    prompt = sample.messages[:-1] if answered else sample.messages
    if not prompt or prompt[-1].role != "user":
        return sample.drop("suite: no user turn before the answer")
    none_right = scorer.unanswerable and answered and sample.tags.get(ANSWERS) == "[]"
    if scorer.answered and not none_right and not (answered and sample.messages[-1].text.strip()):
        return sample.drop("suite: no answer")
    if sample.beyond_text:
        return sample.drop(f"suite: has {sample.beyond_text}")
    if sample.scores.get(PREFERENCE) == 0:
        return sample.drop("suite: rejected candidate")
    written = scorer.rendered(prompt[-1].text)
    tags = {**sample.tags, PREFIX: written["prefix"]} if written["prefix"] else sample.tags
    return replace(sample, messages=(*prompt[:-1], *written["messages"], *sample.messages[len(prompt) :]), tags=tags)


def _item(sample: Sample) -> Item:
    answered = bool(sample.messages) and sample.messages[-1].role == "assistant"
    prompt: tuple[Message, ...] = sample.messages[:-1] if answered else sample.messages
    answer = sample.messages[-1].text.strip() if answered else ""
    return Item(sample.id, prompt, answer, sample.tags.get(PREFIX, ""), sample.tags)
