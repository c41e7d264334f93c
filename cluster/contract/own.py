"""Steps of the user's own: `kind = "steps.py:FollowUp"` names a class in a Python file next to the recipe.

The text of the file is sent with the step to every worker, so only the driver's machine needs the file. The text is
also part of the step's fingerprint, so a changed file makes other data. The file is one module. All modules that it
imports must be installed.
"""

import linecache
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.settings import Settings, Step

POINTER = re.compile(r"(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)")
"""Matches `FILE.py:CLASS`."""


@dataclass(frozen=True, slots=True)
class Source:
    """The file that a user's own step comes from."""

    path: str
    text: str

    @property
    def digest(self) -> str:
        """The digest of the file's text, which is part of the fingerprint of a step."""
        return ids.digest(self.text)


class Own(Step):
    """The base class that `load` adds to each step class of a user's file. It keeps the file's path and text."""

    own_source: ClassVar[Source]
    own_name: ClassVar[str]

    def identity(self) -> dict[str, Any]:
        """Return the value that decides the step's results. It includes a digest of the file's text."""
        return {**super().identity(), "class": self.own_name, "source": self.own_source.digest}

    def __reduce_ex__(self, protocol: Any) -> Any:  # noqa: ANN401 - pickle's own
        """Pickle the step as the text of the file and the values of the settings."""
        del protocol
        return _restored, (self.own_source, self.own_name, self.__getstate__())


def load(source: Source, name: str) -> type[Step]:
    """Return the step class with this name in a file, as a subclass of `Own`.

    In one process, the same path and text always give the same class.

    Raises:
        JobError: if the file has no such step, or cannot be executed. The message then names file and line.
    """
    module = _module(source)
    made: dict[str, type[Step]] = module.__dict__.setdefault("__gristmill_steps__", {})
    if name not in made:
        kind = getattr(module, name, None)
        if not (isinstance(kind, type) and issubclass(kind, Step)):
            steps = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
            has = ", ".join(steps) or "none"
            raise JobError(f"{source.path}: {name} is no step, must be a method, filter or selector; classes: {has}")
        lacking = ", ".join(sorted(getattr(kind, "__abstractmethods__", ())))
        if lacking:
            raise JobError(f"{source.path}: {name} has no {lacking}, must have it to be a step")
        made[name] = type(kind.__name__, (Own, kind), {"own_source": source, "own_name": name, "__doc__": kind.__doc__,
                                                       "__module__": kind.__module__})  # fmt: skip
    return made[name]


def _restored(source: Source, name: str, state: dict[str, Any]) -> Step:
    kind = load(source, name)
    step = kind.__new__(kind)
    step.__setstate__(state)
    return step


def _module(source: Source) -> ModuleType:
    """Execute the text of a file as a module, once for each path and text in a process."""
    name = f"gristmill_own_{ids.digest(source.path, source.text)[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = source.path
    # tracebacks show the lines, and settings their strings, where the file itself is not
    linecache.cache[source.path] = (len(source.text), None, source.text.splitlines(keepends=True), source.path)
    sys.modules[name] = module
    try:
        exec(compile(source.text, source.path, "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        raise JobError(f"{locate_error(error, source.path)}: {type(error).__name__}: {error}") from error
    return module


def locate_error(error: Exception, path: str) -> str:
    """Return `file:line` for the last line of a file in an error's traceback, or the file alone if it has none."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"{path}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f"{path}:{lines[-1]}" if lines else path


@dataclass(frozen=True)
class OwnSteps:
    """Annotation for a list of steps that also accepts a `kind` such as `steps.py:FollowUp`, a class in a file."""

    bases: Callable[[], tuple[type[Step], ...]]
    """Returns the allowed base classes. The step must be a subclass of at least one of them."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: ANN401
        """Validate steps from users' files separately, and dump each step with the fields of its own class."""
        return core_schema.with_info_wrap_validator_function(
            self._validated,
            handler(source),
            serialization=core_schema.plain_serializer_function_ser_schema(_dumped, info_arg=True),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add tables whose `kind` names a file to the JSON schema."""
        kind = {"type": "string", "pattern": r"\.py:", "description": "A class in a Python file next to the recipe."}
        own = {"type": "object", "properties": {"kind": kind}, "required": ["kind"]}
        known = handler(schema["schema"])
        return {"anyOf": [known, own]}

    def _validated(self, value: Any, handler: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 - pydantic's own
        if isinstance(value, Own):
            return value
        found = POINTER.fullmatch(str(value.get("kind"))) if isinstance(value, dict) else None
        if found is None:
            return handler(value)
        path = Path((info.context or {}).get("base") or ".") / Path(found["path"]).expanduser()
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: cannot be read ({error}), must be a Python file with the class") from error
        try:
            kind = load(Source(str(path.resolve()), text), found["name"])
        except JobError as error:
            raise ValueError(str(error)) from error
        if not issubclass(kind, self.bases()):
            wanted = " or ".join(base.__name__ for base in self.bases())
            problem = f"{path}: {found['name']} is of another kind, must be a {wanted}"
            raise ValueError(problem)  # noqa: TRY004 - pydantic takes no TypeError
        named = {} if "kind" in kind.model_fields and not kind.model_fields["kind"].is_required() else _kind(kind)
        settings = {key: entry for key, entry in value.items() if key != "kind"}
        return kind.model_validate({**named, **settings}, context=info.context)


def _kind(kind: type[Settings]) -> dict[str, str]:
    return {"kind": re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower()}


def _dumped(step: Step, info: Any) -> dict[str, Any]:  # noqa: ANN401 - pydantic's own
    values = step.model_dump(mode=info.mode)
    if isinstance(step, Own):
        values["kind"] = f"{step.own_source.path}:{step.own_name}"
    return values
