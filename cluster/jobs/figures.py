"""Figures: the typed values that a job measured. They are written as JSON with a version."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gristmill.cluster.contract.errors import StoreError


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures that every job has. Each job adds its own in a subclass."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    version: ClassVar[int] = 1
    """Number that is increased when a field changes its name or meaning."""

    rows: int
    """Number of rows that were read or made."""
    kept: int
    """Number of rows that are kept for later jobs."""
    prompt_tokens: int | None = None
    """Number of tokens that a model read."""
    tokens: int | None = None
    """Number of tokens that a model wrote, or that it was trained or scored on."""
    seconds: float | None = None
    tokens_per_s: float | None = None

    @property
    def all_tokens(self) -> int:
        """Number of tokens that were read and written."""
        return (self.prompt_tokens or 0) + (self.tokens or 0)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value with the name and version of the class. Fields that are None are left out."""
        values = _adapter(type(self)).dump_python(self, mode="json", exclude_none=True)
        return {"figures": type(self).__name__, "version": self.version, **values}

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Self:
        """Return the figures of a JSON value.

        Raises:
            StoreError: if another class or version wrote the value, or if a field of it is wrong.
        """
        given, wanted = (value.get("figures"), value.get("version")), (cls.__name__, cls.version)
        if given != wanted:
            raise StoreError(
                f"figures: {given[0]} of version {given[1]}, must be {wanted[0]} of version {wanted[1]}; "
                "read them with the version of gristmill that wrote them, or run the job again"
            )
        try:
            found: Self = _adapter(cls).validate_python(
                {k: v for k, v in value.items() if k not in ("figures", "version")}
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise StoreError(f"figures: {cls.__name__}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        return found


_ADAPTERS: dict[str, TypeAdapter[Any]] = {}


def _adapter(cls: type[Figures]) -> TypeAdapter[Any]:
    """Return the validator of a class. It is made only once for each class, because that takes milliseconds."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    if name not in _ADAPTERS:
        _ADAPTERS[name] = TypeAdapter(cls)
    return _ADAPTERS[name]
