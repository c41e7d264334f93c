"""Records with planted copies: real sentences of English and Chinese recombined, and copies of known truth.

    python benchmarks/planted.py --data FOLDER --num 100000 --out FILE

The folder holds `rt_polarity.pos/.neg`, `gsm8k_train.jsonl` (English) and `waimai_10k.csv` (Chinese). A record is an
instruction of one of forty templates and three to five sentences; one in six is Chinese, one in thirty is a piece of 3
to 12 words.
"""

import argparse
import csv
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from gristmill.cluster.text.scripts import HAN
from gristmill.selection.duplicates.carriers import NEGATIONS, NEGATIONS_ZH, NUMBERS, NUMBERS_ZH

KINDS = {"copy": 0.07, "variant": 0.03, "edit": 0.1, "twin": 0.03, "hot": 0.01}
"""Shares of planted records; the rest are bases. `copy`: the same text. `variant`: other case, spaces, punctuation.
`edit`: 1 to 10 % of at least ten words, at least one and none that carries meaning, replaced (60 %), left out or put
in. `twin`: a number
changed, which makes another record. `hot`: edits of 1 to 5 % of one and the same record."""
RATES = tuple(n / 100 for n in range(1, 11))
CHINESE, SHORT = 1 / 6, 1 / 30
TASKS = (
    (
        "Summarise",
        "Rewrite",
        "Continue",
        "Explain",
        "Translate",
        "Comment on",
        "Check",
        "Shorten",
        "Classify",
        "Answer",
    ),
    ("the following text", "this passage", "these lines", "what follows"),
)
TASKS_ZH = (
    ("总结", "改写", "续写", "解释", "翻译", "评论", "检查", "缩短", "分类", "回答"),
    ("下面的文字", "这段话", "这几句", "以下内容"),
)
WIDE = str.maketrans("，。！？", ",.!?")


class Sources(NamedTuple):
    """Real sentences; of the maths problems each has its numbers."""

    english: Sequence[str]
    chinese: Sequence[str]


class Record(NamedTuple):
    text: str
    group: int
    """The base that it is a copy of; its own number where it is none."""
    family: int
    """The same, but of a twin the base that it was made from."""
    kind: str
    rate: float
    """Share of words edited."""


def sources(folder: Path) -> Sources:
    """Return the sentences of a folder."""
    lines = [line for name in ("pos", "neg") for line in _lines(folder / f"rt_polarity.{name}")]
    for line in _lines(folder / "gsm8k_train.jsonl"):
        row = json.loads(line)
        lines += re.split(r"(?<=[.?!])\s+", row["question"]) + re.sub(r"<<.*?>>", "", row["answer"]).split("\n")[:-1]
    with (folder / "waimai_10k.csv").open(encoding="utf-8") as file:
        chinese = [row["review"].strip() for row in csv.DictReader(file)]
    return Sources(
        sorted({line.strip() for line in lines if 8 <= len(line.split()) <= 20}),
        sorted({line for line in chinese if 10 <= len(line) <= 40}),
    )


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


def planted(source: Sources, num: int, seed: int) -> list[Record]:
    """Return shuffled records; every base has at most one edited copy, and the hot one all of its kind."""
    rng = random.Random(seed)
    counts = {kind: round(share * num) for kind, share in KINDS.items()}
    texts: dict[str, None] = {}
    while len(texts) < num - sum(counts.values()):
        texts[_base(source, rng)] = None  # no text twice unless planted
    made = [Record(text, n, n, "base", 0.0) for n, text in enumerate(texts)]
    numbered = [base.group for base in made if re.search(r"\d", base.text)]
    bases = {
        "copy": rng.choices(range(len(made)), k=counts["copy"]),
        "variant": rng.choices(range(len(made)), k=counts["variant"]),
        "edit": rng.sample([base.group for base in made if len(split(base.text)) >= 10], counts["edit"]),
        "twin": rng.sample(numbered, counts["twin"]),
        "hot": [0] * counts["hot"],
    }
    words = [word for text in rng.sample(source.english, 2000) for word in text.split() if word.isalpha()]
    words = [word for word in words if not carries(word)]
    for kind, of in bases.items():
        for group in of:
            rate = rng.choice(RATES if kind == "edit" else RATES[:5]) if kind in {"edit", "hot"} else 0.0
            text = _planted(made[group].text, kind, rate, words, rng)
            made.append(Record(text, len(made) if kind == "twin" else group, group, kind, rate))
    rng.shuffle(made)
    return made


