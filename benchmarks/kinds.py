"""Copies of every kind that must be found, and samples of every kind that must stay: shares of pairs, English, Chinese.

    python benchmarks/kinds.py --data FOLDER [--chain] [--name after]

The folder is that of `planted.py`. For each kind, language and length (ten words, sixty words; a Chinese character is
six tenths of a word) 150 real texts are taken, or as many as fit the kind, each with a copy or with another text that
differs in one thing. All of them go through `exact` and `minhash` as they are by default. Of copies the recall is
counted: the pairs of which one loses to the other; of what differs the share lost. Templates are 150 texts around one
own word (or a few), of which all must stay. The 239 problems of `--chain` are real maths problems and variants with one
digit, number word or negation changed; they go through the whole default chain, vectors included. `kinds.json` holds
the figures by name, such as `before` and `after`.
"""

import argparse
import json
import random
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from planted import Sources, pairs, sources

NUM = 150
TYPOS = 0.05
SOUNDS = ("不", "没", "无", "未", "非", "莫", "否", "勿", *"零一二两三四五六七八九十百千万亿半")
WORDS = (
    "not no never none cannot without one two three four five six seven eight nine ten eleven twelve twenty thirty "
    "hundred thousand half twice double triple once first second third thirds fourth fifth sixth quarter dozen nothing "
    "nobody nowhere nor neither"
)
NUMBER_WORDS = (
    *("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("twenty", "thirty", "fifty"),
)
CHINESE_NUMBERS = "二三四五六七八九十"
OPPOSITES = (
    "more/less most/least good/bad best/worst better/worse first/last big/small long/short old/young old/new fast/slow "
    "high/low hot/cold full/empty before/after up/down always/never all/none buy/sell bought/sold funny/boring "
    "happy/sad right/wrong left/right early/late easy/hard love/hate increase/decrease larger/smaller "
    "possible/impossible likely/unlikely many/few give/take gave/took win/lose start/end strong/weak"
    " inside/outside above/below"
)
OPPOSITES_ZH = "好坏 大小 多少 快慢 早晚 热冷 新旧 高低 前后 上下 长短 贵便 男女 来去 有没 软硬 甜苦 咸淡 厚薄"
NEGATED = {"is": "is not", "was": "was not", "can": "cannot", "has": "has not", "will": "will not", "are": "are not"}
LEADS = (
    "Please answer the following question: ",
    "Can you help me with this? ",
    "Hi! Please tell me: ",
    "Question: ",
    "Here is the task. ",
    "Could you please answer this question carefully: ",
)
LEADS_ZH = ("请回答下面的问题：", "请问，", "你好，请帮我回答：", "问题：", "麻烦你告诉我，", "请根据要求回答：")
SIGNS = (
    ("What is {}!?", "What is {}?"),
    ("Compute {}² + 1", "Compute {}2 + 1"),
    ("Compute .{} + 7", "Compute {} + 7"),
    ("What is {} - 3?", "What is {} + 3?"),
    ("What is {} * 3?", "What is {} / 3?"),
    ("Is x < {} when x is 4?", "Is x > {} when x is 4?"),
    ("What does a{}?.b give?", "What does a{}.b give?"),
    ("When does `if (!ready{})` run?", "When does `if (ready{})` run?"),
    ("What is ~{} in C?", "What is {} in C?"),
    ("Is a{} == b true here?", "Is a{} != b true here?"),
    ("What does f(x, y) return for x = {}?", "What does f(y, x) return for x = {}?"),
    ("How much is ${} worth today?", "How much is €{} worth today?"),
)
FINE = "a fine answer"
SEPARATED = re.compile(r"(1)(234)")
Change = Callable[[str, random.Random], str | None]


def is_chinese(text: str) -> bool:
    return bool(re.search("[一-鿿]", text))


def is_carrier(word: str) -> bool:
    """Say whether a word is a number, a negation or a variable (the `x` of `4 x 5` too), which copies never change."""
    parts = re.split(r"\W+", word.lower())
    variable = any(len(part) == 1 and part.isascii() and part not in "aist" for part in parts)
    carries = any(part in WORDS.split() for part in parts) or word in SOUNDS
    return carries or variable or bool(re.search(r"\d|n['’]t", word))


def mistyped(text: str, rng: random.Random, rate: float = TYPOS) -> str | None:
    """Exchange, leave out, put in or swap letters; Chinese characters are exchanged for others of the text."""
    units = list(text) if is_chinese(text) else re.findall(r"\s+|\S+", text)
    able = [(n, at) for n, unit in enumerate(units) if not is_carrier(unit) for at, c in enumerate(unit) if c.isalpha()]
    edits = int(rate * sum(map(len, units)))
    if not edits or len(able) < edits:
        return None
    for n, at in sorted(rng.sample(able, edits), reverse=True):
        word, how = units[n], rng.randrange(4)
        letter = rng.choice(text if is_chinese(text) else "etaoinshrdlucmfwypvbgk")
        if is_chinese(text):
            units[n] = rng.choice([c for c in text if c not in SOUNDS and c >= "一"])
        elif how == 0:
            units[n] = word[:at] + letter + word[at + 1 :]
        elif how == 1 and len(word) > 2:
            units[n] = word[:at] + word[at + 1 :]
        elif how == 2:
            units[n] = word[:at] + letter + word[at:]
        elif word[at + 1 : at + 2].isalpha():
            units[n] = word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :]
    return "".join(units)


