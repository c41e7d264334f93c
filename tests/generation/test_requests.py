"""What steps ask the model, pinned by digest: every request of every method and filter, in English and Chinese.

Ids of rows do not follow from fingerprints here, so a setting that is renamed or takes another form moves nothing.
Whoever changes what is asked on purpose pins the new digests:

    python -m tests.generation.test_requests
"""

import asyncio
import json
import re
import sys
from dataclasses import fields, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pydantic import TypeAdapter

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.sample import Message, Sample, seed
from gristmill.cluster.models.encoder import Embedding
from gristmill.cluster.models.engine import Engine, Reply, Request, Write
from gristmill.generation.contracts import MAIN, HistoryFilter, Snapshot
from gristmill.generation.filters import AnyFilter
from gristmill.generation.methods import AnyMethod
from gristmill.generation.pipeline.plan import Pipeline, RawShard
from gristmill.generation.pipeline.rows import BoundAsk, Context, Rows, Usage
from tests.fakes import HashingEncoder, ScriptedEngine
from tests.test_examples import kinds

KNOWN = Path(__file__).parent / "requests.json"
DRAWS = 24
LABELS = {"labels": ["good", "bad"]}
ENTITIES = {"labels": {"city": "a town", "person": ""}, "task": "entities"}


def turns(user: str, answer: str = "", **tags: str) -> Sample:
    messages = [Message("user", user), *([Message("assistant", answer)] if answer else [])]
    return replace(seed(messages), tags=tags)


