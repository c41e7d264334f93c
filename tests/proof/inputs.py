"""Inputs of every kind to mutate, besides files of rows: recipes, stores, model folders, replies and chat templates.

Each function takes an empty folder and a random stream, makes one mutated input, and uses it as the product does.
"""

import json
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from gristmill.cluster.cli.text import dataset_lines, listing, listing_lines, run_lines, sample_lines
from gristmill.cluster.contract.errors import GristmillError
from gristmill.cluster.contract.gate import admit_sample
from gristmill.cluster.contract.sample import Message, Sample, from_table, seed, to_table
from gristmill.cluster.jobs.recipe import load, open_recipe, plans_of
from gristmill.cluster.jobs.run import find, runs
from gristmill.cluster.models import names as models
from gristmill.cluster.models.engine import Write
from gristmill.cluster.models.template import ChatTemplate
from gristmill.cluster.report import run as report
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import MANIFEST, Manifest, Shard, Store, file_shard
from gristmill.generation.engines.endpoint.http import _body, _error, inner_status
from gristmill.generation.engines.endpoint.stream import Stream
from gristmill.generation.engines.endpoint.wire import read as read_reply
from gristmill.generation.engines.endpoint.wire import said_choice, steps, text_chances, usage
from tests.fakes import CHATML, two_layer_model
from tests.proof.damage import damaged, twisted

REPORTS = 0.1
"""Share of the damaged stores of which the report is written too, which takes 0.3 s."""
Try = Callable[[Path, random.Random], None]
TALKS = [[Message("user", f"Question {n} 问题"), Message("assistant", f"Answer {n}")] for n in range(6)]
SAMPLES = [seed(talk, {"topic": "sea"}) for talk in TALKS]


def changed(value: Any, stream: random.Random) -> bytes:
    """Return the JSON text of a value that is twisted, or of which the bytes are damaged, or both."""
    how = stream.random()
    for _ in range(stream.randrange(1, 4) if how < 0.8 else 0):
        value = twisted(value, stream)
    text = json.dumps(value, ensure_ascii=stream.random() < 0.5).encode(errors="surrogatepass")
    return damaged(text, stream) if how > 0.6 else text


# -- recipes ------------------------------------------------------------------------------------------------------

RECIPES = tuple(sorted((Path(__file__).parents[2] / "examples").glob("*.toml")))
WORDS = (
    "=", "[", "]", "{", "}", ".", '"', "'", '"""', "#", "\n", ",", "[[", "]]", "nan", "-inf", "1e400", "9" * 5000,
    "true", "1979-05-27", "\\ud800", "\x00", "kind", "name", "store", "a." * 200, "[" * 200, "{a=" * 200, "²",
    "../", "~x/",
)  # fmt: skip


def toml(folder: Path, stream: random.Random) -> None:
    """Load an example recipe of which pieces are moved, doubled, cut or replaced."""
    lines = stream.choice(RECIPES).read_text(encoding="utf-8").splitlines(keepends=True)
    for _ in range(stream.randrange(1, 3)):
        place = stream.randrange(len(lines))
        line, word = lines[place], stream.choice(WORDS)
        cut = stream.randrange(len(line) + 1)
        key, equals, _ = line.partition("=")
        lines[place] = stream.choice(
            [line[:cut] + word + line[cut:], f"{key}{equals} {word}\n", line * 2, "", line[:cut], stream.choice(lines)]
        )
    text = "".join(lines).encode(errors="surrogatepass")
    path = folder / "recipe.toml"
    path.write_bytes(damaged(text, stream) if stream.random() < 0.2 else text)
    load(path, [f"generate.target={stream.choice(WORDS)}"] if stream.random() < 0.2 else ())


