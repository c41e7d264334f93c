"""Write `docs/reference/`: a page for each section and step, from the text that `gristmill explain` prints.

python docs/build.py            # writes the pages that differ; a test holds them current
"""

from collections.abc import Mapping
from pathlib import Path

from gristmill.cluster.cli import explain
from gristmill.cluster.contract.settings import Settings, Step

HERE = Path(__file__).parent / "reference"


def pages() -> dict[str, str]:
    """Return the text of every page by its file name."""
    found = {"index.md": _index()}
    for name, kind in explain.sections().items():
        found[f"{name}.md"] = _page(name, kind)
        for some in explain.steps(kind).values():
            found |= {f"{name}.{step}.md": _page(f"{name}.{step}", inner) for step, inner in some.items()}
    return found


def _index() -> str:
    out = ["# Reference", "", "Made of the same text as `gristmill explain`. The sections of a recipe, in the order in",
           "which they run:", ""]  # fmt: skip
    for name, kind in explain.sections().items():
        out += [f"## [\\[{name}\\]]({name}.md)", "", explain.topic(name, kind).summary, ""]
        for field, some in explain.steps(kind).items():
            out += [f"`{field}`:", "", *_steps(name, some), ""]
    return "\n".join(out)


def _steps(section: str, some: Mapping[str, type[Step]]) -> list[str]:
    rows = [
        f"| [{step}]({section}.{step}.md) | {_cell(explain.topic('', kind).summary)} |" for step, kind in some.items()
    ]
    return ["| kind | what it does |", "|---|---|", *rows]


def _page(path: str, kind: type[Settings]) -> str:
    topic = explain.topic(path, kind)
    out = [f"# {path}", "", topic.summary, ""]
    if topic.body:
        out += [topic.body, ""]
    for title, text in (("Source", topic.source), ("Departures", topic.departures)):
        out += [f"**{title}:** {text}", ""] if text else []
    out += ["## Settings", "", *_settings(topic), ""]
    for name, table in _tables(path, kind).items():
        out += [f"### {name}", "", table.summary, "", *_settings(table), ""]
    for field, some in explain.steps(kind).items():
        out += [f"## {field}", "", *_steps(path, some), ""]
    recipe = explain.minimal(topic)
    if recipe:
        out += ["## A recipe with it", "", "```toml", recipe.rstrip(), "```", ""]
    return "\n".join(out)


def _tables(path: str, kind: type[Settings]) -> dict[str, explain.Topic]:
    """Return the tables inside a table, which have no page of their own."""
    found: dict[str, explain.Topic] = {}
    for name, info in kind.model_fields.items():
        for inner in explain.classes(info.annotation):
            if not issubclass(inner, Step):
                found[f"{path}.{name}"] = explain.topic(f"{path}.{name}", inner)
                found |= _tables(f"{path}.{name}", inner)
    return found


def _settings(topic: explain.Topic) -> list[str]:
    rows = [
        f"| `{one.name}` | {_cell(one.type)} | {_cell(one.bounds)} | {_cell(one.default)} | {_cell(one.meaning)} |"
        for one in topic.settings
    ]
    return ["| key | type | bounds | default | meaning |", "|---|---|---|---|---|", *rows] if rows else []


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> None:
    """Write what differs, and delete pages of what is no longer there."""
    HERE.mkdir(parents=True, exist_ok=True)
    made = pages()
    for path in HERE.glob("*.md"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        path = HERE / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
