"""Novelty against a pool of 10^6 instructions: speed against an all-pairs loop of rouge_score, and equal decisions.

    python benchmarks/novelty.py --data FOLDER [--pool 1000000] [--sample 10000] [--reference FILE]

The folder holds real text, which is recombined to as many instructions as asked for: `rt_polarity.pos/.neg` and
`gsm8k_train.jsonl` (English), `waimai_10k.csv` and `seed_tasks_zh.jsonl` (Chinese), `seed_tasks_en.jsonl`.

1. The instructions of the sample go through one after another, each compared with all accepted before it, by
   `Novelty` and by a loop over `rouge_score`; every decision, and every similarity that `Novelty` finds, must be equal.
   The loop is given our tokenizer, because its own returns no token for Chinese and parts `don't`; how many decisions
   on English its own would have changed is counted on the first 1,000.
2. Against the pool: time of a comparison, for texts near to it (made as it is) and far from it (whole questions and
   seed tasks), beside the loop's time a pair; and against an unpruned search of all pairs in the same compiled
   language, whose decisions and similarities must be equal too.
3. Adds a second, bytes an instruction.

Times are of the process's CPU on one core. `--reference FILE` keeps the loop's decisions (an hour) between runs.
"""

import argparse
import csv
import json
import os
import platform
import random
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.text.scripts import is_chinese
from gristmill.cluster.text.words import tokens
from gristmill.generation.filters.novelty import Instructions, Novelty, f_measure, lcs

HERE = Path(__file__).parent
FLOORS = (0.7, 0.5, 0.0)
"""Settings of `exact_from`: decisions alone, the default, and the nearest of all."""
QUERIES = 400
CHECKED = 60
"""Texts whose decision is checked by an unpruned search."""
THRESHOLD = 0.7
CHINESE = 0.3
"""Share of Chinese instructions."""
NEAR = 0.1
"""Share of instructions that are an earlier one with a few words exchanged, so that some are dropped."""


class Ours:
    """Our tokenizer in the form that `rouge_score` takes."""

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens."""
        return tokens(text)


def fragments(folder: Path) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return (English instructions, English clauses, Chinese instructions, Chinese clauses) of real text."""
    text = [line for name in ("pos", "neg") for line in _lines(folder / f"rt_polarity.{name}")]
    text += [json.loads(line)["question"] for line in _lines(folder / "gsm8k_train.jsonl")]
    english = [part.strip() for line in text for part in re.split(r"[.,;:?!()]+", line)]
    with (folder / "waimai_10k.csv").open(encoding="utf-8") as file:
        reviews = [row["review"] for row in csv.DictReader(file)]
    chinese = [part.strip() for line in reviews for part in re.split(r"[，。！？；,.!?;~… ]+", line)]
    seeds = [
        [json.loads(line)["instruction"].split("\n")[0] for line in _lines(folder / f"seed_tasks_{language}.jsonl")]
        for language in ("en", "zh")
    ]
    return (
        [s for s in seeds[0] if len(tokens(s)) <= 12],
        sorted({f for f in english if 3 <= len(tokens(f)) <= 9}),
        [s for s in seeds[1] if len(tokens(s)) <= 16],
        sorted({f for f in chinese if 3 <= len(tokens(f)) <= 10}),
    )


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


def instructions(folder: Path, seed: int) -> Iterator[str]:
    """Yield instructions without end: a task with a clause, two clauses, or an earlier one with words exchanged."""
    tasks, clauses, tasks_zh, clauses_zh = fragments(folder)
    rng = random.Random(seed)
    recent: list[str] = []
    while True:
        if recent and rng.random() < NEAR:
            made = _changed(rng.choice(recent), rng, clauses)
        elif rng.random() < CHINESE:
            first = rng.choice(tasks_zh if rng.random() < 0.3 else clauses_zh)
            made = f"{first.rstrip('。：')}，{rng.choice(clauses_zh)}"
        else:
            first = rng.choice(tasks if rng.random() < 0.3 else clauses)
            made = f"{first.rstrip('.:')}, {rng.choice(clauses)}"
        if len(recent) < 2000:
            recent.append(made)
        else:
            recent[rng.randrange(2000)] = made
        yield made


def _changed(text: str, rng: random.Random, clauses: Sequence[str]) -> str:
    """Return a text with a tenth to a half of its words, or Chinese characters, replaced or left out."""
    share = rng.uniform(0.1, 0.5)
    if is_chinese(text):
        return "".join(c if rng.random() > share else rng.choice(text) for c in text)
    spare = rng.choice(clauses).split()
    return " ".join(w if rng.random() > share else rng.choice(spare) for w in text.split())