@cache
def _stored() -> dict[str, Any]:
    return {
        "name": "night",
        "store": "runs",
        "cluster": {},
        "jobs": {
            "generate": {
                "input": {"path": ["seeds.jsonl"]},
                "target": 5,
                "methods": [{"kind": "self_instruct"}],
                "filters": [{"kind": "length"}, {"kind": "judge", "min_score": 3}],
            },
            "select": {"steps": [{"kind": "exact"}, {"kind": "minhash", "threshold": 0.8}]},
            "train": {"steps": 3, "tuning": {"kind": "lora", "r": 4}, "zero": {"stage": 2}},
            "evaluate": {"against": [], "suites": {}},
        },
        "outputs": {"ingest": "ingest-1", "generate": "generate-1"},
    }


def stored_recipe(folder: Path, stream: random.Random) -> None:
    """Load the recipe.json of a run."""
    (folder / "recipe.json").write_bytes(changed(_stored(), stream))
    load(folder / "recipe.json")


# -- stores -------------------------------------------------------------------------------------------------------


@cache
def _original() -> "tempfile.TemporaryDirectory[str]":
    """Return a folder with a store of two datasets and a run, as they are before the damage."""
    folder = tempfile.TemporaryDirectory(prefix="fuzz-store-")
    store, outputs = Store(folder.name), {}
    for job in ("ingest", "generate"):
        name = f"{job}-1"
        shard = store.commit_shard(name, "shard-00000", to_table(SAMPLES))
        inputs = {"samples": "ingest-1"} if job == "generate" else {}
        metadata = {"files": json.dumps({"a.jsonl": "0" * 32}), "columns": "{}"} if job == "ingest" else {}
        manifest = Manifest(name, "samples", job, "f" * 32, inputs, {"target": 5}, (shard,), metadata=metadata)
        store.commit(manifest, {"rows": 6, "kept": 6, "seconds": 1.5})
        outputs[job] = name
    store.write_json({**_stored(), "outputs": outputs}, "runs", "night-1", "recipe.json")
    ledger = Ledger(store, "runs/night-1")
    ledger.append("run_started", jobs=["generate"], pid=1)
    for job, output in outputs.items():
        ledger.append("job_started", job=job, output=output)
        ledger.append("shards_planned", job=job, shards=1, committed=0)
        ledger.append("shard_done", job=job, shard="shard-00000", rows=6, kept=6, seconds=1.0)
        ledger.append("job_done", job=job, output=output, figures={"rows": 6, "kept": 6, "seconds": 1.5})
    ledger.append("run_done")
    return folder


def store_in(folder: Path) -> Store:
    """Return a copy of the store."""
    shutil.copytree(_original().name, folder / "store")
    return Store(str(folder / "store"))


def _look(store: Store, stream: random.Random) -> None:
    """Read a store as `show`, `head` and, at times because it is slow, `report` do; each of them may refuse it."""

    def head(name: str) -> None:
        for table in store.scan(name):
            for sample in from_table(table):
                list(sample_lines(sample))

    views: list[Callable[[], object]] = [
        lambda: list(listing_lines(listing(store, runs(store)))),
        lambda: [find(store, name) for name in ("night", "generate")],
        lambda: list(run_lines(store, "night-1")),
        lambda: list(dataset_lines(store.manifest("generate-1"), store.figures("generate-1"))),
        lambda: head("generate-1"),
        lambda: report.write(store, "night-1") if stream.random() < REPORTS else "",
        lambda: Ledger(store, "runs/night-1").append("run_started", jobs=[]),
    ]
    refused: GristmillError | None = None
    for view in views:
        try:
            view()
        except GristmillError as error:
            refused = error
    if refused:
        raise refused


def shard(folder: Path, stream: random.Random) -> None:
    """Read a store of which a shard is damaged; its digest may be that of the damaged bytes."""
    store = store_in(folder)
    path = store.folder("generate-1") / "shard-00000.arrow"
    data = damaged(path.read_bytes(), stream)
    path.write_bytes(data)
    if stream.random() < 0.7:
        there = file_shard(path, store.folder("generate-1"))
        raw = store.read_json("generate-1", MANIFEST)
        store.write_json(
            {**raw, "shards": [asdict(Shard(there.name, 6, 6, there.bytes, there.digest))]}, "generate-1", MANIFEST
        )
    _look(store, stream)


