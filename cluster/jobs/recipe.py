"""Recipes: TOML files with a section for each job. Loading a recipe finds all its errors, before anything starts."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from gristmill.cluster.contract import gate, ids
from gristmill.cluster.contract.errors import GristmillError, JobError
from gristmill.cluster.contract.gate import GateError
from gristmill.cluster.contract.secrets import public_text, public_uri
from gristmill.cluster.io import ingest
from gristmill.cluster.jobs.job import JOBS, ClusterSettings, Job, Plan, Work, job_class
from gristmill.cluster.refresh.settings import RefreshSettings
from gristmill.cluster.store.store import Store, place
from gristmill.cluster.store.uri import UriError, folder_path

T = TypeVar("T", bound=BaseModel)
TOP = ("name", "store", "cluster", "refresh", *JOBS)
"""Keys and sections that a recipe may have."""
MOST_BYTES = 1 << 22
"""Most bytes of a recipe."""
NO_KEYS = re.compile(r'"""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*', re.DOTALL)
"""Matches the strings and the comments of TOML."""
DEEP_KEY = re.compile(rf"(?<![^\s=\[\]{{}},])(?:[^\s.=\[\]{{}},]++[ \t]*\.[ \t]*){{{gate.DEEPEST}}}")
"""Matches a dotted key of more than `gate.DEEPEST` parts, outside of strings and comments."""
PACKAGE = "_ray_pkg_"
"""Beginning of the names of folders in which Ray keeps copies of submitted folders."""
NAME = re.compile(r"[^\s./\\:*?\"<>|\x00-\x1f\x7f]([^/\\:*?\"<>|\x00-\x1f\x7f]{0,98}[^\s./\\:*?\"<>|\x00-\x1f\x7f])?")
"""Matches the name of a recipe, which must be allowed in the name of a folder on any system."""


@dataclass(frozen=True)
class Recipe:
    """A recipe that passed all checks."""

    name: str
    store: str
    ground: ClusterSettings
    jobs: Mapping[str, Job]
    path: Path
    refresh: RefreshSettings | None = None

    def works(self) -> dict[str, Work]:
        """Return the work of each job, by name.

        It depends on the digests of the inputs, so every input file is read once.

        Raises:
            JobError: if an input is absent.
        """
        outputs: dict[str, str] = {}
        works: dict[str, Work] = {}
        for name, job in self.jobs.items():
            inputs = job.needs(outputs)
            inputs |= {role: ingest.place_of(source) for role, source in job.sources().items()}
            if job.input is not None:
                outputs["ingest"] = inputs["samples"]
            elif job.upstream:
                inputs["samples"] = next(outputs[up] for up in job.upstream if up in outputs)
            output, fingerprint = place(name, job.identity(), inputs)
            works[name] = Work(output, fingerprint, inputs)
            outputs[name] = output
        return works

    def run_id(self, works: Mapping[str, Work]) -> str:
        """Return the run's name: the recipe's name and a hash of its outputs. So the same recipe gives the same run."""
        return f"{self.name}-{ids.digest({name: work.output for name, work in works.items()})[:8]}"

    def resolve(self, works: Mapping[str, Work]) -> dict[str, Any]:
        """Return the recipe with all defaults, as `recipe.json` of the run has it. It can be run like any recipe.

        Credentials are left out.
        """
        ingested = [works[name].inputs["samples"] for name, job in self.jobs.items() if job.input is not None]
        outputs = {"ingest": ingested[0]} if ingested else {}
        outputs |= {name: work.output for name, work in works.items()}
        return {
            "name": self.name,
            "store": public_uri(self.store),
            "cluster": self.ground.public(),
            "jobs": {name: job.public() for name, job in self.jobs.items()},
            "outputs": outputs,
        }


