"""`gristmill explain` describes a job, a step or a setting with the docstrings of the code.

The pages in `docs/reference` have the same text.
"""

import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.settings import Settings, Step
from gristmill.cluster.jobs.job import JOBS, ClusterSettings, Job, job_class
from gristmill.cluster.jobs.recipe import near
from gristmill.cluster.refresh.settings import RefreshSettings

WIDTH = 100
BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "at least", "max_length": "at most"}
LONGEST_DEFAULT = 80
"""Most characters of a default that is shown. A longer one, such as a prompt, is described instead."""
SCALARS = {int: "integer", float: "number", bool: "true or false", str: "string"}


@dataclass(frozen=True, slots=True)
class Setting:
    """The description of one key of a table."""

    name: str
    type: str
    default: str
    bounds: str
    meaning: str
    texts: Mapping[str, str] = field(default_factory=dict)
    """The texts in a default that is a table of texts, by name; for example templates by language."""


@dataclass(frozen=True, slots=True)
class Topic:
    """The description of one table of a recipe: a section, a step, or a table inside one of these."""

    path: str
    kind: type[Settings]
    summary: str
    body: str
    source: str
    departures: str
    settings: tuple[Setting, ...] = field(default=())


def jobs() -> dict[str, type[Job]]:
    """Return the class of each job, by the name of its section."""
    return {name: job_class(name) for name in JOBS}


def sections() -> dict[str, type[Settings]]:
    """Return the class of each section of a recipe, by name."""
    return {**jobs(), "refresh": RefreshSettings, "cluster": ClusterSettings}


def steps(kind: type[Settings]) -> dict[str, dict[str, type[Step]]]:
    """Return the classes of the steps that a table may list, as `{name of the list: {kind: class}}`."""
    found = {}
    for name, info in kind.model_fields.items():
        inner = [one for one in classes(info.annotation) if issubclass(one, Step)]
        if inner:
            found[name] = {str(one.model_fields["kind"].default): one for one in inner}
    return found


def find(path: str) -> tuple[Topic, Setting | None]:
    """Return the table that a dotted path names, and the setting of it if the path ends with one.

    A step may be named with or without its list: `select.minhash` is `select.steps.minhash`.

    Raises:
        JobError: if nothing has this name. The message suggests similar names.
    """
    first, *rest = path.split(".")
    known = sections()
    if first not in known:
        raise JobError(f"explain {path}: {first} is no section, must be one of {', '.join(known)}{near(first, known)}")
    kind, walked = known[first], first
    while rest:
        name = rest.pop(0)
        info = kind.model_fields.get(name)
        inner = classes(info.annotation) if info else ()
        step = next((some[name] for some in steps(kind).values() if name in some), None)
        if info is None and step is None:
            legal = [*kind.model_fields, *(k for some in steps(kind).values() for k in some)]
            raise JobError(
                f"explain {path}: {walked} has no {name}, must be one of {', '.join(legal)}{near(name, legal)}"
            )
        if step is not None:
            kind, walked = step, f"{walked}.{name}"
        elif not rest:
            return topic(walked, kind), setting(kind, name)
        elif any(issubclass(one, Step) for one in inner):
            walked = f"{walked}.{name}"  # the next part names the kind
        elif inner:
            kind, walked = inner[0], f"{walked}.{name}"
            if get_origin(info.annotation if info else None) is dict:
                rest = rest[1:] if rest[0] not in kind.model_fields else rest  # a name of the user's own
        else:
            raise JobError(f"explain {path}: {walked}.{name} is a value, must be a table to have {rest[0]}")
    return topic(walked, kind), None


def topic(path: str, kind: type[Settings]) -> Topic:
    """Return the description of a table from the docstrings of its class."""
    text = inspect.cleandoc(kind.__doc__ or "")
    paragraphs = text.split("\n\n")
    summary = " ".join(paragraphs[0].split())
    body, source, departures = [], "", ""
    for paragraph in paragraphs[1:]:
        if paragraph.startswith("Source:"):
            source, _, departures = paragraph.removeprefix("Source:").partition("Departures:")
        elif paragraph.startswith("Departures:"):
            departures = paragraph.removeprefix("Departures:")
        else:
            body.append(paragraph)
    names = (name for name in kind.model_fields if not (name == "kind" and issubclass(kind, Step)))
    return Topic(
        path, kind, summary, "\n\n".join(body), " ".join(source.split()), _paragraph(departures),
        tuple(setting(kind, name) for name in names),
    )  # fmt: skip


