"""Training: label tokens per CPU-second beside TRL, HF Trainer and bare DeepSpeed; peak memory against the plan.

    python benchmarks/training.py memory
    python benchmarks/training.py speed --data FILE.jsonl [--samples 48] [--max-length 512] [--rounds 3]
    python benchmarks/training.py encoding --data FILE.jsonl [--rounds 3]

`memory`: 22 combinations of model, task, ZeRO stage, number of workers, tuning, precision, offloading, gradient
checkpointing and micro-batch; VmHWM of the largest worker, over the whole run with its checkpoint and export, against
`gristmill.training.memory`. The models have random weights, and rows are full.
`speed`: full fine-tuning of the builtin model in fp32 on one thread, on the same samples with the same number of
optimizer steps; label tokens (those that count in the loss) over CPU time after the first step. `encoding`: samples
encoded over CPU time, as `[train]` encodes them; beside it, what the tokenizer alone takes for the rendered texts.

FILE has rows in any form that `input` of a recipe reads. The workers run the real training loop, without Ray.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common import HERE, in_process, memory, write

from gristmill.cluster.contract.sample import Message, Sample, seed, to_table
from gristmill.cluster.models import names, products
from gristmill.cluster.runtime.resources import Need
from gristmill.cluster.store.store import Manifest, Store
from gristmill.training.data import prepare as data
from gristmill.training.data import tokens
from gristmill.training.job import Train
from gristmill.training.supervision.heartbeat import Heartbeat, Phase
from gristmill.training.tasks import prepare as tasks

SAMPLES, LABELLED = "select-000000000000", "select-000000000001"
FULL, LORA, LAST = {"kind": "full"}, {"kind": "lora"}, {"kind": "freeze", "last_layers": 1}
HOST = {"offload_optimizer": "cpu"}
COMBINATIONS: tuple[tuple[str, int, int, dict[str, Any]], ...] = (
    ("llama", 0, 1, {"tuning": FULL, "precision": "fp32"}),
    ("llama", 0, 2, {"tuning": LORA, "precision": "fp32", "micro_batch_size": 4}),
    ("llama", 1, 1, {"tuning": LORA, "precision": "bf16", "gradient_checkpointing": True}),
    ("llama", 1, 2, {"tuning": FULL, "precision": "fp32"}),
    ("llama", 1, 2, {"tuning": FULL, "precision": "bf16", "micro_batch_size": 4}),
    ("llama", 2, 2, {"tuning": FULL, "precision": "fp32", "zero": HOST}),
    ("llama", 2, 3, {"tuning": LORA, "precision": "fp32"}),
    ("llama", 3, 2, {"tuning": FULL, "precision": "fp32"}),
    ("llama", 3, 3, {"tuning": LORA, "precision": "bf16"}),
    ("qwen", 1, 2, {"tuning": LAST, "precision": "fp32"}),
    ("qwen", 2, 2, {"tuning": FULL, "precision": "bf16", "gradient_checkpointing": True, "micro_batch_size": 4}),
    ("qwen", 3, 2, {"tuning": FULL, "precision": "bf16", "zero": {**HOST, "offload_params": "cpu"}}),
    ("qwen", 2, 2, {"tuning": FULL, "precision": "fp32", "sequence_parallel": 2, "micro_batch_size": 4}),
    ("bert", 0, 1, {"tuning": FULL, "precision": "fp32", "micro_batch_size": 8}),
    ("bert", 1, 2, {"tuning": FULL, "precision": "fp32", "micro_batch_size": 16, "gradient_checkpointing": True}),
    ("bert", 2, 2, {"tuning": LORA, "precision": "bf16", "micro_batch_size": 16}),
    ("bert 768x4", 0, 1, {"tuning": FULL, "precision": "fp32", "micro_batch_size": 16, "max_length": 128}),
    ("bert 256x8", 0, 1, {"tuning": LORA, "precision": "fp32", "micro_batch_size": 16}),
    ("bert 768x6", 2, 2, {"tuning": FULL, "precision": "bf16", "micro_batch_size": 4, "max_length": 384}),
    ("bert 640x4", 0, 1, {"tuning": FULL, "precision": "fp32", "micro_batch_size": 16, "max_length": 96}),
    ("bert 512x8", 1, 1, {"tuning": FULL, "precision": "fp32", "micro_batch_size": 8, "max_length": 128}),
    ("bert 384x6", 0, 1, {"tuning": FULL, "precision": "bf16", "micro_batch_size": 32, "max_length": 64}),
)
"""Model, stage of ZeRO, number of workers and further settings of each run. `bert 768x4` has 4 layers of 768."""
LENGTH = 512
KINDS = ("gristmill", "gristmill-mkl", "deepspeed", "trl-packed", "hf-padded")
"""The loops. `gristmill-mkl` computes products with the library that the others use too."""


class Clock(Heartbeat):
    """A heartbeat that notes the CPU time and the memory at the beginning of each phase."""

    def __init__(self, folder: Path, rank: int) -> None:
        """Begin without a note."""
        self.notes: list[tuple[str, int, float, float]] = []
        super().__init__(folder, rank, "here", 5.0)

    def enter(self, phase: Phase, step: int) -> None:
        """Note what the process has used until now."""
        self.notes.append((phase, step, time.process_time(), memory("VmHWM") / 1024))
        super().enter(phase, step)


def train(uri: str, output: str, settings: dict[str, Any], rank: int, world: int) -> dict[str, Any]:
    """Run one worker of the training loop in this process and return its notes."""
    import ray.train.torch
    import torch
    import torch.distributed as dist

    from gristmill.training.loop import worker as loop
    from gristmill.training.loop.state import WorkerPlan

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK="0")
    dist.init_process_group("gloo", init_method=f"file://{uri}/{output}.rendezvous", rank=rank, world_size=world)
    setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))  # noqa: B010 - it asks Ray Train, which is absent
    store, job = Store(uri), Train.model_validate(settings)
    base = names.local(job.model)
    head = tasks.head(store, output, job)
    plan = WorkerPlan(job, store, output, base, job.steps or 1, job.batching(world), Need(1), None, head)
    clock = Clock(store.folder(output), rank)
    loop._work(plan, rank, clock)
    return {"notes": clock.notes, "peak_gib": round(memory("VmHWM") / 1024, 3)}


def rows_of(path: Path, count: int) -> list[Sample]:
    """Return conversations of a JSON-lines file with questions and answers."""
    found = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            ask = row.get("question") or row.get("instruction") or row.get("prompt")
            say = row.get("answer") or row.get("output") or row.get("completion")
            if ask and say:
                found.append(seed([Message("user", str(ask)), Message("assistant", str(say))]))
            if len(found) == count:
                break
    return found


def shelf(folder: Path, rows: Sequence[Sample]) -> Store:
    """Return a store that holds the rows."""
    store = Store(str(folder))
    shard = store.commit_shard(SAMPLES, "shard-00000", to_table(list(rows)))
    store.commit(Manifest(SAMPLES, "samples", "select", "0" * 32, {}, {}, (shard,)))
    return store


def labelled(store: Store) -> None:
    """Write texts with two labels, each as long as a row."""
    rows = [
        seed([Message("user", " ".join(str(n + k) for k in range(600))), Message("assistant", ("odd", "even")[n % 2])])
        for n in range(100)
    ]
    shard = store.commit_shard(LABELLED, "shard-00000", to_table(rows))
    store.commit(Manifest(LABELLED, "samples", "select", "1" * 32, {}, {}, (shard,)))


def made(count: int) -> list[Sample]:
    """Return conversations of several lengths; about six of ten tokens are of answers."""
    return [
        seed(
            [
                Message("user", f"Go on from {' '.join(map(str, range(n, n + 15 + n % 30)))}."),
                Message("assistant", " ".join(map(str, range(n, n + 40 + n % 60)))),
            ]
        )
        for n in range(count)
    ]


def write_model(folder: Path, kind: str) -> str:
    """Write a model of a kind with random weights, 19M to 96M, and the builtin model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM
    from transformers import Qwen2Config, Qwen2ForCausalLM  # isort: skip

    shape: dict[str, Any] = {"vocab_size": 49152, "max_position_embeddings": LENGTH}
    sizes: dict[str, Any]
    heads: dict[str, Any]
    torch.manual_seed(0)
    if kind == "llama":
        heads = {"num_attention_heads": 9, "num_key_value_heads": 3}
        sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 4, "tie_word_embeddings": True}
        made: Any = LlamaForCausalLM(LlamaConfig(**shape, **sizes, **heads))
    elif kind == "qwen":
        heads = {"num_attention_heads": 12, "num_key_value_heads": 2}
        sizes = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 3, "tie_word_embeddings": False}
        made = Qwen2ForCausalLM(Qwen2Config(**shape, **sizes, **heads))
    else:
        hidden, layers = map(int, (kind.partition(" ")[2] or "512x6").split("x"))
        heads = {"num_attention_heads": hidden // 64}
        sizes = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers}
        made = BertForMaskedLM(BertConfig(**shape, **sizes, **heads))
    made.save_pretrained(str(folder))
    tokenizer = AutoTokenizer.from_pretrained(names.local(names.SMOLLM2))
    tokenizer.save_pretrained(str(folder))
    return str(folder)


