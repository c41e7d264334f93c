"""Every family of chat templates: each answer is trained on once, after what the model reads at inference.

python -m tests.proof.templates 60

The families of `tests/training/data/template_families.py` are compared with what their models write, stated by hand.
The templates of published models that trl carries, a development dependency, are compared with what the template itself
makes of a conversation that ends in the answer. `benchmarks/templates.json` holds the figures.
"""

import json
import re
import sys
import time
from collections import Counter
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Message
from gristmill.training.data import chat
from gristmill.training.data.answers import Talk
from gristmill.training.data.chat import Encoding
from tests.paths import ROOT
from tests.training.data.template_families import FAMILIES, Family
from tests.training.data.template_rows import conversations, tokenizer
from tests.training.data.test_template_families import differences, folded, trained, turn_of

OUT = ROOT / "benchmarks" / "templates.json"
_CONTROL = re.compile(
    r"<\|[\w▁ ]+\|>|<｜[\w▁ ]+｜>|<[a-z]+_of_[a-z]+>|\[/?[A-Z_]{3,}\]|\[gMASK\]|<sop>|<\|[a-z]+>|<[a-z]+\|>"
)
NO_TEXT = ("idefics", "llava", "smolvlm", "_vl")
"""Templates of models of pictures, which take a text only as one of several parts."""


def published() -> list[Family]:
    """Return the families whose templates trl carries as they were published."""
    found = []
    folder = Path(str(distribution("trl").locate_file("trl/chat_templates")))
    for path in sorted(folder.glob("*.jinja")):
        if not path.stem.endswith("_training"):
            text = path.read_text(encoding="utf-8")
            control = tuple(dict.fromkeys([*_CONTROL.findall(text), "<bos>", "<eos>"]))
            plain = ("<think>", "</think>")
            found.append(Family(f"trl {path.stem}", text, control, str, bos="<bos>", eos="<eos>", plain=plain))
    return found


def by_the_template(family: Family, count: int) -> tuple[int, list[str], dict[str, int]]:
    """Return what `differences` does, compared with the template's own rendering of each answer as the last turn."""
    tok = tokenizer(family)
    talks = [[turn._replace(train=True) for turn in turns] for turns, _ in conversations(family, count)]
    encoded = chat.encode(tok, [Talk(turns) for turns in talks], Encoding(10**6, max_lost=1))
    found, wrong, answers = trained(tok, encoded), [], 0
    for turns in talks:
        for place, turn in enumerate(turns):
            if turn.role == "assistant":
                answers += 1
                shown = _shown(tok, turns[: place + 1], found, family.control)
                if shown is None:
                    wrong.append(f"missing: {turn.text!r}")
                else:
                    found[shown] -= 1
    wrong += [f"twice or strange: {said!r}" for (_, said), left in found.items() if left > 0]
    return answers, wrong, dict(encoded.drops)


def _shown(
    tok: Any, turns: list[Message], found: Counter[tuple[str, str]], control: tuple[str, ...]
) -> tuple[str, str] | None:
    """Return what is trained on of the last turn, if that comes after the prompt and ends in a stop token."""
    try:
        prompt = tok.apply_chat_template([*map(turn_of, turns[:-1])], tokenize=False, add_generation_prompt=True)
        whole = tok.apply_chat_template([*map(turn_of, turns)], tokenize=False)
    except Exception:
        if turns[0].role == "system":  # refused: once more with the system's words in the first question
            return _shown(tok, folded(turns), found, control)
        raise
    for (before, said), left in found.items():
        both = before + said
        after = both[len(prompt) :]
        whole_answer = turns[-1].text.strip() in after and after.endswith(control)
        fits = left and whole_answer and prompt.startswith(before) and both.startswith(prompt)
        if fits and any(_same(after, own, control) for own in _own(prompt, whole)):
            return before, said
    return None


def _own(prompt: str, whole: str) -> list[str]:
    """Return what a template makes of an answer after a prompt whose last white space or opened thought it lacks."""
    if whole.startswith(prompt):
        return [whole[len(prompt) :]]
    bare = prompt.rstrip()
    if whole.startswith(bare):
        return [whole[len(bare) :].lstrip()]
    opened = bare.removesuffix("<think>")
    return ["\n</think>\n\n" + whole[len(opened) :]] if whole.startswith(opened) else []


def _same(after: str, own: str, control: tuple[str, ...]) -> bool:
    """Say whether an answer is the template's own up to its stop, or up to the token that opens the next turn."""
    bare = own.rstrip()
    return own.startswith(after) or (after.startswith(bare) and after[len(bare) :].strip() in control)


def main(count: int) -> int:
    """Measure all families, write the figures, and return the number of answers that are wrong or lost."""
    began, table = time.process_time(), {}
    for family in [*FAMILIES, *published()]:
        if any(word in family.name for word in NO_TEXT):
            print(f"{family.name:30s} left out: a template for pictures")  # noqa: T201
            continue
        compare = by_the_template if family.name.startswith("trl ") else differences
        try:
            answers, wrong, lost = compare(family, count)
        except JobError as error:
            answers, wrong, lost = 0, [str(error)], {}
        table[family.name] = {"answers": answers, "wrong": len(wrong), "lost": sum(lost.values())}
        print(f"{family.name:30s} {table[family.name]}", *wrong[:2], *lost, sep="\n  ", flush=True)  # noqa: T201
    total = {
        "families": len(table),
        **{key: sum(row[key] for row in table.values()) for key in ("answers", "wrong", "lost")},
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    print(json.dumps(total))  # noqa: T201
    OUT.write_text(json.dumps({**total, "by family": table}, indent=1) + "\n", encoding="utf-8")
    return int(total["wrong"] + total["lost"])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 60))