def reworded(text: str, rng: random.Random) -> str | None:
    """Exchange, leave out or put in one word of twenty; Chinese by pairs of characters."""
    units = pairs(text) if is_chinese(text) else text.split()
    able = [n for n, unit in enumerate(units) if unit.isalpha() and not any(map(is_carrier, [unit, *unit]))]
    edits = int(0.05 * len(units))
    if not edits or len(able) < edits:
        return None
    spare = (
        [units[n][::-1] for n in able] if is_chinese(text) else ["street", "lamp", "green", "walk", "paper", "rather"]
    )
    for n in rng.sample(able, edits):
        units[n] = rng.choice((rng.choice(spare), "", f"{units[n]} {rng.choice(spare)}"))
    return "".join(units).replace(" ", "") if is_chinese(text) else " ".join(filter(None, units))


def reordered(text: str, rng: random.Random) -> str | None:
    parts = [part for part in re.findall(r".+?(?:[.?!]+(?=\s|$)|[。！？]+)", text) if part.strip()]
    if len(parts) < 2 or "".join(parts).strip() != text.strip():
        return None
    other = parts[:]
    while other == parts:
        rng.shuffle(other)
    return ("" if is_chinese(text) else " ").join(part.strip() for part in other)


def punctuated(text: str, rng: random.Random) -> str | None:
    bare = re.sub(r"[,;:!?。，！？；：…](?=\s|[一-鿿])|\.(?=\s)", lambda m: rng.choice((" ", m[0] * 2, m[0])), text)
    bare = f"{bare.rstrip('.!?。！？ ')}{rng.choice(('', '.', '...', ' !'))}"
    return bare if bare != text else None


def escaped(text: str, rng: random.Random) -> str | None:
    del rng
    named = {"'": "&#39;", '"': "&quot;", "&": "&amp;", "<": "&lt;", ">": "&gt;", "“": "&ldquo;", "”": "&rdquo;"}
    found = "".join(named.get(c, c) for c in text)
    return found if found != text else None


def traditional(text: str, rng: random.Random) -> str | None:
    del rng
    found = _to_traditional().convert(text) if is_chinese(text) else text
    return found if found != text else None


@cache
def _to_traditional() -> Any:
    from opencc import OpenCC

    return OpenCC("s2t")


def widened(text: str, rng: random.Random) -> str | None:
    del rng
    found = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)
    return found if found != text else None


def number_changed(text: str, rng: random.Random) -> str | None:
    found = [*re.finditer(r"\d", text)]
    if not found:
        return None
    place = rng.choice(found).start()
    return text[:place] + rng.choice([d for d in "123456789" if d != text[place]]) + text[place + 1 :]


def number_word_changed(text: str, rng: random.Random) -> str | None:
    among = rf"\b({'|'.join(NUMBER_WORDS)})\b" if not is_chinese(text) else f"[{CHINESE_NUMBERS}]"
    found = [*re.finditer(among, text)]
    if not found:
        return None
    spot = rng.choice(found)
    spare = [n for n in (CHINESE_NUMBERS if is_chinese(text) else NUMBER_WORDS) if n != spot[0]]
    return text[: spot.start()] + rng.choice(spare) + text[spot.end() :]


def negated(text: str, rng: random.Random) -> str | None:
    if is_chinese(text):
        found = [*re.finditer("[是会能好要想喜]", text)]
        if not found or "不" in text:
            return text.replace("不", "", 1) if "不" in text else None
        return text[: (at := rng.choice(found).start())] + "不" + text[at:]
    found = [*re.finditer(rf"\b({'|'.join(NEGATED)})\b(?! not)", text)]
    if not found:
        return None
    spot = rng.choice(found)
    return text[: spot.start()] + NEGATED[spot[0]] + text[spot.end() :]