def measure_memory(path: Path) -> dict[str, Any]:
    """Run all combinations; continue a file of results that is there."""
    from gristmill.training.memory import forecast, shape_of

    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        store = shelf(Path(folder), made(400))
        labelled(store)
        models = {kind: write_model(Path(folder) / kind, kind) for kind in dict.fromkeys(c[0] for c in COMBINATIONS)}
        for number, (kind, stage, world, given) in enumerate(COMBINATIONS, 1):
            name = f"{number} {kind} zero-{stage} workers-{world} {json.dumps(given)}"
            settings = {
                "model": models[kind], "workers": world, "steps": 2, "max_length": LENGTH, "validation": 0.02,
                "learning_rate": 1e-4, "save_steps": 1, **given, "zero": {"stage": stage, **given.get("zero", {})},
            }  # fmt: skip
            settings["global_batch_size"] = given.get("micro_batch_size", 1) * world
            if kind.startswith("bert"):
                settings |= {"task": {"kind": "sequence_classification"}, "too_long": "truncate"}
            job = Train.model_validate(settings)
            if name not in results:
                output = f"m{number}"
                samples = SAMPLES if job.task.causal else LABELLED
                prepare = data.prepare if job.task.causal else tasks.prepare
                prepare(store, output, {"samples": samples}, models[kind], job)
                calls = [json.dumps(["train", store.uri, output, settings, rank, world]) for rank in range(world)]
                results[name] = {"peaks_gib": [one["peak_gib"] for one in at_once(calls)]}
                shutil.rmtree(store.folder(output))
            shape = shape_of(models[kind])
            assert shape is not None
            planned = forecast(shape, job, world, gpu=False).peak / 2**30
            peak = max(results[name]["peaks_gib"])
            results[name] |= {"planned_gib": round(planned, 3), "error": round(planned / peak - 1, 3)}
            sys.stderr.write(f"{name}: {results[name]}\n")
            path.write_text(json.dumps(results, indent=1))
    errors = [abs(one["error"]) for one in results.values()]
    return {"largest_error": max(errors), "within_10_percent": sum(e <= 0.1 for e in errors), "runs": results}