def loop(texts: Sequence[str], tokenizer: Ours | None, log: str = "") -> list[tuple[float, bool]]:
    """Return (largest ROUGE-L F, dropped) of each text against all accepted before it, pair by pair."""
    from rouge_score import rouge_scorer, tokenizers

    split = (tokenizer or tokenizers.DefaultTokenizer(use_stemmer=False)).tokenize
    accepted: list[list[str]] = []
    found: list[tuple[float, bool]] = []
    for n, text in enumerate(texts):
        one = split(text)
        best = max((rouge_scorer._score_lcs(other, one).fmeasure for other in accepted), default=0.0)
        found.append((best, best > THRESHOLD))
        if best <= THRESHOLD:
            accepted.append(one)
        if log and n % 500 == 499:
            print(f"{log}: {n + 1} of {len(texts)}", file=sys.stderr, flush=True)
    return found


def ours(texts: Sequence[str], step: Novelty) -> list[tuple[float, bool]]:
    """Return (similarity or 0 below the floor, dropped) of each text against all accepted before it."""
    memory, found = step.memory(), list[tuple[float, bool]]()
    for n, text in enumerate(texts):
        sample = Sample(id=str(n), messages=(Message("user", text),))
        similarity = memory.nearest(text)[0]
        dropped = step.compare(sample, memory, len(memory)).dropped is not None
        found.append((similarity, dropped))
        if not dropped:
            memory.add(sample)
    return found


def unpruned(pool: Instructions) -> Any:
    """Return a search of all pairs of a memory: text -> the largest similarity."""
    import numba

    lcs_, f_measure_ = numba.njit(lcs), numba.njit(f_measure)

    def largest(words: Any, flat: Any, ends: Any) -> float:
        best = 0.0
        for k in range(len(ends) - 1):
            size = ends[k + 1] - ends[k]
            best = max(best, f_measure_(lcs_(words, flat[ends[k] : ends[k + 1]]), len(words), size))
        return best

    compiled = numba.njit(largest)

    def search(text: str) -> float:
        words = np.array(pool._encode(text, grow=False), np.int32)
        return float(compiled(words, pool._words, pool._ends[: len(pool) + 1]))

    return search


def decisions(folder: Path, count: int, reference: Path | None) -> dict[str, Any]:
    """Compare the decisions on the sample with those of the loop, which is run or read from a file."""
    stream = instructions(folder, 0)
    sample = [next(stream) for _ in range(count)]
    if reference and reference.exists():
        known = json.loads(reference.read_text(encoding="utf-8"))
    else:
        begin = time.process_time()
        known = {"found": loop(sample, Ours(), "reference"), "cpu_s": time.process_time() - begin}
        if reference:
            reference.write_text(json.dumps(known), encoding="utf-8")
    expected = [(value, bool(dropped)) for value, dropped in known["found"]]
    step = Novelty()
    ours(sample[:20], step)  # compile
    begin = time.process_time()
    found = ours(sample, step)
    seconds = time.process_time() - begin
    floor = step.memory().floor
    exact = [(value if value > floor else 0.0, dropped) for value, dropped in expected]
    english = [text for text in sample[:1000] if not is_chinese(text)]
    own = [dropped for _, dropped in loop(english, None)]
    chinese = [n for n, text in enumerate(sample) if is_chinese(text)]
    return {
        "sample": count,
        "chinese": len(chinese),
        "dropped": sum(dropped for _, dropped in expected),
        "dropped_chinese": sum(expected[n][1] for n in chinese),
        "different_decisions": sum(a[1] != b[1] for a, b in zip(found, expected, strict=True)),
        "different_similarities": sum(abs(a[0] - b[0]) > 1e-9 for a, b in zip(found, exact, strict=True)),
        "loop_cpu_s": round(known["cpu_s"], 1),
        "ours_cpu_s": round(seconds, 2),
        "ratio": round(known["cpu_s"] / seconds),
        "own_tokenizer": {
            "sample": len(english),
            "different_decisions": sum(a != b for a, (_, b) in zip(own, loop(english, Ours()), strict=True)),
        },
    }


