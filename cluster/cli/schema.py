"""The JSON schema of a recipe, with which editors complete and check the TOML."""

from typing import Any

from pydantic.json_schema import models_json_schema

from gristmill.cluster.cli.explain import sections

URL = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """Return the schema of a recipe (draft 2020-12), with the meaning of each key as its description.

    The schema contains only rules about single keys. `gristmill plan` also checks the rules about several keys.
    """
    known = sections()
    found, whole = models_json_schema([(kind, "validation") for kind in known.values()], by_alias=True)
    return {
        "$schema": URL,
        "title": "Recipe of Gristmill",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "description": "Name of the recipe; by default that of its file."},
            "store": {
                "type": "string",
                "default": "runs",
                "description": "Folder or URI of runs and datasets.",
            },
            **{name: found[kind, "validation"] for name, kind in known.items()},
        },
        "$defs": whole.get("$defs", {}),
    }