def opposed(text: str, rng: random.Random) -> str | None:
    if is_chinese(text):
        swaps = {a: b for pair in OPPOSITES_ZH.split() for a, b in ((pair[0], pair[1]), (pair[1], pair[0]))}
        found = [*re.finditer(f"[{''.join(swaps)}]", text)]
    else:
        swaps = {a: b for pair in OPPOSITES.split() for a, b in (pair.split("/"), pair.split("/")[::-1])}
        found = [*re.finditer(rf"\b({'|'.join(swaps)})\b", text)]
    if not found:
        return None
    spot = rng.choice(found)
    return text[: spot.start()] + swaps[spot[0]] + text[spot.end() :]


COPIES: dict[str, Change] = {
    "case": lambda text, rng: text.upper() if text.upper() != text else None,
    "spaces": lambda text, rng: f"  {re.sub(r' |(?<=，)', '  ', text)} ",
    "punctuation": punctuated,
    "full width": widened,
    "traditional": traditional,
    "HTML entities": escaped,
    "list number": lambda text, rng: (
        f"{rng.randrange(1, 99)}{rng.choice(('. ', ') ', '、' if is_chinese(text) else '. '))}{text}"
    ),
    "thousands": lambda text, rng: (
        re.sub(r"(?<![\d.,$])\d+(?![\d.,])", "1234", text, count=1)
        if re.search(r"(?<![\d.,$])\d+(?![\d.,])", text)
        else None
    ),
    "5 % typos": mistyped,
    "1 word in 20": reworded,
    "sentence order": reordered,
    "a lead": lambda text, rng: rng.choice(LEADS_ZH if is_chinese(text) else LEADS) + text,
}
DIFFERENT: dict[str, Change] = {
    "digit": number_changed,
    "number word": number_word_changed,
    "negation": negated,
    "opposite": opposed,
}


def bases(source: Sources, language: str, words: int, rng: random.Random) -> list[str]:
    """Return real texts of about so many words, each of other sentences."""
    pool = list(source.chinese if language == "zh" else source.english)
    rng.shuffle(pool)
    least, most = (0.9 * words, 1.2 * words) if language == "en" else (1.5 * words, 2.0 * words)
    made: list[str] = []
    held: list[str] = []
    for text in pool:
        held.append(text)
        whole = ("" if language == "zh" else " ").join(held)
        size = len(whole) if language == "zh" else len(whole.split())
        if size >= least:
            if size <= most:
                made.append(whole)
            held = []
    return made


