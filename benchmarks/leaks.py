"""Leaked evaluation items, verbatim and edited: how many `decontaminate` finds, and how many clean rows it drops.

    python benchmarks/leaks.py --data FOLDER [--name after]

The folder is that of `planted.py`. 300 real texts (maths problems in English, reviews in Chinese) are the evaluation
set; each is edited in every way, and all edited ones stand among the clean rows, which are the other texts of the same
source. A leak counts as found when its sample is dropped. Then clean rows and items are put into the same templates: a
row that goes in its template and stays without it is a hit of the template alone. `leaks.json` holds the figures by
name.
"""

import argparse
import csv
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

from kinds import is_chinese, mistyped, traditional
from planted import pairs

NUM, CLEAN = 300, 2000
NAMES = ("Priya", "Tomas", "Yuki", "Carlos", "Fatima", "Ingrid", "Kofi", "Nadia")
TEMPLATES = (
    "Read the problem that follows with care, think about it step by step, and then write down the answer to it. {}",
    "{} Let us think about this step by step, and give the final answer as one number on a line of its own.",
    "You are a careful student of mathematics.\n\nProblem: {}\n\nExplain your reasoning to a classmate who was ill.",
    "The following text was written by a pupil. Correct its spelling where that is needed: {}",
)
TEMPLATES_ZH = (
    "请仔细阅读下面这条顾客评论，然后按照要求判断它的情感倾向，并且简单说明你的理由：{}",
    "{}\n上面这条评论是正面的还是负面的？请只回答一个词，不要解释。",
    "你是一名外卖平台的客服。\n评论：{}\n请写一段礼貌的回复，不超过五十个字。",
    "下面的文字可能有错别字，请改正：{}",
)
LEAD = "Read the problem that follows with care, think about it step by step, and then write down the answer to it. "
ANSWER = "That is a long story, which would take us far beyond what fits here, so let us leave it at that."


def renumbered(text: str, rng: random.Random) -> str | None:
    other = re.sub(r"\d+", lambda found: str(rng.randrange(2, 99)), text)
    return other if other != text else None


def renamed(text: str, rng: random.Random) -> str | None:
    names = {name: rng.choice(NAMES) for name in re.findall(r"(?<=[a-z,] )[A-Z][a-z]+|^[A-Z][a-z]{2,}", text)}
    return re.sub(r"[A-Z][a-z]+", lambda found: names.get(found[0], found[0]), text) if names else None


def edited(text: str, rng: random.Random) -> str | None:
    units = pairs(text) if is_chinese(text) else text.split()
    for place in rng.sample(range(len(units)), max(1, round(0.1 * len(units)))):
        units[place] = rng.choice(units)[::-1]
    return ("" if is_chinese(text) else " ").join(units)


def halved(text: str, rng: random.Random) -> str | None:
    units = list(text) if is_chinese(text) else text.split()
    middle = len(units) // 2
    return ("" if is_chinese(text) else " ").join(units[:middle] if rng.random() < 0.5 else units[middle:])


WAYS: dict[str, Callable[[str, random.Random], str | None]] = {
    "verbatim": lambda text, rng: f"{text} ",
    "inside a longer text": lambda text, rng: f"{LEAD}{text} {LEAD}",
    "numbers changed": renumbered,
    "names changed": renamed,
    "1 word in 10 edited": edited,
    "half of the question": halved,
    "3 % typos": lambda text, rng: mistyped(text, rng, 0.03),
    "traditional": traditional,
}


def measure(items: list[str], clean: list[str], templates: tuple[str, ...]) -> dict[str, float]:
    """Return the shares found by way, of clean rows dropped, and of clean rows lost to a template alone."""
    import tempfile

    import gristmill

    rng = random.Random(0)
    made = [(way, n, other) for way, edit in WAYS.items() for n, t in enumerate(items) if (other := edit(t, rng))]
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        exam = Path(folder) / "exam.jsonl"
        exam.write_text("".join(json.dumps({"prompt": text, "completion": "no"}) + "\n" for text in items))
        rows = [{"prompt": text, "completion": ANSWER} for text in dict.fromkeys([*(t for _, _, t in made), *clean])]
        gone = _gone(gristmill.select(rows, {"kind": "decontaminate", "sets": [str(exam)]}))
        for way in WAYS:
            mine = [text in gone for name, _, text in made if name == way]
            if len(mine) >= 20:
                found[f"{way} ({len(mine)})"] = round(sum(mine) / len(mine), 4)
        found[f"clean rows ({len(clean)})"] = round(sum(text in gone for text in clean) / len(clean), 5)
        found |= _by_template(items, clean[:CLEAN], templates, Path(folder))
    return found


def _by_template(items: list[str], clean: list[str], templates: tuple[str, ...], folder: Path) -> dict[str, float]:
    """Return the share of clean rows that go in a template and stay without it, by the items that are in it."""
    import gristmill

    def gone(asked: list[str], rows: list[str]) -> set[int]:
        exam = folder / "templates.jsonl"
        exam.write_text("".join(json.dumps({"prompt": text, "completion": "no"}) + "\n" for text in asked))
        made = [{"prompt": text, "completion": ANSWER} for text in rows]
        lost = _gone(gristmill.select(made, {"kind": "decontaminate", "sets": [str(exam)]}))
        return {place for place, text in enumerate(rows) if text in lost}

    wraps: dict[str, Callable[[int, str], str]] = {
        "all items": lambda n, text: templates[0].format(text),
        "all items, four templates in turn": lambda n, text: templates[n % 4].format(text),
        "half of the items": lambda n, text: templates[0].format(text) if n % 2 else text,
        "one item": lambda n, text: templates[2].format(text) if n == 0 else text,
    }
    plain, found = gone(items, clean), dict[str, float]()
    for name, wrap in wraps.items():
        turn = 4 if "turn" in name else 1
        rows = [templates[2 if name == "one item" else n % turn].format(text) for n, text in enumerate(clean)]
        hits = gone([wrap(n, text) for n, text in enumerate(items)], rows) - plain
        found[f"clean rows lost to a template of {name} ({len(clean)})"] = round(len(hits) / len(clean), 5)
    return found


def _gone(chosen: object) -> set[str]:
    return {row["messages"][0]["content"] for row in chosen.dropped.to_pylist()}  # type: ignore[attr-defined]


def main() -> None:
    """Measure and write the figures under a name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", default="after")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("leaks.json"))
    args = parser.parse_args()
    lines = (args.data / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()
    english = sorted({json.loads(line)["question"] for line in lines})
    with (args.data / "waimai_10k.csv").open(encoding="utf-8") as file:
        chinese = sorted({text for row in csv.DictReader(file) if len(text := row["review"].strip()) >= 30})
    result = json.loads(args.out.read_text()) if args.out.exists() else {}
    mine = result.setdefault(args.name, {})
    for language, texts, templates in (("en", english, TEMPLATES), ("zh", chinese, TEMPLATES_ZH)):
        random.Random(0).shuffle(texts)
        mine[language] = measure(texts[:NUM], texts[NUM : NUM + 6000], templates)
    args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(mine, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