SEEDS = (
    turns("Write two lines about the sea", "The sea is wide.\n\nIt is also deep.", language="en", label="good"),
    turns("The soup was cold, and nobody came to us for an hour", "bad", language="en", label="bad"),
    turns("A warm film with fine actors", "good", language="en", label="good"),
    turns("How much is 3 plus 4?", "The answer is 7.", language="en"),
    turns("Explain how a mill works in a few words", language="en"),
    turns("Yesterday [Ann](person) came to [Rome](city) by train", "ok", language="en"),
    turns("写一首关于春天的诗", "春天来了。\n\n花开了。", language="zh", label="good"),
    turns("菜是凉的，等了一个小时也没人管", "bad", language="zh", label="bad"),
    turns("3加4等于多少？", "答案是7。", language="zh"),
    turns("介绍一下你的家乡和那里的河", language="zh"),
    turns("昨天[小王](person)坐火车到了[北京](city)", "好", language="zh"),
    turns("Nenne drei Flüsse, die ins Meer fließen", "Rhein, Elbe und Donau.", language="de", label="good"),
    Sample(
        id="talk",
        messages=(
            Message("system", "Be brief."),
            Message("user", "Where is the mill?"),
            Message("assistant", "By the river."),
            Message("user", "And who owns it?"),
            Message("assistant", "A baker."),
        ),
        tags={"language": "en"},
    ),
)
DOCUMENTS = tuple(
    turns(text, language=language, document=name, chunk=str(n), span=f"{n}:{n + 9}", title=name.upper())
    for language, name, texts in (
        (
            "en",
            "a",
            (
                "The mill by the river was built of stone in 1871.\nIts wheel turns slowly in winter, when ice hangs.",
                "The baker of the town buys flour at the mill on each Monday, and sells bread from six in the morning.",
                "# Notes\n\nA letter of the owner says that music was played in the garden by the old stone window.",
            ),
        ),
        (
            "zh",
            "b",
            ("河边的磨坊建于1871年，用石头砌成。冬天水车转得很慢。", "面包师每星期一到磨坊买面粉，早上六点卖面包。"),
        ),
    )
    for n, text in enumerate(texts)
)
MADE = tuple(
    Sample(
        id=f"made{n}",
        messages=(Message("user", text), Message("assistant", "Well, yes.")),
        method="self_instruct",
        round=1,
        scores={"human_like": n / 9},
        tags={"language": language, "persona": "A baker of the small town by the sea"},
    )
    for n, (language, text) in enumerate(
        (("en", "List three winters"), ("en", "Tell of a stone garden"), ("zh", "说说冬天的河"), ("zh", "写写城里的灯"))
    )
)
REFUSED = tuple(
    replace(row, id=f"no{n}", dropped="discriminator: told from human", messages=(Message("user", text),))
    for n, (row, text) in enumerate(zip(MADE, ("Do  it\nall", "List lists", "列出列表", "做一切"), strict=True))
)
ALL = Snapshot(2, SEEDS, DOCUMENTS, MADE, REFUSED)
NO_DOCUMENTS = replace(ALL, documents=())
RESPOND: dict[str, Any] = {"kind": "respond"}
GROUNDED: dict[str, Any] = {"kind": "grounded", "multi_hop": 0.5}
CASES: dict[str, tuple[Snapshot, dict[str, Any], tuple[dict[str, Any], ...]]] = {
    "self_instruct": (ALL, {"kind": "self_instruct"}, ()),
    "self_instruct instances": (ALL, {"kind": "self_instruct", "instances": True}, ()),
    "adversarial": (ALL, {"kind": "adversarial", "group": 1}, ()),
    "evol_instruct": (ALL, {"kind": "evol_instruct"}, ()),
    "evol_instruct free": (ALL, {"kind": "evol_instruct", "head_words": 0}, ()),
    "magpie": (ALL, {"kind": "magpie", "languages": ["en", "zh"], "domains": ["general", "math"], "turns": 3}, ()),
    "magpie bare": (
        ALL,
        {"kind": "magpie", "languages": ["en", "zh"], "qualities": [], "calibrate": False, "single_line": False},
        (),
    ),
    "magpie untagged": (ALL, {"kind": "magpie", "languages": ["zh"], "tag": False, "qualities": ["poor", "good"]}, ()),
    "persona": (ALL, {"kind": "persona", "wants": ["instruction", "math", "logic"]}, ()),
    "taxonomy": (ALL, {"kind": "taxonomy", "languages": ["en", "zh"], "num_disciplines": 5}, ()),
    "respond": (NO_DOCUMENTS, RESPOND, ()),
    "respond votes": (NO_DOCUMENTS, {"kind": "respond", "votes": 3, "n": 2}, ()),
    "multi_turn": (ALL, {"kind": "multi_turn", "max_overlap": 1.0}, ()),
    "augment": (
        NO_DOCUMENTS,
        {"kind": "augment", "operations": ["paraphrase", "back_translate", "synonym"], "synonyms": "model", **LABELS}
        | {"min_cosine": 0, "pivot": "fr"},
        (),
    ),
    "augment chinese": (NO_DOCUMENTS, {"kind": "augment", "operations": ["back_translate"], "min_cosine": 0}, ()),
    "retrieve": (NO_DOCUMENTS, {"kind": "retrieve"}, ()),
    "retrieve grounding": (ALL, {"kind": "retrieve", "use": "grounding", "with_passages": True}, ()),
    "retrieve data": (ALL, {"kind": "retrieve", "use": "data"}, ()),
    "backtranslation": (ALL, {"kind": "backtranslation", "min_words": 4, "system_sentences": True}, ()),
    "backtranslation seeds": (NO_DOCUMENTS, {"kind": "backtranslation", "min_words": 1, "min_score": 1}, ()),
    "grounded": (ALL, {**GROUNDED, "questions": 2}, ()),
    "grounded corpus": (ALL, {**GROUNDED, "second": "corpus", "with_passage": True}, ()),
    "targeted": (ALL, {"kind": "targeted", **LABELS, "languages": ["en", "zh", "de"]}, ()),
    "targeted no seeds": (Snapshot(0), {"kind": "targeted", **LABELS, "languages": ["en", "zh"]}, ()),
    "targeted entities": (ALL, {"kind": "targeted", **ENTITIES}, ()),
    "targeted one label": (
        ALL,
        {"kind": "targeted", "task": "entities", "labels": ["city"], "calibrate": False, "about": "letters"},
        (),
    ),
    "annotate": (ALL, {"kind": "annotate", **LABELS}, ()),
    "annotate seeds": (NO_DOCUMENTS, {"kind": "annotate", **LABELS, "with_prompt": True}, ()),
    "annotate several": (
        ALL,
        {"kind": "annotate", **LABELS, "calibrate": False}
        | {"annotators": [{"name": "a", "samples": 3}, {"name": "b", "prompt": "Choose of {labels}."}]},
        (),
    ),
    **{
        f"annotate {form}": (ALL, {"kind": "annotate", "form": form, "json_schema": '{"type": "object"}', **more}, ())
        for form, more in (("entities", {"labels": ["city", "person"]}), ("json", {}), ("translation", {"to": "fr"}))
    },
    "annotate summary": (NO_DOCUMENTS, {"kind": "annotate", "form": "summary"}, ()),
    **{
        f"judge {rubric}": (NO_DOCUMENTS, RESPOND, ({"kind": "judge", "rubric": rubric, "min_score": 0},))
        for rubric in ("quality", "helpfulness", "correctness", "complexity", "additive")
    },
    "judge votes": (
        NO_DOCUMENTS,
        {"kind": "multi_turn"},
        tuple({"kind": "judge", "rubric": one, "votes": 2} for one in ("quality", "complexity", "additive")),
    ),
    "pairwise": (NO_DOCUMENTS, RESPOND, ({"kind": "pairwise"},)),
    "pairwise parent": (NO_DOCUMENTS, RESPOND, ({"kind": "pairwise", "against": "parent"},)),
    "toxicity": (NO_DOCUMENTS, RESPOND, ({"kind": "toxicity", "max_toxicity": 0.6},)),
    "faithfulness": (ALL, GROUNDED, ({"kind": "faithfulness", "min_extractive": 0},)),
    "faithfulness relevance": (ALL, GROUNDED, ({"kind": "faithfulness", "relevance": True, "min_extractive": 0.1},)),
    "instag": (NO_DOCUMENTS, RESPOND, ({"kind": "instag"},)),
    "self_consistency": (NO_DOCUMENTS, RESPOND, ({"kind": "self_consistency"},)),
    "self_consistency exact": (NO_DOCUMENTS, RESPOND, ({"kind": "self_consistency", "compare": "exact"},)),
    "ifd": (NO_DOCUMENTS, RESPOND, ({"kind": "ifd", "max_ifd": 9},)),
}