def _base(source: Sources, rng: random.Random) -> str:
    chinese, short = rng.random() < CHINESE, rng.random() < SHORT
    pool, tasks = (source.chinese, TASKS_ZH) if chinese else (source.english, TASKS)
    if short:
        units, most = (pairs(rng.choice(pool)), 8) if chinese else (rng.choice(pool).split(), 12)
        start = rng.randrange(max(1, len(units) - most))
        return ("" if chinese else " ").join(units[start : start + rng.randrange(3, most + 1)])
    task = rng.choice(tasks[0]) + ("" if chinese else " ") + rng.choice(tasks[1])
    return f"{task}{'：' if chinese else ': '}" + ("" if chinese else " ").join(rng.sample(pool, rng.randrange(3, 6)))


def _planted(text: str, kind: str, rate: float, words: Sequence[str], rng: random.Random) -> str:
    if kind == "variant":
        form = rng.randrange(4)
        return (text.upper(), "  ".join(text.split(" ")), text.translate(WIDE) + " !", f" {text.capitalize()}...")[form]
    if kind == "twin":
        place = rng.choice([*re.finditer(r"\d+", text)])
        return f"{text[: place.start()]}{int(place[0]) + rng.randrange(1, 9)}{text[place.end() :]}"
    return edited(text, rate, words, rng) if rate else text


def _is_chinese(text: str) -> bool:
    return bool(re.search(f"[{HAN}]", text))


def split(text: str) -> list[str]:
    """Return the words of a text, or pairs of characters of a Chinese one."""
    return pairs(text) if _is_chinese(text) else text.split()


def pairs(text: str) -> list[str]:
    """Return pairs of characters, which is about the length of Chinese words."""
    return [text[n : n + 2] for n in range(0, len(text), 2)]


CARRIERS = {*NUMBERS.split(), *NEGATIONS.split()}


def carries(unit: str) -> bool:
    """Say whether a word, or a pair of Chinese characters, has a number, a negation, a sign or a variable."""
    plain = re.sub(r"\W", "", unit.lower())
    signs = re.search(r"[\d=<>^+~$€£*/-]", unit) or any(sign in unit for sign in NUMBERS_ZH + NEGATIONS_ZH)
    return plain in CARRIERS or bool(signs) or (len(plain) == 1 and plain.isascii())


def edited(text: str, rate: float, words: Sequence[str], rng: random.Random) -> str:
    """Return a text with a share of its words changed, at least one and none that carries meaning; Chinese by pairs."""
    chinese, units = _is_chinese(text), split(text)
    able = [n for n, unit in enumerate(units) if not carries(unit)]
    spare = [units[n][::-1] for n in able] if chinese else words
    for place in rng.sample(able, min(len(able), max(1, round(rate * len(units))))):
        how = rng.random()
        new = rng.choice(spare)
        units[place] = new if how < 0.6 else "" if how < 0.8 else units[place] + ("" if chinese else " ") + new
    return "".join(units) if chinese else " ".join(unit for unit in units if unit)


def table(records: Sequence[Record]) -> pa.Table:
    """Return the records as columns, in their order."""
    text, *further = zip(*records, strict=True)
    return pa.table([pa.array(text, pa.large_string()), *map(pa.array, further)], names=list(Record._fields))


def main() -> None:
    """Write the records of a size to an Arrow file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--num", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = table(planted(sources(args.data), args.num, args.seed))
    with pa.OSFile(str(args.out), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows.combine_chunks())


if __name__ == "__main__":
    main()