def _file_of_store(*names: str) -> Try:
    def try_one(folder: Path, stream: random.Random) -> None:
        store = store_in(folder)
        path = store.folder("/".join(names[:-1])) / names[-1]
        path.write_bytes(changed(json.loads(path.read_bytes()), stream))
        if stream.random() < 0.05:
            path.unlink()
            path.mkdir()
        _look(store, stream)

    return try_one


def ledger(folder: Path, stream: random.Random) -> None:
    """Read a store of which events of the ledger are changed, lost, doubled or in another order."""
    store = store_in(folder)
    path = store.folder("runs/night-1") / "ledger.jsonl"
    whole = path.read_bytes().splitlines()
    lines = list(whole)
    for _ in range(stream.randrange(1, 4)):
        place = stream.randrange(len(lines))
        lines[place] = (
            changed(json.loads(whole[place]), stream) if stream.random() < 0.8 else damaged(lines[place], stream)
        )
    if stream.random() < 0.3:
        stream.shuffle(lines)
    path.write_bytes(b"\n".join(lines) + b"\n" * stream.randrange(2))
    _look(store, stream)


# -- models, replies, templates -----------------------------------------------------------------------------------

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "dtype": "float32",
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 300,
    "quantization_config": {},
    "max_position_embeddings": 128,
    "text_config": {"hidden_size": 64},
    "rope_parameters": {"rope_theta": 1e4},
}
TENSORS = {"__metadata__": {"format": "pt"}, "a.weight": {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32]}}


