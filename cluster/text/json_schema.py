"""JSON schemas in settings, as JSON text."""

import json
from importlib import import_module
from typing import Annotated

from pydantic import AfterValidator


def _valid(text: str) -> str:
    if text:
        jsonschema = import_module("jsonschema")
        try:
            jsonschema.Draft202012Validator.check_schema(json.loads(text))
        except (ValueError, jsonschema.SchemaError) as error:
            raise ValueError(f"must be a JSON schema: {str(error).splitlines()[0]}") from error
    return text


JsonSchema = Annotated[str, AfterValidator(_valid)]
"""JSON text of a schema, checked when the settings are read; the empty string is no schema."""
