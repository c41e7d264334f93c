"""The gate for text and numbers: checks JSON that comes from files, endpoints and people, and says what is wrong.

JSON from outside may hold what no dataset can: half a surrogate pair, a number that is infinite, the same key twice,
thousands of nested tables. Python's own reader accepts all of these silently.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from gristmill.cluster.contract.sample import Sample

MOST_FLOAT32 = 3.4028234663852886e38
DEEPEST = 100
"""Most levels of nested lists and tables; deeper values break code that walks through them."""

_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""What half a surrogate pair looks like in JSON; whole pairs look so too."""


class GateError(ValueError):
    """A value that is refused. The error's text reads `is …, must be …`, with the name of the field if there is one."""


@dataclass(frozen=True, slots=True)
class _Flaw:
    """The placeholder of a value that is refused."""

    problem: str


def parse(text: str, *, repair: bool = False) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value of JSON text; NaN is null.

    Args:
        text: one JSON value.
        repair: half a surrogate pair becomes U+FFFD instead of an error.

    Raises:
        GateError: for what is no JSON, or holds a key twice, an infinite number, half a surrogate pair, or more than
            `DEEPEST` lists and tables in each other.
    """
    value, doubt = suspect(text)
    return admit(value, repair=repair) if doubt else value


def suspect(text: str) -> tuple[Any, bool]:
    """Return the value of JSON text, and whether `admit` must check it; most values need no check.

    Raises:
        GateError: for what is no JSON.
    """
    doubt = False
    try:
        try:
            value = _STRICT.decode(text)
        except _FlawError:
            value, doubt = _LENIENT.decode(text), True
    except RecursionError as error:
        raise GateError(f"is not JSON (more than {DEEPEST} lists and tables in each other)") from error
    except ValueError as error:
        raise GateError(f"is not JSON ({error})") from error
    deep = text.count("[") + text.count("{") > DEEPEST
    return value, doubt or deep or _HALF.search(text) is not None


class _FlawError(Exception):
    """The text has a flaw; the lenient decoder finds its place."""


def _decoder(flaw: Callable[[str], Any]) -> json.JSONDecoder:
    """Return a decoder that replaces each faulty value by the result of `flaw`, which gets the problem in words."""

    def table(pairs: list[tuple[str, Any]]) -> object:
        made = dict(pairs)
        if len(made) == len(pairs):
            return made
        keys = [key for key, _ in pairs]
        return flaw(f"key {next(key for key in keys if keys.count(key) > 1)!r} comes twice, must come once")

    def number(digits: str) -> object:
        value = float(digits)
        return value if math.isfinite(value) else flaw(f"number {digits} is beyond a float64, must be within ±1.8e308")

    def constant(word: str) -> object:
        return None if word == "NaN" else flaw(f"number is {word}, must be finite")

    return json.JSONDecoder(object_pairs_hook=table, parse_float=number, parse_constant=constant)


def _stop(problem: str) -> NoReturn:
    raise _FlawError(problem)


_STRICT, _LENIENT = _decoder(_stop), _decoder(_Flaw)


def admit(value: Any, *, repair: bool = False, field: str = "", depth: int = 0) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value if it may come in, repaired if `repair` is set.

    Raises:
        GateError: as `parse`, naming the field.
    """
    if isinstance(value, str):
        return unicode(value, field, repair=repair)
    if isinstance(value, _Flaw):
        raise GateError(f"field '{field}': {value.problem}" if field else value.problem)
    if not isinstance(value, Mapping | list):
        return value
    if depth == DEEPEST:
        raise GateError(f"has more than {DEEPEST} lists and tables in each other, must have fewer")
    if isinstance(value, list):
        return [admit(v, repair=repair, field=f"{field}[{place}]", depth=depth + 1) for place, v in enumerate(value)]
    made = {}
    for key, inner in value.items():
        name = unicode(key, f"{field} (a key)".strip(), repair=repair)
        made[name] = admit(inner, repair=repair, field=f"{field}.{name}" if field else name, depth=depth + 1)
    return made


def unicode(text: str, field: str = "", *, repair: bool = False) -> str:
    """Return a text that every file can hold, NUL included; half a surrogate pair is an error, or is repaired.

    Raises:
        GateError: naming the field and the character.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if repair:
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        where = f"field '{field}' " if field else ""
        raise GateError(f"{where}holds half a surrogate pair at character {error.start}, must be text") from error
    return text


def admit_sample(sample: Sample) -> Sample:
    """Return a sample that a model or a step made.

    If no file could hold the sample, return a dropped one with the reason.

    In the dropped one half surrogate pairs are U+FFFD, and scores that are no float32 are left out.
    """
    try:
        _require_storable(sample)
    except GateError as error:
        scores = {_repaired(name): score for name, score in sample.scores.items() if abs(score) <= MOST_FLOAT32}
        reason = _repaired(sample.dropped) or f"row: {error}"
        texts = {name: _repaired(getattr(sample, name)) for name in ("messages", "tags", "tools")}
        return replace(sample, **texts, scores=scores, dropped=reason)
    return sample


def _require_storable(sample: Sample) -> None:
    for place, turn in enumerate(sample.messages):
        _require_unicode(turn, f"messages[{place}]")
    for name, words in (("tags", sample.tags), ("scores", sample.scores)):
        _require_unicode((*words, *words.values()), name)
    _require_unicode(sample.dropped, "dropped")
    _require_unicode(sample.tools, "tools")
    for name, score in sample.scores.items():
        if not abs(score) <= MOST_FLOAT32:
            raise GateError(f"field 'scores.{name}' is {score}, must be within ±3.4e38, as a float32 is")


def _require_unicode(value: object, field: str) -> None:
    if isinstance(value, str):
        unicode(value, field)
    elif isinstance(value, tuple):
        for inner in value:
            _require_unicode(inner, field)


def _repaired(value: Any) -> Any:  # noqa: ANN401 - parts of a sample
    if isinstance(value, str):
        return unicode(value, repair=True)
    if isinstance(value, Mapping):
        return {_repaired(key): _repaired(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return value._make(map(_repaired, value)) if hasattr(value, "_make") else tuple(map(_repaired, value))
    return value


def to_text(value: object) -> str:
    """Return any value as text for people, even a faulty one."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return type(value).__name__
