"""Features: the columns of JSON rows with their types, as the header of a dataset card has them.

Without this header, readers infer the columns from one file.
"""

import json
from collections.abc import Mapping
from functools import reduce
from typing import Any

Kind = Any
"""The type of a column: a name, a list of one kind, a table of kinds by name, or None if all values are null."""
DTYPES: Mapping[type, str] = {str: "string", bool: "bool", int: "int64", float: "float64"}
ANY = "json"
"""The kind of values that have no single type, such as contents that are text or parts, or the schemas of tools."""


class Features:
    """The columns of all rows that were added, with types that fit every row."""

    def __init__(self) -> None:
        """Begin without a column."""
        self._kind: Kind = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Add the columns of one more row."""
        self._kind = _merged(self._kind, {name: [ANY] if name == "tools" else _kind(row[name]) for name in row})

    def columns(self) -> list[dict[str, Any]]:
        """Return the name of each column, and its `dtype`, `list` or `struct`."""
        return [{"name": name, **_named(kind)} for name, kind in self._kind.items()]

    def yaml(self) -> str:
        """Return the columns as the YAML block of a dataset card."""
        return f"dataset_info:\n  features: {json.dumps(self.columns(), ensure_ascii=False)}"


def _kind(value: object) -> Kind:
    if isinstance(value, Mapping):
        return {str(name): _kind(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [reduce(_merged, map(_kind, value), None)]
    return None if value is None else DTYPES[type(value)]


def _merged(one: Kind, other: Kind) -> Kind:
    if one is None or other is None or one == other:
        return other if one is None else one
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: _merged(one.get(name), other.get(name)) for name in {**one, **other}}
    if isinstance(one, list) and isinstance(other, list):
        return [_merged(one[0], other[0])]
    return "float64" if [one, other] in (["int64", "float64"], ["float64", "int64"]) else ANY


def _named(kind: Kind) -> dict[str, Any]:
    """Return the entry of a column: its `dtype`, `list` or `struct`."""
    if isinstance(kind, dict):
        return {"struct": [{"name": name, **_named(inner)} for name, inner in kind.items()]}
    if isinstance(kind, list):
        inner = _named(kind[0])
        return {"list": inner.get("struct") or inner.get("dtype") or inner}
    return {"dtype": kind or "string"}