def setting(kind: type[Settings], name: str) -> Setting:
    """Return the description of one key: its type, bounds, default and meaning."""
    info = kind.model_fields[name]
    meaning = " ".join((info.description or "").split())
    value = None if info.is_required() else _default(kind, name, info)
    texts = value if isinstance(value, Mapping) and all(isinstance(text, str) for text in value.values()) else {}
    shown = "must be given" if info.is_required() else _toml(value)
    return Setting(name, words(info.annotation), shown, _bounds(info), meaning, texts)


def classes(annotation: object) -> tuple[type[Settings], ...]:
    """Return the settings classes in an annotation, in the order in which it names them."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return (annotation,)
    return tuple(one for inner in get_args(annotation) for one in classes(inner))


def words(annotation: Any) -> str:  # noqa: ANN401 - annotations have no common type
    """Return the name of a type in words that suit TOML, such as `list of string`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(json.dumps(value) for value in inner)
    if origin in (Union, UnionType):
        of_steps = any(issubclass(one, Step) for one in classes(annotation))
        return "step" if of_steps else " | ".join(dict.fromkeys(words(one) for one in inner if one is not NoneType))
    if origin in (tuple, list):
        kind = words(inner[0])
        return f"list of {kind}s" if kind == "step" else f"list of {kind}"
    if origin is dict:
        kind = words(inner[1])
        return f"table of {kind}s by name" if kind == "step" else f"table of {kind} by name"
    if inner:  # Annotated
        return words(inner[0])
    is_table = isinstance(annotation, type) and issubclass(annotation, Settings)
    return "table" if is_table else SCALARS.get(annotation, str(getattr(annotation, "__name__", annotation)))


def _bounds(info: FieldInfo) -> str:
    found = []
    for entry in info.metadata:
        for name, sign in BOUNDS.items():
            value = getattr(entry, name, None)
            if value is not None:
                found.append(f"{sign} {value:g}" + (" entries" if "length" in name else ""))
    return ", ".join(found)


def _default(kind: type[Settings], name: str, info: FieldInfo) -> object:
    return info.default if info.default_factory is None else getattr(example_of(kind), name)


def _toml(value: object) -> str:
    """Return a default as TOML, or a description of it if it is a table, steps or a long text."""
    if value is None:
        return "absent"
    if isinstance(value, Step):
        return value.kind
    if isinstance(value, Settings):
        return "its own defaults"
    if isinstance(value, tuple | list) and value and all(isinstance(one, Step) for one in value):
        return ", ".join(one.kind for one in value)
    if isinstance(value, Mapping) and value and all(isinstance(key, str) for key in value):
        text = json.dumps(value, ensure_ascii=False, default=str)
        return text if len(text) <= LONGEST_DEFAULT else f"texts for {', '.join(value)}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_DEFAULT else f"{len(value) if isinstance(value, Sequence) else 1} entries"


def example_of(kind: type[Settings]) -> Settings:
    """Return a valid value of a class, for which only the required settings are given."""
    return kind.model_validate(dict(getattr(kind, "example", {})))


# -- as text ------------------------------------------------------------------------------------------------------


def lines(path: str = "") -> Iterator[str]:
    """Yield the lines that `gristmill explain PATH` prints."""
    if not path:
        yield from _overview()
        return
    where, one = find(path)
    if one is not None:
        yield from _setting(where, one)
        return
    yield from _wrapped(f"{where.path}: {where.summary}")
    if where.body:
        yield ""
        yield from _paragraphs(where.body)
    for title, text in (("Source", where.source), ("Departures", where.departures)):
        if text:
            yield ""
            yield from _wrapped(f"{title}: {text}")
    if where.settings:
        yield ""
        yield "Settings"
        for each in where.settings:
            facts = "; ".join(filter(None, (each.type, each.bounds, f"default: {each.default}")))
            yield from _wrapped(f"{each.name}  ({facts})", "  ")
            yield from _wrapped(each.meaning, "      ")
    for name, some in steps(where.kind).items():
        yield ""
        yield f"Steps of {where.path}.{name}"
        yield from _table(some)
    recipe = minimal(where)
    if recipe:
        yield ""
        yield "A recipe with it"
        yield from (f"    {line}" for line in recipe.splitlines())


