"""Files of rows, and sources that read them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gristmill.cluster.io.ingest import Source


def lines(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def source(path: Path | Sequence[Path], **settings: Any) -> Source:
    paths = (path,) if isinstance(path, Path) else path
    return Source.model_validate({"path": [str(p) for p in paths], **settings})


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