def size_of(memory: Instructions) -> dict[str, float]:
    """Return the bytes of a memory for each instruction: arrays with their room to grow, vocabulary, ids."""
    arrays = [value for value in vars(memory).values() if isinstance(value, np.ndarray)]
    words = sum(sys.getsizeof(word) + sys.getsizeof(number) for word, number in memory._numbers.items())
    rest = words + sys.getsizeof(memory._numbers) + sys.getsizeof(memory._ids)
    rest += sum(sys.getsizeof(one) for one in memory._ids)
    return {
        "arrays": round(sum(value.nbytes for value in arrays) / len(memory), 1),
        "with_vocabulary_and_ids": round((sum(value.nbytes for value in arrays) + rest) / len(memory), 1),
    }


def timed(memory: Instructions, texts: Sequence[str], check: Any) -> dict[str, Any]:
    """Return milliseconds a comparison, and how many of the first texts an unpruned search decides otherwise."""
    spent, found = [], []
    for text in texts:
        begin = time.process_time()
        found.append(memory.nearest(text)[0])
        spent.append(1000 * (time.process_time() - begin))
    true = [check(text) for text in texts[:CHECKED]]
    exact = [value if value > memory.floor else 0.0 for value in true]
    return {
        "texts": len(texts),
        "mean_ms": round(statistics.mean(spent), 3),
        "p99_ms": round(sorted(spent)[int(0.99 * len(spent))], 3),
        "too_near": sum(value > THRESHOLD for value in found),
        "checked": len(true),
        "different_decisions": sum((a > THRESHOLD) != (b > THRESHOLD) for a, b in zip(found, true, strict=False)),
        "different_similarities": sum(abs(a - b) > 1e-9 for a, b in zip(found, exact, strict=False)),
    }


def against_pool(folder: Path, count: int) -> dict[str, Any]:
    """Measure comparisons with a pool, at three floors, beside the loop's time a pair."""
    stream = instructions(folder, 1)
    pool = [next(stream) for _ in range(count)]
    near = [next(stream) for _ in range(QUERIES)]
    whole = [json.loads(line)["question"] for line in _lines(folder / "gsm8k_train.jsonl")[: QUERIES // 2]]
    tasks = [
        json.loads(line)["instruction"]
        for name in ("en", "zh")
        for line in _lines(folder / f"seed_tasks_{name}.jsonl")[: QUERIES // 4]
    ]
    made: dict[str, Any] = {"pool": count, "mean_tokens": statistics.mean(len(tokens(text)) for text in pool[:10_000])}
    for floor in FLOORS:
        memory = Novelty(exact_from=floor).memory()
        memory.add(Sample(id="", messages=(Message("user", pool[0]),)))
        memory.nearest(pool[0])  # compile
        begin = time.process_time()
        for n, text in enumerate(pool):
            memory.add(Sample(id=f"{n:032x}", messages=(Message("user", text),)))
        seconds = time.process_time() - begin
        check = unpruned(memory)
        made[f"exact_from_{floor}"] = {
            "adds_per_s": round(count / seconds),
            "bytes": size_of(memory),
            "near": timed(memory, near, check),
            "far": timed(memory, whole + tasks, check),
        }
        print(json.dumps(made[f"exact_from_{floor}"]), file=sys.stderr, flush=True)
    made["loop_us_a_pair"] = round(1e6 * _loop_pair_s(pool, near), 1)
    for floor in FLOORS:
        part = made[f"exact_from_{floor}"]
        part["ratio_near"] = round(made["loop_us_a_pair"] * count / 1000 / part["near"]["mean_ms"])
        part["ratio_far"] = round(made["loop_us_a_pair"] * count / 1000 / part["far"]["mean_ms"])
    return made


def _loop_pair_s(pool: Sequence[str], texts: Sequence[str]) -> float:
    """Return the seconds that the loop takes for one pair, its pool tokenised beforehand."""
    from rouge_score import rouge_scorer

    others = [tokens(text) for text in pool[:20_000]]
    asked = [tokens(text) for text in texts[:10]]
    begin = time.process_time()
    for one in asked:
        max(rouge_scorer._score_lcs(other, one).fmeasure for other in others)
    return (time.process_time() - begin) / (len(others) * len(asked))


def main() -> None:
    """Measure and write `novelty.json` beside this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pool", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=10_000)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--out", type=Path, default=HERE / "novelty.json")
    args = parser.parse_args()
    result = {
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("numpy", "numba", "rouge-score")},
        "settings": {"max_similarity": THRESHOLD, "chinese": CHINESE, "near": NEAR, "loop": "rouge_score rougeL F"},
        "against_pool": against_pool(args.data, args.pool),
        "decisions": decisions(args.data, args.sample, args.reference),
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["decisions"], indent=2))


def _cpu() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return found[1] if found else platform.processor()


if __name__ == "__main__":
    main()
