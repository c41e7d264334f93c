"""Templates of prompts: one text with the user's turn, solved cases, and the beginning of the model's turn.

    Say of each text whether it is safe or toxic.
    ---
    "Boil the pasta for nine minutes." is safe

    "{text}" is{verdict: safe| toxic}

The text before the line `---` is the user's turn. Without this line, all text is the user's turn. The text after the
line is the beginning of the model's turn. It has solved cases, each followed by a blank line, and then the case to
solve, up to the place where the model continues. Small models continue such a list far better than they follow a
rubric.

`{text}` is a placeholder that the step fills. At `{verdict: safe| toxic}` the model chooses one of the words between
the bars. The space before a word is part of it. A line of the case whose placeholder has no value is left out.
`{{text}}` becomes the word `{text}` with its braces.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NotRequired, TypedDict, TypeVar

from pydantic import AfterValidator, Field

from gristmill.cluster.contract.sample import Message

T = TypeVar("T")
SOME, NUMBERS = 0, -1
"""Kinds of lists of words in a placeholder. `SOME` means two or more words, `NUMBERS` two or more whole numbers."""
Prompts = dict[str, str]
"""Texts of templates by language (ISO 639-1). Languages without a template use the English one."""
_LINE = re.compile(r"\n---[ \t]*\n")
_SLOT = re.compile(r"\{\{(\w+)\}\}|\{(\w+)(?::([^{}]*))?\}")


class Prompt(TypedDict):
    """A filled template, as keyword arguments of a function that asks the model."""

    messages: tuple[Message, ...]
    prefix: str
    choices: NotRequired[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template."""

    ask: str
    """The user's turn."""
    shots: str
    """Solved cases, with the blank line after the last one."""
    case: str
    """The case to solve, with its placeholders."""

    def text(self, **values: object) -> str:
        """Return the user's turn with its placeholders filled."""
        return _fill(self.ask, values)

    def begin(self, until: str = "", shots: str = "", /, **values: object) -> Prompt:
        """Return the user's turn and the beginning of the model's turn: the template's shots, `shots`, and the case.

        With `until`, the case ends before the placeholder of this name, and the words of the placeholder are the
        choices. If the placeholder has no words, the model writes text. The case then ends without a space, because the
        model also writes the space before its text.
        """
        prefix = _fill(self.shots, values) + shots + self.lead(until, **values)
        prompt = Prompt(messages=(Message("user", self.text(**values)),), prefix=prefix)
        return Prompt(**prompt, choices=self.choices(until)) if until and self.choices(until) else prompt

    def lead(self, until: str = "", /, **values: object) -> str:
        """Return the case to solve with its placeholders filled, up to the placeholder `until` or to its end."""
        case = self.case
        if until:
            place = next((slot.start() for slot in _SLOT.finditer(case) if slot[2] == until), len(case))
            case = case[:place] if self.choices(until) else case[:place].rstrip(" ")
        lines = case.splitlines(keepends=True)
        return _fill("".join(line for line in lines if _names(line) <= values.keys()), values)

    def shot(self, answer: str, **values: object) -> str:
        """Return one more solved case in the layout of the case to solve, with a blank line after it."""
        lead = self.lead(**values)
        return f"{lead}{gap(lead)}{answer}\n\n"

    def choices(self, name: str) -> tuple[str, ...]:
        """Return the words of a placeholder. There are none if the model writes text there."""
        return _words(self.case, name)

    def head(self, place: int) -> str:
        """Return the beginning of a line of the case, up to its first placeholder.

        `place` is the index of the line. If there is no such line, return the empty string.
        """
        lines = self.case.splitlines()
        return _SLOT.split(lines[place], maxsplit=1)[0].strip() if -len(lines) <= place < len(lines) else ""

    def stops(self, *places: int) -> tuple[str, ...]:
        """Return stop strings: the beginnings of these lines of the case. A reply that has one starts the next case."""
        return tuple(f"\n{head}" for head in map(self.head, places) if head)

    def without(self, name: str) -> "Template":
        """Return the template without the line of this placeholder in its shots."""
        return _without(self, name)


@lru_cache(maxsize=1024)
def _without(template: Template, name: str) -> Template:
    places = (place for place, line in enumerate(template.case.splitlines()) if name in _names(line))
    head = template.head(next(places, len(template.case)))
    if not head:
        return template
    kept = (line for line in template.shots.splitlines(keepends=True) if not line.startswith(head))
    return replace(template, shots="".join(kept))


@lru_cache(maxsize=1024)
def parse(text: str) -> Template:
    """Return the template of a text."""
    ask, start, *_ = [*_LINE.split(text, maxsplit=1), ""]
    shots, blank, case = start.rpartition("\n\n")
    return Template(ask.strip(), shots + blank, case)