def two_sentences(source: Sources, language: str, rng: random.Random) -> list[str]:
    """Return texts of ten words in two sentences."""
    pool = source.chinese if language == "zh" else source.english
    parts = [
        part
        for text in pool
        for part in re.split(r"[.,;:!?，。；：！？~…\s]+" if language == "zh" else r"[.,;:!?]+", text)
    ]
    size = (lambda t: len(t) // 1.7) if language == "zh" else (lambda t: len(t.split()))
    parts = sorted({part.strip() for part in parts if 4 <= size(part) <= 6})
    rng.shuffle(parts)
    end, gap = ("。", "") if language == "zh" else (".", " ")
    return [f"{a}{end}{gap}{b}{end}" for a, b in zip(parts[::2], parts[1::2], strict=False)]


Pair = tuple[str, str, str, str]
"""(text, answer, other text, other answer)."""


def measure(found: Sequence[tuple[str, Pair]], frames: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Return by kind the share of pairs of which one loses to the other, and of texts in a template that are lost."""
    import gristmill

    every = [(text, answer) for _, pair in found for text, answer in (pair[:2], pair[2:])]
    rows = [{"prompt": text, "completion": answer} for text, answer in [*every, *((text, FINE) for _, text in frames)]]
    chosen = gristmill.select(rows, "exact", {"kind": "minhash", "max_group": 1.0, "max_loss": 1.0})
    named = {}
    for row in chosen.table.select(["id", "messages"]).to_pylist():
        named[tuple(turn["content"] for turn in row["messages"])] = row["id"]
    lost = {row["id"]: row["lost_to"] for row in chosen.dropped.to_pylist()}
    gone: dict[str, list[bool]] = {}
    for kind, (text, answer, other, other_answer) in found:
        one, two = named[text, answer], named[other, other_answer]
        both = one in lost and lost[one] == lost.get(two)
        gone.setdefault(kind, []).append(one == two or lost.get(one) == two or lost.get(two) == one or both)
    for kind, text in frames:
        gone.setdefault(kind, []).append(named[text, FINE] in lost)
    return {f"{kind} ({len(some)})": round(sum(some) / len(some), 4) for kind, some in gone.items()}


def templates(texts: Sequence[str], language: str, where: str, rng: random.Random) -> list[str]:
    """Return texts that are own words in one frame."""
    zh = language == "zh"
    lead = (
        "请把下面这句话翻译成英文，不要解释，也不要重复原文："
        if zh
        else "Translate the following English word into French and say nothing else at all: "
    )
    tail = (
        "。本评论由用户在网站上发表，仅代表个人观点，与本网站立场无关。"
        if zh
        else ". This text was taken from a public page of the site and may be used by everyone for free."
    )
    words = [re.findall("[一-鿿]{2}" if zh else r"\b[a-z]{3,}\b", text) for text in texts]
    units = sorted({rng.choice(some) for some in words if some})
    few = [text[:9] if zh else " ".join(text.split()[:5]) for text in texts]
    if where == "lead":
        return sorted({lead + unit for unit in units})
    if where == "footer":
        return sorted({some + tail for some in few})
    return sorted({lead + unit + tail for unit in units})


def shares(source: Sources) -> dict[str, dict[str, float]]:
    """Return the figures of each language and length; every kind has texts of its own."""
    found: dict[str, dict[str, float]] = {}
    for language in ("en", "zh"):
        for words in (10, 60):
            rng = random.Random(words)
            texts = bases(source, language, words, rng)
            made: list[tuple[str, Pair]] = []
            used: set[str] = set()
            for kind, change in (DIFFERENT | COPIES).items():
                some = two_sentences(source, language, rng) if kind == "sentence order" and words == 10 else texts
                name = f"{'differs' if kind in DIFFERENT else 'copy'}: {kind}"
                for text in [text for text in some if text not in used]:
                    if other := change(text, rng):
                        base = SEPARATED.sub(r"\1,\2", other) if kind == "thousands" else text
                        made.append((name, (base, FINE, other, FINE)))
                        used.add(text)
                    if sum(kind_ == name for kind_, _ in made[-NUM:]) == NUM:
                        break
            rest = [text for text in texts if text not in used]
            made += [("differs: label, text equal", (text, "positive", text, "negative")) for text in rest[:NUM]]
            typed = [(text, mistyped(text, rng, 0.03)) for text in rest[NUM : 2 * NUM]]
            made += [("differs: label, text mistyped", (a, "positive", b, "negative")) for a, b in typed if b]
            frames = [
                (f"differs: template, {where}", text)
                for where in ("lead", "footer", "inside")
                for text in templates(rest[:NUM], language, where, rng)
            ]
            if (language, words) == ("en", 10):
                made += [
                    ("differs: signs and code", (a.format(n), FINE, b.format(n), FINE))
                    for n in range(11, 21)
                    for a, b in SIGNS
                ]
            found[f"{language}, {words} words"] = measure(made, frames)
    return found


def problems(folder: Path) -> list[dict[str, str]]:
    """Return 239 maths problems, of which all differ."""
    rng = random.Random(0)
    rows: dict[str, str] = {}
    for line in (folder / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        made = [change(row["question"], rng) for change in (number_changed, number_word_changed, negated)]
        if all(made):
            rows |= dict.fromkeys([row["question"], *map(str, made)], row["answer"])
        if len(rows) >= 239:
            break
    return [{"prompt": text, "completion": answer} for text, answer in [*rows.items()][:239]]


def main() -> None:
    """Measure and write the figures under a name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--chain", action="store_true")
    parser.add_argument("--name", default="after")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("kinds.json"))
    args = parser.parse_args()
    result = json.loads(args.out.read_text()) if args.out.exists() else {}
    mine = result.setdefault(args.name, {})
    if args.chain:
        import gristmill

        rows = problems(args.data)
        chosen = gristmill.select(rows)
        reasons: dict[str, int] = {}
        for row in chosen.dropped.to_pylist():
            reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
        mine["default chain"] = {"problems": len(rows), "lost": len(chosen.dropped), "by": reasons}
    else:
        mine["kinds"] = shares(sources(args.data))
    args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(mine, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