def said(what: Request | Sample) -> list[list[str]]:
    return [[turn.role, turn.text] for turn in what.messages]


def vars_of(request: Request) -> list[Any]:
    return [type(request).__name__, *(getattr(request, one.name) for one in fields(request) if one.name != "messages")]


class RecordingEngine(ScriptedEngine):
    """The scripted engine, with replies of the forms that steps ask for; it keeps every request."""

    def __init__(self) -> None:
        super().__init__(Engine())
        self.requests: list[Request] = []

    async def ask(self, request: Request) -> Reply:
        self.requests.append(request)
        reply = await super().ask(request)
        if not isinstance(request, Write):
            return reply
        rng = Random(ids.digest("form", said(request), request.prefix, request.seed))
        plain = reply.text.removeprefix("Tell me of ")
        forms = (reply.text, f"{plain}?", f"{plain}？ 2", "; ".join(plain.split()[:4]), f"{plain}\n#### 7", "7")
        text = rng.choice(forms[:3] * 2 + forms[3:])
        if request.json_schema:
            text = rng.choice(
                ('{"intents": ["mill", "river"]}', '[{"text": "mill", "label": "city"}]', '{"a": 1}', "no")
            )
        if request.prefix.endswith("1."):
            text = " River\n2. Lamp of stone\n3. 石头\n4. Winter bakers"
        if request.regex:
            label = re.findall(r"\\\((\w+)\\\)", request.regex)[0]
            text = f"{plain[:9]} [Rom e]({label})"
        return replace(reply, text=text, logprob=-float(len(text)) if request.logprobs else None)


class NamedPipeline(Pipeline):
    """A pipeline whose ids follow from the case."""

    def step(self, place: int) -> str:
        return f"{self.run}/{place}"


async def run(name: str) -> tuple[list[Request], list[Sample]]:
    snapshot, settings, filters = CASES[name]
    method = TypeAdapter(AnyMethod).validate_python(settings)
    judging = tuple(TypeAdapter(AnyFilter).validate_python(one) for one in filters)
    engine = RecordingEngine()
    pipeline = NamedPipeline(name, {MAIN: Engine()}, (method,), judging, Embedding(), 0)

    async def embed(texts: Any) -> Any:
        return HashingEncoder().encode(texts)

    context = Context(pipeline, {MAIN: engine}, embed)
    prepared = {}
    for n, step in enumerate((method, *judging)):
        assert not isinstance(step, HistoryFilter)
        prepared[id(step)] = await step.prepare(snapshot, None, BoundAsk(context, Usage(f"prepare {name} {n}")))
    rows = await Rows(context, snapshot, prepared, []).of_shard(RawShard(0, snapshot.round, 0, 0, DRAWS))
    return engine.requests, rows


def digests(name: str) -> dict[str, Any]:
    requests, rows = asyncio.run(run(name))
    asked = sorted(json.dumps([said(one), *vars_of(one)], ensure_ascii=False) for one in requests)
    made = [[row.id, said(row), dict(row.tags), dict(row.scores), row.dropped] for row in rows]
    assert not any("failed" in (row.dropped or "") for row in rows)
    return {"count": len(asked), "requests": ids.digest(asked), "rows": ids.digest(json.dumps(made, default=str))}


@pytest.mark.parametrize("name", CASES)
def test_a_step_asks_what_it_asked(name: str) -> None:
    assert digests(name) == json.loads(KNOWN.read_text())[name]


def test_every_method_and_every_filter_that_asks_is_pinned() -> None:
    assert {settings["kind"] for _, settings, _ in CASES.values()} == kinds(AnyMethod)
    assert {one["kind"] for _, _, filters in CASES.values() for one in filters} == {
        "judge",
        "pairwise",
        "toxicity",
        "faithfulness",
        "instag",
        "self_consistency",
        "ifd",
    }


if __name__ == "__main__":
    KNOWN.write_text(json.dumps({name: digests(name) for name in CASES}, indent=1) + "\n")
    sys.exit(0)
