"""Format: an answer that must be JSON is JSON, code can be parsed, and open brackets are closed."""

import ast
import json
import re
import tomllib
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, Literal

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.json_schema import JsonSchema
from gristmill.generation.contracts import Ask, Filter, Stage, Verdict

FENCED = re.compile(r"^[ ]{0,3}(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ ]{0,3}\1[`~]*[ \t]*$|\Z)", re.M | re.S)
FENCE = re.compile(r"^[ ]{0,3}(?:`{3,}|~{3,})", re.MULTILINE)
INLINE = re.compile(r"`[^`\n]*`")
NO_BRACKET = re.compile(
    r"[\[(]\s*[^\[\]()\s][^\[\]()]{0,30},[^\[\]()]{1,30}[\])]"  # half-open intervals: [0, 1)
    r"|[:;=][-'^o]?[(\[{]+"  # sad smileys; closing brackets are never a fault
    r"|\\[()\[\]{}|]|\\(?:left|right|big|Big)[lr]?\s*[.()\[\]|]"  # escaped ones, and LaTeX's
)
PAIRS = {"(": ")", "[": "]", "{": "}", "（": "）", "【": "】", "《": "》", "「": "」", "『": "』", "〔": "〕"}
MIXED = {"(": "（", ")": "）"}
"""Half-width and full-width brackets that are mixed in Chinese text; they count as the same."""
CODE_SIGN = re.compile(r"^\s*(?:>>>|\.\.\.)(?: |$)|^\s*[%!]\w+", re.MULTILINE)
Code = Literal["python", "json", "toml"]
ALIASES: Mapping[str, Code] = {"python": "python", "py": "python", "python3": "python", "json": "json", "toml": "toml"}


class Format(Filter):
    """Drop a sample whose answer does not have the form that it claims or that the recipe requires.

    With `answer = "json"` the whole answer must be JSON that is valid under `json_schema`. A fence around it is
    allowed. In other answers, fenced blocks of a known language must parse, the last fence must be closed, and no
    bracket outside of code may stay open. An open bracket is a sign of a cut-off answer. A closing bracket without an
    opening one is no fault: `a)` begins an entry of a list.

    Source: the syntax checks of code data, as in OSS-Instruct (Wei et al. 2023, Magicoder, arXiv:2312.02120) and Code
    Llama's self-instruct (Rozière et al. 2023, arXiv:2308.12950, section 2.5: only what parses is kept); JSON Schema
    2020-12. Departures: blocks without a language are not parsed; a block of Python that has prompts of an interactive
    session or notebook magics is not judged.
    """

    kind: Literal["format"] = "format"
    stages: ClassVar[tuple[Stage, ...]] = ("sample",)
    answer: Literal["text", "json"] = "text"
    """Form of the whole answer."""
    json_schema: JsonSchema = ""
    """JSON schema, as JSON text, for answers in JSON; used only with `answer = "json"`."""
    code: tuple[Code, ...] = ("python", "json", "toml")
    """Languages whose fenced blocks must be valid."""
    brackets: bool = True
    """Whether brackets that open in prose must be closed."""

    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Judge the last answer."""
        del ask
        reason = self.fault(sample.answer) if sample.answer else None
        return Verdict(dropped=f"{self.kind}: {reason}" if reason else None)

    def fault(self, text: str) -> str | None:
        """Return what is wrong with an answer, or None."""
        if self.answer == "json":
            return self._json_fault(text)
        blocks = list(FENCED.finditer(text))
        if len(FENCE.findall(text)) % 2 and (not blocks or blocks[-1].end() == len(text)):
            return "code fence is not closed"
        for block in blocks:
            language = ALIASES.get(block[2].lower())
            if language in self.code and not PARSERS[language](block[3]):
                return f"{language} does not parse"
        if self.brackets and not closed(INLINE.sub(" ", FENCED.sub(" ", text))):
            return "bracket is not closed"
        return None

    def _json_fault(self, text: str) -> str | None:
        whole = FENCED.fullmatch(text.strip())
        try:
            value = json.loads(whole[3] if whole else text)
        except (ValueError, RecursionError):
            return "answer is no JSON"
        valid = not self.json_schema or _validator(self.json_schema).is_valid(value)
        return None if valid else "answer breaks the schema"


def closed(text: str) -> bool:
    """Return whether every opening bracket has its closing bracket; extra closing brackets are allowed."""
    plain = "".join(MIXED.get(sign, sign) for sign in NO_BRACKET.sub(" ", text))
    pairs = {MIXED.get(a, a): MIXED.get(b, b) for a, b in PAIRS.items()}
    open_: list[str] = []
    for sign in plain:
        if sign in pairs:
            open_.append(pairs[sign])
        elif sign in open_ and open_.pop() != sign:
            return False
    return not open_


def _python(code: str) -> bool:
    if CODE_SIGN.search(code):
        return True
    lines = code.expandtabs().splitlines()
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    try:
        with warnings.catch_warnings(action="ignore"):
            ast.parse("\n".join(line[indent:] for line in lines))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _json(code: str) -> bool:
    try:
        json.loads(code)
    except (ValueError, RecursionError):
        return False
    return True


def _toml(code: str) -> bool:
    try:
        tomllib.loads(code)
    except (ValueError, RecursionError):
        return False
    return True


PARSERS: Mapping[Code, Callable[[str], bool]] = {"python": _python, "json": _json, "toml": _toml}


@cache
def _validator(schema: str) -> Any:  # noqa: ANN401 - untyped library
    return import_module("jsonschema").Draft202012Validator(json.loads(schema))
