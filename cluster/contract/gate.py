"""The gate for outside JSON: it refuses values that no dataset can hold, and says what is wrong with them.

The JSON comes from files, endpoints and people. It may contain half a surrogate pair, an infinite number, the same key
twice, or thousands of nested tables. Python's own reader accepts all of these silently.
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
"""Most levels of nested lists and tables. Recursive code fails on deeper values."""
MOST_INNER, MOST_VALUES = 5_000_000, 25_000_000
"""Most lists and tables, and most values, of one JSON text. A table takes about 200 bytes, a number 32."""
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"')

_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""Matches the JSON escape of half a surrogate pair. It also matches both halves of a complete pair."""


class GateError(ValueError):
    """The error for a refused value. Its text reads `is …, must be …`, after the name of the field if there is one."""


@dataclass(frozen=True, slots=True)
class _Flaw:
    """The placeholder for a faulty value, with the problem in words."""

    problem: str


def parse(text: str, *, repair: bool = False) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value of a JSON text. NaN becomes None.

    Args:
        text: one JSON value.
        repair: whether half a surrogate pair becomes U+FFFD instead of an error.

    Raises:
        GateError: if the text is not JSON, or has a key twice, an infinite number, half a surrogate pair, or more than
            `DEEPEST` levels of lists and tables.
    """
    value, doubt = suspect(text)
    return admit(value, repair=repair) if doubt else value


def suspect(text: str) -> tuple[Any, bool]:
    """Return the value of a JSON text, and whether `admit` must check the value. Most values need no check.

    Raises:
        GateError: if the text is not JSON, or holds more values than fit into the memory.
    """
    doubt = False
    _require_roomy(text)
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


def _require_roomy(text: str) -> None:
    """Refuse a JSON text of which the values would take far more memory than the text, such as `[[],[],[],…`."""
    if _crowded(text):
        bare = _STRING.sub("", text)
        if _crowded(bare):
            raise GateError(f"holds more than {MOST_INNER} lists and tables or {MOST_VALUES} values, must hold fewer")


def _crowded(text: str) -> bool:
    if len(text) <= MOST_INNER:
        return False
    return text.count("[") + text.count("{") > MOST_INNER or text.count(",") > MOST_VALUES


class _FlawError(Exception):
    """The error of the strict decoder for a flaw in a text. The lenient decoder then finds the place of the flaw."""


def _decoder(flaw: Callable[[str], Any]) -> json.JSONDecoder:
    """Return a decoder that replaces each faulty value by `flaw(problem)`, where `problem` is in words."""

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
    """Check a JSON value, and return it.

    Args:
        value: the value, as `suspect` returns it.
        repair: whether half a surrogate pair becomes U+FFFD instead of an error.
        field: name of the value in an error.
        depth: number of lists and tables around the value.

    Raises:
        GateError: for the same reasons as `parse`. The message names the field.
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
    """Check that a text can be written as UTF-8, and return it.

    With `repair`, half a surrogate pair becomes U+FFFD instead of an error. NUL is allowed.

    Raises:
        GateError: if the text has half a surrogate pair. The message names the field and the place of the character.
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
    """Return the sample if a file can hold it, else a dropped copy of it with the reason.

    In the copy, half a surrogate pair becomes U+FFFD. Scores that do not fit into a float32 are left out.
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