def at_once(arguments: list[str]) -> list[dict[str, Any]]:
    """Run workers of one group, a process each."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, str(HERE / "training.py"), "--only"]
    started = [
        subprocess.Popen([*command, one], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for one in arguments
    ]
    said = [process.communicate(timeout=1800)[0] for process in started]
    return [json.loads(text.strip().splitlines()[-1]) for text in said]


def speed_of(kind: str, uri: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train with one of the loops in this process; return label tokens and CPU time after the first step."""
    import torch

    torch.set_num_threads(1)
    if kind.startswith("gristmill"):
        if kind == "gristmill-mkl":  # the products of the other loops, whatever this machine has
            setattr(products, "use_avx512", lambda: False)  # noqa: B010 - a variant for comparison
        notes = train(uri, "packed", settings, 0, 1)["notes"]
        steps = [cpu for phase, _, cpu, _ in notes if phase == "step"]
        end = next(cpu for phase, _, cpu, _ in notes if phase == "evaluate")
        lines = [json.loads(line) for line in (Path(uri) / "packed/metrics.jsonl").read_text().splitlines()]
        labels = [line["trained_tokens"] for line in lines if "step" in line]
        return {"labels": sum(labels[1:]), "cpu_s": round(end - steps[1], 2), "steps": len(labels) - 1}
    from peers_training import PEERS

    peer: Callable[[str, dict[str, Any]], Iterator[int]] = PEERS[kind]
    found: list[tuple[int, float]] = [(labels, time.process_time()) for labels in peer(uri, settings)]
    return {
        "labels": sum(labels for labels, _ in found[1:]), "cpu_s": round(found[-1][1] - found[0][1], 2),
        "steps": len(found) - 1,
    }  # fmt: skip


