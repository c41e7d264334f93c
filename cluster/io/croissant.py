"""Croissant: the description of an exported folder as JSON-LD, which dataset search engines and loaders read.

Source: Akhtar et al. 2024, Croissant: A Metadata Format for ML-Ready Datasets, arXiv:2403.19546; specification 1.0 of
MLCommons. Departures: a date of publication and an address are left out, because an export has none. The licence is
left out, because only the owner can give it. A column without a single type, such as tools, is left out. A table or
list inside a table, such as the calls of a turn, is left out too. The dataset card names all of these.
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
"""Croissant's types, by the names of types in Arrow and in dataset cards."""
BLOCK = 1 << 20


def write(folder: Path, name: str, description: str, columns: Sequence[Mapping[str, Any]]) -> None:
    """Write the metadata of a folder with data files in `data/`, all Parquet or all JSON lines.

    Args:
        folder: folder of the export.
        name: name of the dataset.
        description: one sentence about the dataset.
        columns: the columns as a dataset card has them, each with `name` and one of `dtype`, `list` and `struct`.
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
        inner = column.get("list", column.get("struct"))
        field = {"@type": "cr:Field", "@id": f"samples/{name}", "name": name}
        repeated = {"repeated": True} if "list" in column else {}
        if isinstance(inner, list):
            within = list(_inner_fields(name, inner, "[*]." if repeated else ""))
            if within:
                yield {**field, **repeated, "subField": within}
        elif inner is None or isinstance(inner, str):  # else a list of lists
            kind = TYPES.get(inner or column.get("dtype", ""))
            if kind is not None:
                yield {**field, **repeated, "dataType": kind, "source": _source(name)}


def _inner_fields(column: str, fields: Sequence[Mapping[str, Any]], begin: str) -> Iterator[dict[str, Any]]:
    """Yield the fields inside a table, or inside the tables of a list.

    Fields that are tables or lists themselves are left out.
    """
    for field in fields:
        key, kind = str(field["name"]), TYPES.get(field.get("dtype", ""))
        if kind is not None and "'" not in key:
            path = begin + (key if key.isidentifier() else f"'{key}'")
            source = {**_source(column), "transform": {"jsonPath": path}}
            said = {"name": f"{column}/{key}", "dataType": kind, "source": source}
            yield {"@type": "cr:Field", "@id": f"samples/{column}/{key}", **said}


def _source(column: str) -> dict[str, Any]:
    return {"fileSet": {"@id": "train"}, "extract": {"column": column}}


def _digest(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
