"""JSON of the store as values of classes. A person, or another version, may have altered it."""

from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from gristmill.cluster.contract.errors import StoreError
from gristmill.cluster.store.backend import SHOWN

T = TypeVar("T")


def typed(kind: type[T], data: bytes, where: str) -> T:
    """Return JSON as a value of a dataclass, or of another type that pydantic checks.

    Raises:
        StoreError: if it is no such value. The message begins with `where`.
    """
    asked: Any = kind
    try:
        found: T = _adapter(asked).validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        said = f"{place}: {first['msg']}" if place else first["msg"]
        advice = "must be as it was written; move the folder away and run again"
        raise StoreError(f"{where}: was altered ({said[:SHOWN]}), {advice}") from error
    return found


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - a type, which the cache takes for a value
    return TypeAdapter(kind)