def _overview() -> Iterator[str]:
    yield "The sections of a recipe, in the order in which they run."
    yield "`gristmill explain SECTION` shows one, `gristmill explain SECTION.STEP` a step."
    for name, kind in sections().items():
        yield ""
        yield from _wrapped(f"[{name}]  {topic(name, kind).summary}")
        for field_, some in steps(kind).items():
            yield f"  {field_}:"
            yield from _table(some)


def _table(some: Mapping[str, type[Step]]) -> Iterator[str]:
    widest = max(map(len, some))
    for kind, step in some.items():
        first, *more = textwrap.wrap(topic("", step).summary, WIDTH - widest - 6)
        yield f"    {kind:<{widest}}  {first}"
        yield from (f"    {'':<{widest}}  {line}" for line in more)


def _setting(where: Topic, one: Setting) -> Iterator[str]:
    yield f"{where.path}.{one.name}"
    first, *more = textwrap.wrap(one.type, WIDTH - 11)
    facts = (("type", first), *(("", line) for line in more), ("bounds", one.bounds), ("default", one.default))
    yield from (f"  {name:8} {text}" for name, text in facts if text)
    yield ""
    yield from _wrapped(one.meaning, "  ")
    for name, text in one.texts.items():
        yield ""
        yield from _long_text(f"{one.name}.{name}", text)
    if where.source:
        yield ""
        yield from _wrapped(f"Source of {where.path}: {where.source}", "  ")
    if where.departures:
        yield from _wrapped(f"Departures: {where.departures}", "  ")
    for name, some in steps(where.kind).items():
        if name == one.name:
            yield ""
            yield from _table(some)
    recipe = minimal(where)
    if recipe:
        yield ""
        yield "  A recipe with it"
        yield from (f"    {line}" for line in recipe.splitlines())


def _long_text(key: str, text: str) -> Iterator[str]:
    """Yield the lines of a text as a TOML string.

    Lines longer than `WIDTH` characters are folded. No line is indented, so that the string can be copied.
    """
    yield f'{key} = """\\'
    for line in (text.replace("\\", "\\\\").replace('"""', '""\\"') + '"""').split("\n"):
        rest = line
        while len(rest) > WIDTH:
            place = rest.rfind(" ", 0, WIDTH) + 1 or WIDTH
            place += len(rest[place:]) - len(rest[place:].lstrip())
            yield rest[:place] + "\\"
            rest = rest[place:]
        yield rest


def minimal(where: Topic) -> str:
    """Return the shortest valid recipe that contains a table, as TOML.

    For the section `cluster`, which is no job, it is the empty string.
    """
    job = where.path.split(".")[0]
    if job not in JOBS:
        return ""
    kind = jobs()[job]
    recipe: dict[str, Any] = {job: dict(kind.example)}
    if issubclass(where.kind, Step):
        name = next(list_ for list_, some in steps(kind).items() if where.kind in some.values())
        step = {"kind": where.kind.model_fields["kind"].default, **where.kind.example}
        held = words(kind.model_fields[name].annotation)
        recipe[job] |= {
            **where.kind.example_job,
            name: [step] if held.startswith("list") else {"mine": step} if held.startswith("table") else step,
        }
    before = {"evaluate": {"train": dict(jobs()["train"].example)}}.get(job, {})
    return toml({**before, **recipe})


def toml(recipe: Mapping[str, Any]) -> str:
    """Return nested tables as TOML. A value is a plain value, a table, or a list of tables."""
    out: list[str] = []

    def write(path: str, table: Mapping[str, Any], head: str) -> None:
        plain = {k: v for k, v in table.items() if not isinstance(v, Mapping) and not _tables(v)}
        out.append(head)
        out.extend(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in plain.items())
        for key, value in table.items():
            if isinstance(value, Mapping):
                write(f"{path}.{key}", value, f"\n[{path}.{key}]")
            elif _tables(value):
                for one in value:
                    write(f"{path}.{key}", one, f"\n[[{path}.{key}]]")

    for name, table in recipe.items():
        write(name, table, f"[{name}]" if not out else f"\n[{name}]")
    return "\n".join(out) + "\n"


def _tables(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _paragraph(text: str) -> str:
    return " ".join(text.split())


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ""
        if paragraph.startswith(("- ", "    ", "|")):
            yield from paragraph.splitlines()
        else:
            yield from _wrapped(" ".join(paragraph.split()))


def _wrapped(text: str, indent: str = "") -> Iterator[str]:
    yield from textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent) or [""]
