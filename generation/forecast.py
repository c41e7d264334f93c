"""Forecast of the tokens, time and money of a generate job, from measurements of earlier jobs in the store."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow.compute as pc

from gristmill.cluster.contract.errors import StoreError
from gristmill.cluster.models.engine import Engine
from gristmill.cluster.store.store import Manifest, Store
from gristmill.generation.contracts import Filter, HistoryFilter, Method

TOKENS_PER_DRAFT = 650
"""Prompt and reply tokens of all calls for one draft; measured with Self-Instruct and the judge."""
PROMPT_SHARE = 0.85
"""Share of `TOKENS_PER_DRAFT` that is assumed to be prompt tokens, because these have another price."""
MAX_SHARDS = 8
"""Largest number of shards that are read of one dataset, so that a plan takes seconds."""
MAX_DATASETS = 8


@dataclass
class Rates:
    """Measurements of earlier jobs with the same model and the same filters that ask a model."""

    tokens: dict[str, list[int]] = field(default_factory=dict)
    """For each method: [rows, prompt tokens, reply tokens]."""
    engine_s: float = 0.0
    engine_tokens: int = 0

    def per_draft(self, method: str) -> tuple[float, float] | None:
        """Return (prompt tokens, reply tokens) of a draft, or None if the method was not measured."""
        rows, prompt, reply = self.tokens.get(method, (0, 0, 0))
        return (prompt / rows, reply / rows) if rows else None


def measured(store: Store, engine: Engine, filters: Sequence[Filter | HistoryFilter]) -> Rates:
    """Return the rates measured in the store's datasets; empty rates if no dataset is comparable."""
    rates, asking = Rates(), {step.kind for step in filters if "model" in step.stages}
    for manifest in _alike(store, engine, asking):
        for shard in manifest.shards[:MAX_SHARDS]:
            table = store.read_shard(manifest.name, shard, ["method", "origin"])
            prompt, reply = (pc.struct_field(table["origin"], name) for name in ("prompt_tokens", "reply_tokens"))
            for method in pc.unique(table["method"]).to_pylist():
                mask = pc.equal(table["method"], method)
                found = rates.tokens.setdefault(method, [0, 0, 0])
                found[0] += pc.sum(mask).as_py()
                found[1] += pc.sum(prompt.filter(mask)).as_py() or 0
                found[2] += pc.sum(reply.filter(mask)).as_py() or 0
        figures = store.figures(manifest.name)
        rates.engine_s += figures.get("engine_seconds_per_kept", 0.0) * figures.get("kept", 0)
        rates.engine_tokens += figures.get("prompt_tokens", 0) + figures.get("tokens", 0)
    return rates


def _alike(store: Store, engine: Engine, asking: set[str]) -> Iterator[Manifest]:
    """Yield manifests of datasets made with the same model and with all filters of the kinds `asking`."""
    left = MAX_DATASETS
    for name in store.names():
        if not left or not name.startswith("generate-") or not store.complete(name):
            continue
        try:
            manifest = store.manifest(name)
        except StoreError:
            continue  # `gristmill show` says what is wrong with it
        kinds = {step["kind"] for step in manifest.settings.get("filters", ())}
        if manifest.settings.get("engine", {}).get("model") == engine.model and asking <= kinds:
            left -= 1
            yield manifest


def forecast(
    methods: Sequence[Method], filters: Sequence[Filter | HistoryFilter], engine: Engine, rates: Rates, drafts: int
) -> tuple[int, float, list[str]]:
    """Return the expected tokens, the seconds of one engine, and lines about tokens, the engine's time and the price.

    The seconds are 0 if the store has no comparable job.
    """
    judged = any("model" in step.stages for step in filters)
    whole, prompt_tokens, reply_tokens, notes = sum(method.weight for method in methods), 0.0, 0.0, list[str]()
    for method in methods:
        known, share = rates.per_draft(method.kind), method.weight / whole
        silent = not method.asks_model() and not judged
        assumed = (TOKENS_PER_DRAFT * PROMPT_SHARE, TOKENS_PER_DRAFT * (1 - PROMPT_SHARE))
        prompt, reply = (0.0, 0.0) if silent else known or assumed
        prompt_tokens, reply_tokens = prompt_tokens + prompt * share * drafts, reply_tokens + reply * share * drafts
        source = "asks no model" if silent else f"{prompt + reply:,.0f} tokens a draft, "
        notes.append(f"{method.kind}: {source}{'' if silent else 'measured in this store' if known else 'assumed'}")
    tokens = prompt_tokens + reply_tokens
    seconds = rates.engine_s / rates.engine_tokens * tokens if rates.engine_tokens else 0.0
    price = engine.price
    money = (price.prompt * prompt_tokens + price.reply * reply_tokens) / 1e6 + price.hour * seconds / 3600
    if seconds:
        notes.append(f"about {seconds / 60:,.1f} minutes of one engine, as fast as in earlier jobs of this store")
    if money:
        notes.append(f"about {money:,.2f} in money")
    return round(tokens), seconds, notes