def measure_speed(data_file: Path, count: int, length: int, rounds: int, path: Path) -> dict[str, Any]:
    """Train with each loop in a process of its own, in turn, some times; continue a file of results that is there."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for number, kind in itertools.product(range(rounds), KINDS):
        name = f"{kind} {number}"
        if name in results:
            continue
        with tempfile.TemporaryDirectory() as folder:
            store = shelf(Path(folder), rows_of(data_file, count))
            settings = {
                "model": names.SMOLLM2, "workers": 1, "precision": "fp32", "global_batch_size": 4, "epochs": 1,
                "max_length": length, "validation": 0.02, "learning_rate": 1e-5, "tuning": {"kind": "full"},
                "warmup_ratio": 0.0, "schedule": "constant",
            }  # fmt: skip
            job = Train.model_validate(settings)
            packed = data.prepare(store, "packed", {"samples": SAMPLES}, names.local(job.model), job)
            settings["steps"] = packed.bins // 4
            call = json.dumps(["speed", kind, store.uri, settings])
            one = in_process("training.py", ["--only", call], {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"})
        results[name] = one | {"labels_per_cpu_s": round(one["labels"] / one["cpu_s"], 1)}
        path.write_text(json.dumps(results, indent=1))
    each = {kind: [results[f"{kind} {n}"]["labels_per_cpu_s"] for n in range(rounds)] for kind in KINDS}
    middle = {kind: statistics.median(values) for kind, values in each.items()}
    times = {
        own: {kind: round(middle[own] / middle[kind], 2) for kind in KINDS if not kind.startswith("gristmill")}
        for own in KINDS[:2]
    }
    return {
        "label_tokens_per_cpu_s": each, "times": times, "runs": results, "max_length": length, "samples": count,
        "products_gflops": gflops(),
    }  # fmt: skip


def gflops() -> dict[str, float]:
    """Return the speed of a product of the builtin model's layers, with MKL and as `[train]` computes it."""
    import torch

    torch.set_num_threads(1)
    given, weight = torch.randn(512, 576), torch.randn(1536, 576)
    found = {}
    for name in ("mkl", "chosen"):
        if name == "chosen":
            products.use_avx512()
        spent = []
        for _ in range(50):
            began = time.process_time()
            for _ in range(5):
                given @ weight.T
            spent.append((time.process_time() - began) / 5)
        found[name] = round(2 * given.numel() * len(weight) / min(spent) / 1e9, 1)
    return found


def measure_encoding(path: Path, rounds: int) -> dict[str, Any]:
    """Encode the rows with an encoder that has seen none, in turn with the tokenizer alone, on one thread."""
    from gristmill.training.data import chat

    os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    rows = rows_of(path, 10_000)
    table = shelf(Path(tempfile.mkdtemp()), rows).read(SAMPLES)
    job = Train(max_length=2048)
    tokenizer = chat.tokenizer(names.local(job.model), None, {})
    plain = [tokenizer.apply_chat_template([turn._asdict() for turn in row.messages], tokenize=False) for row in rows]

    def alone() -> None:
        for start in range(0, len(plain), chat.AT_ONCE):
            tokenizer.backend_tokenizer.encode_batch(plain[start : start + chat.AT_ONCE], add_special_tokens=False)

    def encode() -> None:
        chat.encode(tokenizer, tokens.conversations(table), job.encoding)

    speeds: dict[str, list[int]] = {"rows_per_cpu_s": [], "tokenizer_alone_rows_per_cpu_s": []}
    for _, (name, function) in itertools.product(range(rounds), zip(speeds, (encode, alone), strict=True)):
        began = time.process_time()
        function()
        speeds[name].append(round(len(rows) / (time.process_time() - began)))
    middle = {name: statistics.median(values) for name, values in speeds.items()}
    characters = round(sum(map(len, plain)) / len(plain))
    return {"rows": len(rows), "characters_of_a_row": characters, **middle, "rounds": speeds}


def only(call: list[Any]) -> dict[str, Any]:
    """Do one part in this process."""
    kind, *arguments = call
    return train(*arguments) if kind == "train" else speed_of(*arguments)


def main() -> None:
    """Measure what is asked for and write it beside what was measured before."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", nargs="?", choices=("memory", "speed", "encoding"))
    parser.add_argument("--only")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.only:
        sys.stdout.write(json.dumps(only(json.loads(given.only))) + "\n")
        return
    path = HERE / "training.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    if given.part == "memory":
        partial = Path(tempfile.gettempdir()) / "gristmill-training-memory.json"
        result = measure_memory(partial)
    elif given.part == "speed":
        partial = Path(tempfile.gettempdir()) / "gristmill-training-speed.json"
        result = measure_speed(given.data, given.samples, given.max_length, given.rounds, partial)
    else:
        result = measure_encoding(given.data, given.rounds)
    write(
        "training", {**{key: known[key] for key in ("memory", "speed", "encoding") if key in known}, given.part: result}
    )


if __name__ == "__main__":
    main()