def model(folder: Path, stream: random.Random) -> None:
    """Plan recipes that generate with, embed by and train a model whose files are damaged."""
    there = folder / "model"
    there.mkdir()
    (there / "config.json").write_bytes(changed(CONFIG, stream))
    head = changed(TENSORS, stream)
    (there / "model.safetensors").write_bytes(
        stream.choice([len(head), 2**40, 0]).to_bytes(8, "little") + head + bytes(32)
    )
    (there / "tokenizer_config.json").write_bytes(changed({"chat_template": CHATML, "eos_token": "</s>"}, stream))
    (there / "tokenizer.json").write_bytes(changed({"version": "1.0", "model": {"type": "BPE", "vocab": {}}}, stream))
    models.identity.cache_clear()
    (folder / "seeds.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    name = str(there)
    jobs: Mapping[str, Any] = {
        "generate": {"input": str(folder / "seeds.jsonl"), "engine": {"model": name}},
        "select": {"encoder": {"model": name}},
        "train": {"model": name, "steps": 2, "gpus_per_worker": 0},
    }
    recipe, works = open_recipe({"store": str(folder / "store"), **jobs})
    plans_of(recipe, works)


CHOICE = {
    "index": 0,
    "finish_reason": "stop",
    "message": {
        "role": "assistant",
        "content": '<think>well</think> {"choice": "yes"}',
        "reasoning": "hm",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
    },
    "logprobs": {"content": [{"token": "yes", "logprob": -0.5, "top_logprobs": [{"token": "no", "logprob": -1.0}]}]},
}
REPLY = {
    "id": "c-1",
    "model": "m",
    "usage": {"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}},
    "choices": [CHOICE],
    "error": {"message": "overloaded", "code": 503, "param": "seed"},
}
ASKS = [
    Write((Message("user", "Hi"),), 16, seed=1, logprobs=True),
    Write((Message("user", "Hi"),), 16, seed=1, tools='[{"type": "function", "function": {"name": "f"}}]'),
]


def reply(folder: Path, stream: random.Random) -> None:
    """Read the answer of a server, whole or in a stream; what it becomes can be stored."""
    del folder
    whole = dict(REPLY) if stream.random() < 0.3 else {key: value for key, value in REPLY.items() if key != "error"}
    if stream.random() < 0.5:
        body = _body(changed(whole, stream))
    else:
        parts = Stream()
        choice = {**CHOICE, "delta": CHOICE["message"]}
        for part in ({**whole, "choices": [choice]} for _ in range(2)):
            data = b"data: " + changed(part, stream) + b"\n\n"
            cut = stream.randrange(len(data))
            parts.feed(data[:cut])
            parts.feed(data[cut:])
        body = parts.body()
    if body is None:
        return
    inner_status(body)
    error = _error(500, body, b"raw")
    (error.refusal + error.param + error.code).encode()
    usage(body)
    for ask in ASKS:
        got = read_reply(body, ask)
        text_chances(got.text, "yes", ["yes", "no"], steps(body))
        said_choice(got.text, ["yes", "no"])
        turn = Message("assistant", got.text, reasoning=got.reasoning or None, tool_calls=got.tool_calls)
        _storable(turn)


def _storable(turn: Message) -> None:
    to_table([admit_sample(Sample("0" * 32, (Message("user", "Hi"), turn)))])


TEMPLATES = (
    CHATML,
    """{%- if tools %}{{ tools | tojson(indent=2) }}{% endif %}{% for m in messages %}
{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}<|{{ m.role }}|>{% if m.role == 'assistant' %}
{% generation %}{{ m['content'] | trim }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}
{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}""",
    """{% macro a(x, n=2) %}{{ x * n }}{% endmacro %}{% set ns = namespace(k=0) %}
{% for m in messages[::-1] %}{% set ns.k = ns.k + 1 %}{{ a(m.content) }}{% endfor %}{{ strftime_now('%Y') }}
{% if add_generation_prompt %}<think>
{% endif %}""",
)
PIECES = (
    "{{", "%}", "{{ x.y.z }}", "{{ 1 / 0 }}", "{% for a in 5 %}{% endfor %}", "{% endfor %}", "{{ messages[9] }}",
    "{{ messages[0]['content'] * -1 }}", "{{ ''.__class__ }}", "{{ raise_exception(messages) }}", "\ud83d", "{# #}",
    "{{ 'a' | int(base=99) }}", "{% include 'x' %}", "{% import 'x' as y %}", "{{ range(10 ** 7) | length }}", "\x00",
    "{% if messages[0].a is defined %}{% endif %}", "{{ messages | length }}", "{{ [] | first }}", "{{ none.x }}",
    "{% set x = messages %}", "{{ 'é' | upper }}", "{{ messages | tojson }}", "{{ bos_token }}", "{{ {}['a'] }}", " ",
    "loop.index0", "|tojson", "x", "\n",
)  # fmt: skip


@cache
def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        return AutoTokenizer.from_pretrained(two_layer_model(Path(folder)))


def template(folder: Path, stream: random.Random) -> None:
    """Render conversations with a changed template."""
    del folder
    source = stream.choice(TEMPLATES)
    for _ in range(stream.randrange(1, 4)):
        ends = [found.end() for found in re.finditer(r"[%}]}|^", source)]
        place = stream.choice(ends) if stream.random() < 0.7 else stream.randrange(len(source) + 1)
        end = place + (stream.randrange(12) if stream.random() < 0.2 else 0)
        source = source[:place] + stream.choice(PIECES) + source[end:]
    tokenizer = _tokenizer()
    tokenizer.chat_template = source
    opened = ChatTemplate(tokenizer)
    talk = [Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Yes.")]
    opened.render(talk[stream.randrange(2) :], tokenize=False)
    opened.marks(talk[1:])


KINDS: dict[str, Try] = {
    "recipe": toml,
    "stored recipe": stored_recipe,
    "shard": shard,
    "manifest": _file_of_store("generate-1", MANIFEST),
    "figures": _file_of_store("generate-1", "figures.json"),
    "recipe of a run": _file_of_store("runs", "night-1", "recipe.json"),
    "ledger": ledger,
    "model": model,
    "reply": reply,
    "template": template,
}
"""What is tried with each kind of input, besides the eight files of rows."""
