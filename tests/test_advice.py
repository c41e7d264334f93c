"""What messages advise: none tells people to delete what another run may have completed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "generation", "selection", "training")
DELETES = re.compile(r"\b(?:delete|erase|rm|remove)\b[^.;,]{0,20}(?:folder|dataset|store|checkpoint|run|\{\})")


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Every text in a file but docstrings, f-strings with `{}` for what they put in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    passed: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            passed.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            passed |= {id(piece) for piece in node.values}
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passed:
            yield node.lineno, node.value


def test_no_message_tells_people_to_delete_what_a_run_may_have_completed() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in files
        for line, text in texts(path)
        if DELETES.search(text)
    ]
    assert len(files) > 100 and found == []


def test_such_a_message_would_be_found(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(
        'raise RunError(f"step {n}: lower it, delete the folder")\nx = f"or delete {folder} to begin anew"\n'
    )
    assert sorted(line for line, text in texts(bad) if DELETES.search(text)) == [1, 2]