def load(given: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, look: bool = True) -> Recipe:
    """Read a recipe, apply overrides, and check everything.

    Args:
        given: the path of a `.toml` file or of a run's `recipe.json`, or the tables as a dict. Relative input paths
            start at the folder of the file, or at the current folder for a dict.
        overrides: `section.key=value`, where the value is written as in TOML, or is a bare word.
        look: whether to look for the models and packages that the jobs need. The machine that runs them must have them.

    Raises:
        JobError: if anything is wrong. The message has all errors, one on each line.
    """
    path = Path("recipe") if isinstance(given, Mapping) else Path(given)
    raw = deepcopy(dict(given)) if isinstance(given, Mapping) else _read(path)
    errors = [*_override(raw, overrides)]
    errors += [
        f"{key}: unknown section, must be one of {', '.join(TOP)}{near(key, TOP)}" for key in raw if key not in TOP
    ]
    context = {"base": path.resolve().parent}
    jobs: dict[str, Job] = {}
    for name in JOBS:
        if name not in raw:
            continue
        job: Job | None = _validate(job_class(name), raw[name], name, context, errors)
        if job is not None:
            jobs[name] = job
            errors += [f"{name}.{line}" for line in (job.check(context["base"]) if look else ())]
    ground = _validate(ClusterSettings, raw.get("cluster", {}), "cluster", context, errors) or ClusterSettings()
    refresh = _validate(RefreshSettings, raw["refresh"], "refresh", context, errors) if "refresh" in raw else None
    errors += _unfed(jobs, raw)
    name, store = raw.get("name", path.stem), raw.get("store", "runs")
    errors += [
        f"{key}: {value!r}, must be a string"
        for key, value in (("name", name), ("store", store))
        if not isinstance(value, str)
    ]
    if isinstance(name, str) and not NAME.fullmatch(name):
        errors.append(f"name: {name!r}, must be a plain word of at most 100 characters, without a dot first, / or \\")
    if isinstance(store, str):
        errors += _problem_of_store(store)
    if not any(section in raw for section in JOBS):
        errors.append(f"no job, must have at least one of the sections {', '.join(JOBS)}")
    if errors:
        raise JobError("\n".join(f"{path}: {line}" for line in errors))
    return Recipe(name, store, ground, jobs, path, refresh)


