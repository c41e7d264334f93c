"""Step: a small frozen value whose fields are its settings. Its fingerprint follows from them."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.secrets import public_settings

STRING: dict[str, Any] = {"type": "string"}
STRINGS: dict[str, Any] = {"type": "array", "items": STRING}


def short_forms(*forms: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Return the `json_schema_extra` of a field that also accepts other forms of its value.

    A validator of the field must turn these forms into the field's own type.
    """

    def extend(schema: dict[str, Any]) -> None:
        beside = {name: schema.pop(name) for name in ("description", "default", "title") if name in schema}
        whole = dict(schema)
        schema.clear()
        schema.update(anyOf=[*forms, whole], **beside)

    return extend


class Settings(BaseModel):
    """Settings from a recipe. They are frozen and refuse unknown keys. The string under a field documents it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    revision: ClassVar[int] = 1
    """Number that is increased when the same settings make other data than before."""
    not_identity: ClassVar[frozenset[str]] = frozenset()
    """Fields that do not change the data, but only how fast or where it is made. The fingerprint leaves them out."""
    newer: ClassVar[frozenset[str]] = frozenset()
    """Fields that are newer than results people already have. The fingerprint leaves them out while they have their
    default, so that these results stay valid."""
    example: ClassVar[Mapping[str, Any]] = {}
    """Values of the required settings, used by the recipes in the documentation."""

    def identity(self) -> dict[str, Any]:
        """Return the JSON value that decides the results: class, revision, and all fields not in `not_identity`.

        A field in `newer` that has its default is left out too.
        """
        fields = {
            name: _identity(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if name not in self.not_identity
            and not (name in self.newer and getattr(self, name) == field.get_default(call_default_factory=False))
        }
        return {"class": type(self).__name__, "revision": self.revision, "fields": fields}

    def further_files(self) -> list[str]:
        """Return absolute paths of files that are read although no setting names them."""
        return []

    def public(self) -> dict[str, Any]:
        """Return the settings as a JSON value without credentials, as manifests and stored recipes have them."""
        shown: dict[str, Any] = public_settings(self.model_dump(mode="json"))
        return shown

    def fingerprint(self) -> str:
        """Return 32 hex digits that change exactly when `identity` does."""
        return ids.digest(self.identity())


def _identity(value: object) -> object:
    if isinstance(value, Settings):
        return value.identity()
    if isinstance(value, list | tuple):
        return [_identity(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _identity(inner) for key, inner in value.items()}
    return value


class Step(Settings):
    """A method, a filter or a selector. It holds only settings. Live objects are arguments of its functions."""

    example_job: ClassVar[Mapping[str, Any]] = {}
    """Settings of the job that this step needs, used by the recipes in the documentation."""

    kind: str
    """Name of the step in recipes, rows and drop reasons."""
