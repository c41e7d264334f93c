"""Croissant: what an exported folder holds, in the JSON-LD form that dataset search engines and loaders read.

Source: Akhtar et al. 2024, Croissant: A Metadata Format for ML-Ready Datasets, arXiv:2403.19546; specification 1.0 of
MLCommons. Departures: a date of publication and an address are left out, because an export has none; the licence too,
which only its owner can give. Of columns that are tables the fields are not named; the dataset card names them.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FILE = "croissant.json"
CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
TYPES: Mapping[str, str] = {
    "string": "sc:Text",
    "bool": "sc:Boolean",
    "int16": "sc:Integer",
    "int32": "sc:Integer",
    "int64": "sc:Integer",
    "float32": "sc:Float",
    "float64": "sc:Float",
    "float": "sc:Float",
}
"""Types by the names that Arrow and dataset cards give them; any other value is text to a reader."""
BLOCK = 1 << 20


def write(folder: Path, name: str, description: str, columns: Sequence[Mapping[str, Any]]) -> None:
    """Write the metadata of a folder with data files in `data/`, all Parquet or all JSON lines.

    Args:
        folder: of the export.
        name: of the dataset.
        description: one sentence.
        columns: name and `dtype`, `list` or `struct` of each, as a dataset card has them.
    """
    files = sorted((folder / "data").iterdir())
    parquet = files[0].suffix == ".parquet"
    kind = "application/x-parquet" if parquet else "application/jsonlines"
    objects = [
        {
            "@type": "cr:FileObject",
            "@id": f"data/{file.name}",
            "name": file.name,
            "contentUrl": f"data/{file.name}",
            "contentSize": f"{file.stat().st_size} B",
            "encodingFormat": kind,
            "sha256": _digest(file),
        }
        for file in files
    ]
    files_of = {"@type": "cr:FileSet", "@id": "train", "encodingFormat": kind, "includes": f"data/*{files[0].suffix}"}
    records = {"@type": "cr:RecordSet", "@id": "samples", "name": "samples", "field": list(_fields(columns))}
    made = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": description,
        "keywords": ["gristmill"],
        "distribution": [*objects, files_of],
        "recordSet": [records],
    }
    (folder / FILE).write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _fields(columns: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for column in columns:
        name = column["name"]
        source = {"fileSet": {"@id": "train"}, "extract": {"column": name}}
        yield {"@type": "cr:Field", "@id": f"samples/{name}", "name": name, "source": source, **_type(column)}


def _type(column: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a field says of its values; what is in tables is said by the dataset card."""
    if "list" in column:
        inner = column["list"]
        dtype = inner if isinstance(inner, str) else ""
        return {"dataType": TYPES.get(dtype, "sc:Text"), "repeated": True}
    return {"dataType": TYPES.get(column.get("dtype", ""), "sc:Text")}


def _digest(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