def _problem_of_store(store: str) -> Iterator[str]:
    """Yield an error if a store is no path, or is in a copy of a submitted folder.

    `ray job submit --working-dir .` runs a command in such a copy, whose name follows from the folder's content.
    """
    try:
        path = folder_path(store) if "://" not in store else Path(store)
    except UriError as error:
        yield f"store: {store[:80]!r} {str(error)[:200]}"
        return
    copy = next((part for part in path.parts if part.startswith(PACKAGE)), "")
    if copy:
        yield (
            f"store: {store} is in the copy {copy} of the submitted folder, which Ray deletes after the job, must be "
            "an absolute path or a URI; set it, also by --set store=…"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise JobError(f"{path}: is longer than {MOST_BYTES} bytes, must be a recipe; name data by their path")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise JobError(f"{path}: absent, must be a recipe; see the folder examples/") from error
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{path}: cannot be read ({error}), must be a UTF-8 text file") from error
    if path.suffix != ".json":
        return _toml(text, str(path))
    try:
        raw = gate.parse(text)
        return {**{k: raw[k] for k in ("name", "store", "cluster")}, **raw["jobs"]}
    except GateError as error:
        raise JobError(f"{path}: {error}") from error
    except (KeyError, TypeError) as error:
        raise JobError(f"{path}: no {error} in it, must be the recipe.json of a run") from error


def _toml(text: str, where: str) -> dict[str, Any]:
    """Return the tables of a TOML text that is not too deep. Python's reader takes minutes for keys of many parts."""
    too_deep = f"{where}: has more than {gate.DEEPEST} tables and lists in each other, must have fewer"
    if DEEP_KEY.search(NO_KEYS.sub(lambda found: "" if found[0].startswith("#") else "s", text)):
        raise JobError(too_deep)
    try:
        raw: dict[str, Any] = gate.admit(tomllib.loads(text))
    except GateError as error:
        raise JobError(f"{where}: {error}") from error
    except RecursionError as error:
        raise JobError(too_deep) from error
    except ValueError as error:  # TOMLDecodeError, and the one for a number of 5,000 digits
        raise JobError(f"{where}: not TOML: {error}") from error
    return raw


def _override(raw: dict[str, Any], overrides: Sequence[str]) -> Iterator[str]:
    for line in overrides:
        key, equals, text = line.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            yield f"--set {line}: must read section.key=value"
            continue
        if len(parts) > gate.DEEPEST:
            yield f"--set {line[:80]}…: has {len(parts)} keys, must have at most {gate.DEEPEST}"
            continue
        try:
            value = _toml(f"value = {text}", "value")["value"]
        except JobError:
            value = text
        problem = _put(raw, parts, value)
        if problem:
            yield f"--set {line}: {problem}"


def _put(raw: dict[str, Any], parts: list[str], value: object) -> str:
    place: Any = raw
    for part in parts[:-1]:
        if isinstance(place, list):
            if not _is_place(part, place):
                return f"{part} is not a place in a list of {len(place)}"
            place = place[int(part)]
        else:
            place = place.setdefault(part, {})
        if not isinstance(place, dict | list):
            return f"{part} is a value, must be a section"
    if isinstance(place, list):
        if not _is_place(parts[-1], place):
            return f"{parts[-1]} is not a place in a list of {len(place)}"
        place[int(parts[-1])] = value
    else:
        place[parts[-1]] = value
    return ""


def _is_place(part: str, place: list[Any]) -> bool:
    return part.isdecimal() and len(part) < 10 and int(part) < len(place)


def _validate(kind: type[T], raw: object, name: str, context: dict[str, Any], errors: list[str]) -> T | None:
    try:
        return kind.model_validate(raw, context=context)
    except ValidationError as error:
        found = [dict(e) for e in error.errors()]
        errors += [_line(kind, name, raw, e) for e in found if not _follows(e, found)]
        return None


def _follows(error: dict[str, Any], found: Sequence[dict[str, Any]]) -> bool:
    """Say whether an error only follows from another error, so that it need not be reported.

    A list may be too short without its bad entries, and a wrong table is also no valid word.
    """
    place = error["loc"]
    inner = any(other["loc"][: len(place)] == place and other is not error for other in found)
    return (
        (error["type"] == "too_short" and inner)
        or (error["type"] == "literal_error" and isinstance(error["input"], dict))
        or error["type"] == "default_factory_not_called"  # a default that follows from a wrong setting
    )


def _line(kind: type[BaseModel], name: str, raw: object, error: dict[str, Any]) -> str:
    """Return the line `section.key: what is, what must be` for one pydantic error."""
    where = name + _path(raw, error["loc"])
    if error["type"] == "extra_forbidden":
        legal = _legal_keys(kind, list(error["loc"][:-1]))
        unknown = str(error["loc"][-1])
        return f"{where}: unknown key" + (f", must be one of {', '.join(legal)}{near(unknown, legal)}" if legal else "")
    if error["type"] == "missing":
        return f"{where}: absent, must be given"
    if error["type"].startswith("union_tag"):
        given = error.get("ctx", {}).get("tag")
        expected = error.get("ctx", {}).get("expected_tags", "").replace("'", "")
        return (
            f"{where}.kind: {given or 'absent'}, must be one of {expected}{near(str(given), expected.split(', '))}"
            if expected
            else f"{where}: kind is absent, must be given"
        )
    shown = public_text(repr(error["input"]))  # before it is cut: a cut URI cannot be told from a text
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = message[0].lower() + message[1:]
    message = message.replace("should be", "must be")
    for pattern, word in IN_TOML.items():
        message = re.sub(pattern, word, message)
    if isinstance(error["input"], dict):
        return f"{where}: {message}"
    return f"{where}: {shown if len(shown) < 80 else shown[:77] + '...'}, {message}"


IN_TOML = {
    r"a valid dictionary( or instance of \w+)?": "a table",
    r"a valid (tuple|list|set|frozenset)": "a list",
    r"a valid boolean": "true or false",
    r"a valid string": "a string",
}
"""Names that TOML has for what pydantic asks for."""


def near(name: str, names: Iterable[str]) -> str:
    """Return the question whether a similar name was meant, or the empty string if no name is similar."""
    close = difflib.get_close_matches(name, list(names), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _path(raw: Any, loc: Sequence[Any]) -> str:  # noqa: ANN401 - walks through TOML values
    """Return the location of an error in the spelling of a recipe.

    Pydantic adds the kind of a step to the location. This is no key of the recipe, so it is removed.
    """
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
            raw = raw[part] if isinstance(raw, list) and part < len(raw) else None
        elif not part.isidentifier() or part[0].isupper():
            continue  # the class that pydantic tried, where a table may be of several classes
        elif not (isinstance(raw, dict) and part not in raw and raw.get("kind") == part):
            path += f".{part}"
            raw = raw.get(part) if isinstance(raw, dict) else None
    return path


def _legal_keys(kind: Any, loc: list[Any]) -> list[str]:  # noqa: ANN401 - annotations have no common type
    """Return the field names of the settings class at a location inside `kind`."""
    while True:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if not loc:
                return list(kind.model_fields)
            field = kind.model_fields.get(str(loc.pop(0)))
            kind = field.annotation if field else None
            continue
        if loc and isinstance(loc[0], int):
            loc.pop(0)
        options = [m for a in get_args(kind) for m in (a, *get_args(a))]
        models = [m for m in options if isinstance(m, type) and issubclass(m, BaseModel)]
        models += [m for a in options for m in get_args(a) if isinstance(m, type) and issubclass(m, BaseModel)]
        tagged = [m for m in models if loc and "kind" in m.model_fields and m.model_fields["kind"].default == loc[0]]
        if tagged:
            loc.pop(0)
        if not models:
            return []
        kind = (tagged or models)[0]


def _unfed(jobs: Mapping[str, Job], raw: Mapping[str, Any]) -> Iterator[str]:
    """Yield an error for each job that has no input."""
    for name, job in jobs.items():
        fed = job.input is not None or not job.upstream or any(up in raw for up in job.upstream)
        if not fed:
            others = "".join(f", or the recipe have a section [{up}]" for up in job.upstream)
            yield f"{name}.input: absent, must name the samples to work on{others}"
        if name == "evaluate" and "train" not in raw:
            yield "evaluate: no [train] section, must have one: it compares the model that train makes with its base"


def check_inputs(recipe: Recipe, store: Store, only: Sequence[str], works: Mapping[str, Work]) -> list[str]:
    """Return a line for each missing input of the chosen jobs.

    An input is missing if it is not complete in the store and no chosen job makes it.
    """
    made = {works[name].output for name in only}
    files = [
        (name, role) for name, job in recipe.jobs.items() for role, one in job.sources().items() if not one.dataset
    ]
    own = {works[name].inputs[role] for name, role in files}
    return [
        f"{name}: its {role} {folder} is not in the store; run `gristmill {folder.split('-')[0]}` first"
        for name in only
        for role, folder in works[name].inputs.items()
        if folder not in made | own and not store.complete(folder)
    ]


def plans_of(recipe: Recipe, works: Mapping[str, Work]) -> list[Plan]:
    """Return the plan of each job of a recipe. A plan uses the number of samples that earlier jobs should keep."""
    store = Store(recipe.store)
    plans: list[Plan] = []
    expected: dict[str, int] = {}
    for name, job in recipe.jobs.items():
        plans.append(job.plan(store, replace(works[name], expected=expected)))
        expected[works[name].output] = plans[-1].kept
    return plans


def open_recipe(given: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> tuple[Recipe, dict[str, Work]]:
    """Load a recipe, and return it with the work of each job.

    Raises:
        JobError: if anything is wrong with the recipe or its inputs.
    """
    recipe = load(given, overrides)
    try:
        return recipe, recipe.works()
    except JobError:
        raise
    except GristmillError as error:
        raise JobError(f"{recipe.path}: {error}") from error