def write(ask: str, case: str, *shots: Sequence[str]) -> str:
    """Return the text of a template from its parts.

    A shot is a sequence of the values for the placeholders of the case, in order. It may have an answer at its end.
    """
    template, solved = Template(ask, "", case), []
    names = [slot[2] for slot in _SLOT.finditer(case)]
    for shot in shots:
        values = {
            name: next((word for word in template.choices(name) if word.strip() == value), value)
            for name, value in zip(names, shot, strict=False)
        }
        more = len(shot) > len(names)
        solved.append(template.shot(shot[-1], **values) if more else template.lead(**values) + "\n\n")
    return f"{ask}\n---\n{''.join(solved)}{case}"


def for_language(table: Mapping[str, T], language: str) -> T:
    """Return the entry of a language, or the English entry, which every table has."""
    return table.get(language, table["en"])


def template_for(prompts: Mapping[str, str], language: str) -> Template:
    """Return the template of a language, or the English template if it has none."""
    return parse(for_language(prompts, language))


def system_turn(prompts: Mapping[str, str], key: str, **values: object) -> tuple[Message, ...]:
    """Return the filled template with this key as a system turn. If it is absent or empty, return no turn."""
    text = prompts.get(key)
    return (Message("system", parse(text).text(**values)),) if text else ()


def gap(lead: str) -> str:
    """Return the separator between a beginning and the words after it.

    It is a space, or nothing after white space and a full-width colon.
    """
    return "" if lead[-1:] in ("：", " ", "\n") else " "


def by_language(prompts: Mapping[Any, Any], by: str = "") -> Any:  # noqa: ANN401 - a field's default, as of `Field`
    """Return the default of a setting with templates.

    Without `by` these templates are the default. With `by`, the name of an earlier setting, the default is the entry of
    `prompts` for the value of that setting.
    """
    if not by:
        return Field(default_factory=lambda: dict(prompts))
    first = next(iter(prompts))  # if the earlier setting is wrong, that is already an error
    return Field(default_factory=lambda data: dict(prompts[data.get(by, first)]))


def slots(*must: str, may: tuple[str, ...] = (), partial: bool = False, **choices: int) -> AfterValidator:
    """Return the validator for the templates of a setting.

    Args:
        must: placeholders that each template must have.
        may: further placeholders that it may have.
        partial: whether even English may have no template.
        choices: placeholders with words that each template must have, with the number of words, `SOME` or `NUMBERS`.
    """
    known = (*must, *may, *choices)

    def check(prompts: Any) -> Any:  # noqa: ANN401 - one template, or some by language
        if isinstance(prompts, Mapping) and "en" not in prompts and not partial:
            raise ValueError("has no prompt for `en`, must have one; other languages fall back to it")
        for language, text in prompts.items() if isinstance(prompts, Mapping) else [("", prompts)]:
            problem = _problem(text, (*must, *choices), known, choices)
            if problem:
                raise ValueError(f"{language}: {problem}" if language else problem)
        return prompts

    return AfterValidator(check)


def _problem(text: str, must: tuple[str, ...], known: tuple[str, ...], choices: Mapping[str, int]) -> str:
    template, found = parse(text), _names(text)
    if choices and not template.case:
        return "lacks the line --- after which the model's turn begins, must have it"
    absent = [f"{{{name}}}" for name in must if name not in found]
    if absent:
        return f"lacks {', '.join(absent)}, must contain it"
    unknown = sorted(found - {*known})
    if unknown:
        legal = ", ".join(f"{{{name}}}" for name in known) or "none"
        return f"has {{{unknown[0]}}}, must be one of {legal}; {{{{{unknown[0]}}}}} is the word itself in braces"
    for name, number in choices.items():
        words = template.choices(name)
        what = {SOME: "two or more words", NUMBERS: "two or more whole numbers"}.get(number, f"{number} words")
        enough = len(words) == len({*words}) == number if number > 0 else len({*words}) > 1
        if not enough or (number == NUMBERS and not all(word.isdecimal() for word in words)):
            return f"{{{name}}} has {'|'.join(words) or 'no words'}, must list {what}, as {{{name}:one|two}}"
    return ""


@lru_cache(maxsize=4096)  # every row asks for the same few
def _words(case: str, name: str) -> tuple[str, ...]:
    listed = next((slot[3] for slot in _SLOT.finditer(case) if slot[2] == name), None)
    return tuple(listed.split("|")) if listed else ()


@lru_cache(maxsize=4096)
def _names(text: str) -> frozenset[str]:
    return frozenset(slot[2] for slot in _SLOT.finditer(text) if slot[2])


def _fill(text: str, values: Mapping[str, object]) -> str:
    """Return a text in which values replace their placeholders. All other braces stay as they are.

    The text is read once, so a placeholder inside a value is not replaced.
    """
    if "{" not in text:
        return text
    return _SLOT.sub(lambda slot: f"{{{slot[1]}}}" if slot[1] else str(values.get(slot[2], slot[0])), text)
