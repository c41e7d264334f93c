"""A preview as text: the calls and the verdicts of each sample, for a terminal, for a pipe, or as JSON."""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from gristmill.cluster.contract.chat import to_openai
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.models.engine import Choose, Score
from gristmill.cluster.text.terminal import visible
from gristmill.generation.preview.library import preview
from gristmill.generation.preview.record import ModelCall, Preview

INDENT = 4
SAME_LINES = 8
"""The first lines of a prompt are left out if at least this many are the same as in an earlier prompt."""
MOST_CHOICES = 6
"""Largest number of choices that are shown with their probabilities, the likeliest first."""


def run(arguments: argparse.Namespace) -> int:
    """Make and print a preview: `gristmill preview`.

    Raises:
        JobError: when the recipe generates nothing, or an input or the cluster cannot be used.
    """
    found = preview(arguments.recipe, arguments.n, *arguments.set, quiet=arguments.json)
    if arguments.json:
        sys.stdout.write(visible(json.dumps(as_json(found), indent=1, ensure_ascii=False)) + "\n")
    else:
        show(found, Console(highlight=False))
    return 0


def as_json(found: Preview) -> dict[str, Any]:
    """Return a preview as a JSON value."""
    samples = [{**_sample(shown.sample), "calls": [_call(c) for c in shown.calls]} for shown in found.samples]
    return {"engine": dict(found.facts), "samples": samples, "shared": [_call(call) for call in found.shared]}


def show(found: Preview, console: Console) -> None:
    """Print a preview, with colours and rules on a terminal only.

    If a prompt begins with the same lines as an earlier prompt, a note replaces these lines and names the earlier call.
    """
    seen: dict[str, list[str]] = {}
    for number, shown in enumerate(found.samples, 1):
        title = f"{number} of {len(found.samples)}  {shown.sample.method}"
        _print(console, Rule(Text(title, "bold"), align="left"), f"--- {title} ---")
        for place, call in enumerate(shown.calls, 1):
            _show_call(console, f"call {place}", call, _fold(call.prompt, f"sample {number}, call {place}", seen))
        if not shown.calls:
            console.print(Text("no call of the model"))
        for line in _verdict(shown.sample):
            console.print(line, soft_wrap=True)
        console.print()
    for call in found.shared:
        _print(console, Rule(Text("for several samples", "bold"), align="left"), "--- for several samples ---")
        _show_call(console, "call", call, _fold(call.prompt, "a call for several samples", seen))
    kept = sum(shown.sample.dropped is None for shown in found.samples)
    dropped = len(found.samples) - kept
    console.print(Text(f"{len(found.samples)} samples, {kept} kept and {dropped} dropped; nothing was written"))


def _fold(prompt: str, where: str, seen: dict[str, list[str]]) -> str:
    """Return a prompt without the first lines that it has in common with an earlier prompt, and remember it."""
    lines = prompt.splitlines()
    best, length = "", SAME_LINES - 1
    for place, earlier in seen.items():
        same = next((n for n, pair in enumerate(zip(lines, earlier, strict=False)) if pair[0] != pair[1]), None)
        same = min(len(lines), len(earlier)) if same is None else same
        best, length = (place, same) if same > length else (best, length)
    seen[where] = lines
    return "\n".join([f"… {length} lines as in {best}", *lines[length:]]) if best else prompt


def _show_call(console: Console, title: str, call: ModelCall, prompt: str) -> None:
    request, reply = call.request, call.reply
    cached = f", {reply.cached_tokens} of them cached" if reply.cached_tokens else ""
    facts = f"{call.model}, {reply.prompt_tokens} prompt tokens{cached}"
    console.print(Text.assemble((title, "bold"), f"  {facts}"), soft_wrap=True)
    _block(console, prompt, "dim")
    if isinstance(request, Score):
        said = f"scored  {_tokens(reply.reply_tokens)}, log-probability {reply.logprob or 0.0:.2f}"
        console.print(Text.assemble((said, "" if reply.finish == "stop" else "red")), soft_wrap=True)
        return
    how = "the likeliest choice" if isinstance(request, Choose) else f"temperature {request.temperature:g}"
    finish = (visible(reply.finish), "red" if reply.finish != "stop" else "")
    console.print(Text.assemble(("reply", "bold"), f"  {_tokens(reply.reply_tokens)}, {how}, ", finish), soft_wrap=True)
    _block(console, reply.text, "cyan")
    if reply.choices:
        likeliest = sorted(reply.choices.items(), key=lambda pair: -pair[1])[:MOST_CHOICES]
        _block(console, "  ".join(f"{choice} {p:.1%}" for choice, p in likeliest), "")


def _tokens(count: int) -> str:
    return f"{count} token" + "s" * (count != 1)


def _verdict(sample: Sample) -> Iterator[Text]:
    if sample.scores:
        scores = "  ".join(f"{name} {value:.3g}" for name, value in sorted(sample.scores.items()))
        yield Text.assemble(("scores", "bold"), visible(f"  {scores}"))
    if sample.tags:
        tags = "  ".join(f"{name}={value}" for name, value in sorted(sample.tags.items()))
        yield Text.assemble(("tags", "bold"), visible(f"  {tags}"))
    said = ("kept", "bold green") if sample.dropped is None else (visible(f"dropped  {sample.dropped}"), "bold red")
    yield Text.assemble(("verdict", "bold"), "  ", said)


def _print(console: Console, drawn: RenderableType, plain: str) -> None:
    """Print `drawn` on a terminal, and `plain`, with lines of any length, elsewhere."""
    if console.is_terminal:
        console.print(drawn)
    else:
        console.print(Text(plain), soft_wrap=True)


def _block(console: Console, text: str, style: str) -> None:
    lines = visible(text).splitlines() or [""]
    plain = "\n".join(" " * INDENT + line for line in lines)
    drawn = Group(*(Padding(Text(line, style), (0, 0, 0, INDENT)) for line in lines))
    _print(console, drawn, plain)


def _sample(sample: Sample) -> dict[str, Any]:
    value = asdict(sample)
    return {**value, "messages": [to_openai(m) for m in sample.messages]}


def _call(call: ModelCall) -> dict[str, Any]:
    messages = [to_openai(m) for m in call.request.messages]
    request = {"kind": type(call.request).__name__.lower(), **asdict(call.request), "messages": messages}
    return {"model": call.model, "prompt": call.prompt, "request": request, "reply": asdict(call.reply)}
