"""Leaked evaluation items, verbatim and edited: how many `decontaminate` finds, and how many clean rows it drops.

    python benchmarks/leaks.py --data FOLDER [--name after]

The folder is that of `planted.py`. 300 real texts (maths problems in English, reviews in Chinese) are the evaluation
set; each is edited in every way, and all edited ones stand among the clean rows, which are the other texts of the same
source. A leak counts as found when its own item is named. `leaks.json` holds the figures by name.
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

NUM = 300
NAMES = ("Priya", "Tomas", "Yuki", "Carlos", "Fatima", "Ingrid", "Kofi", "Nadia")
LEAD = "Read the problem that follows with care, think about it step by step, and then write down the answer to it. "
LEAD_ZH = "请仔细阅读下面这条顾客评论，然后按照要求判断它的情感倾向，并且简单说明你的理由："
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


def measure(items: list[str], clean: list[str], lead: str) -> dict[str, float]:
    """Return the shares found by way, of clean rows dropped, and of clean rows behind the template of the set."""
    import tempfile

    import gristmill

    rng = random.Random(0)
    made = [(way, n, other) for way, edit in WAYS.items() for n, t in enumerate(items) if (other := edit(t, rng))]
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        exam = Path(folder) / "exam.jsonl"
        exam.write_text("".join(json.dumps({"prompt": text, "completion": "no"}) + "\n" for text in items))
        behind = Path(folder) / "behind.jsonl"
        behind.write_text("".join(json.dumps({"prompt": lead + text, "completion": "no"}) + "\n" for text in items))
        rows = [{"prompt": text, "completion": ANSWER} for text in dict.fromkeys([*(t for _, _, t in made), *clean])]
        gone = _gone(gristmill.select(rows, {"kind": "decontaminate", "sets": [str(exam)]}))
        for way in WAYS:
            mine = [text in gone for name, _, text in made if name == way]
            if len(mine) >= 20:
                found[f"{way} ({len(mine)})"] = round(sum(mine) / len(mine), 4)
        found[f"clean rows ({len(clean)})"] = round(sum(text in gone for text in clean) / len(clean), 5)
        rows = [{"prompt": lead + text, "completion": ANSWER} for text in clean[:2000]]
        gone = _gone(gristmill.select(rows, {"kind": "decontaminate", "sets": [str(behind)]}))
        found["clean rows behind the template of the set (2000)"] = round(len(gone) / 2000, 5)
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
    for language, texts, lead in (("en", english, LEAD), ("zh", chinese, LEAD_ZH)):
        random.Random(0).shuffle(texts)
        mine[language] = measure(texts[:NUM], texts[NUM : NUM + 6000], lead)
    args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(mine, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
