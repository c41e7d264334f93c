"""The pages for people: their recipes can be planned, their links lead somewhere, the reference is current."""

import importlib.util
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gristmill.cluster.contract.errors import RunError
from gristmill.cluster.io.ingest import ingest
from gristmill.cluster.jobs.recipe import open_recipe, plans_of
from gristmill.cluster.store.store import Store
from gristmill.generation.job import Generate
from gristmill.training.evaluate.scorers import harness
from tests.generation.ground import Loop, a_run
from tests.invariants import check_dataset
from tests.paths import ROOT
from tests.test_layers import FILES, PACKAGES

TOP = [ROOT / name for name in ("README.md", "README.zh.md", "AGENTS.md", "llms.txt")]
PAGES = [*TOP, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/zh").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [block.split("```")[0] for block in text.split(f"```{language}\n")[1:]]


ROW = json.dumps({"instruction": "Name a river.", "output": "The Elbe.", "label": "positive"}) + "\n"


PATHS = {"input", "documents", "path", "sets", "datasets", "targets", "private_data", "seeds", "test", "unlabelled"} | {
    "labelled",
    "replay_input",
}
"""Keys whose values are paths."""


def stubs(value: object, key: str = "") -> Iterator[str]:
    """The relative paths that a recipe names, a file for each pattern, and the file that makes a folder a model."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from stubs(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from stubs(inner, key)
    elif key in PATHS:
        yield str(value).replace("*", "one")
    elif key == "model" and str(value).startswith("models/"):
        yield f"{value}/config.json"


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_the_recipes_of_a_page_can_be_planned(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where a folder of a model is looked up
    monkeypatch.setattr(harness, "find_spec", lambda name: object())  # lm-eval is not in the lock
    for code in blocks(page, "python")[:1]:
        (tmp_path / "steps.py").write_text(code, encoding="utf-8")
    for text in blocks(page, "toml"):
        (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
        for name in stubs(tomllib.loads(text)):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}" if path.name == "config.json" else ROW)
        recipe, works = open_recipe(tmp_path / "recipe.toml", [f"store={tmp_path}/runs"])
        assert [plan.state for plan in plans_of(recipe, works)] == ["to do"] * len(works)


EXAMPLES = ROOT / "examples"
OWN = {
    "seeds.jsonl": EXAMPLES / "seeds.jsonl",
    "prompts.txt": EXAMPLES / "data/annotate_reviews.txt",
    "texts.txt": EXAMPLES / "data/annotate_reviews.txt",
    "labelled.jsonl": EXAMPLES / "data/targeted_reviews.jsonl",
    "marked.jsonl": EXAMPLES / "data/targeted_names.jsonl",
    "handbook/one.md": EXAMPLES / "data/documents/tide_mill.md",
}
"""What the pages call a reader's own files."""


@pytest.mark.parametrize("text", blocks(ROOT / "docs/methods.md", "toml"))
def test_the_recipes_for_choosing_draft_rows(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small, on the scripted engine, whose replies not every filter lets pass."""
    monkeypatch.chdir(tmp_path)
    for name in stubs(tomllib.loads(text)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(OWN[name].read_bytes() if name in OWN else b"{}" if "models/" in name else ROW.encode())
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    target = [] if 'target = "all"' in text else ["generate.target=3", "generate.max_drafts=40"]
    recipe, works = open_recipe(tmp_path / "recipe.toml", [f"store={tmp_path}/runs", *target])
    job, store = recipe.jobs["generate"], Store(recipe.store)
    assert isinstance(job, Generate)
    inputs = [ingest(store, source) for source in job.sources().values()]
    run, work = a_run(store), works["generate"]
    try:
        job.drive(run, work, Loop(run, job, work))
    except RunError as error:
        assert "after 40 drafts" in str(error), "the rows are there, but no target is met"
    else:
        check_dataset(store, work.output, *inputs)


def test_the_method_that_is_shown_is_one() -> None:
    from gristmill.generation.contracts import Method

    [code] = blocks(ROOT / "docs/your-own-step.md", "python")
    names: dict[str, object] = {"__name__": "follow_up"}
    exec(compile(code, "your-own-step.md", "exec"), names)
    follow_up = names["FollowUp"]
    assert isinstance(follow_up, type)
    assert issubclass(follow_up, Method)
    assert len(follow_up.model_validate({}).fingerprint()) == 32


def test_the_tree_names_every_folder() -> None:
    text = (ROOT / "docs/how-it-works.md").read_text(encoding="utf-8").split("## The tree")[1]
    told = {name for name in re.findall(r"`([a-z_/]+)/`", text) if name.split("/")[0] in PACKAGES}
    there = {str(path.parent.relative_to(ROOT)) for path in FILES} - {*PACKAGES}
    folders = {name for name in there if name.count("/") == 1}
    assert told == folders, f"not told: {sorted(folders - told)}; not there: {sorted(told - folders)}"


def anchors(page: Path) -> set[str]:
    """The places of a page that a link can lead to, named as GitHub names them."""
    heads = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?s)```.*?```", "", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_what_pages_link_to_and_name_is_there() -> None:
    for page in [*PAGES, *(ROOT / "docs/reference").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for name, anchor in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", re.sub(r"`[^`]*`", "", text)):
            path = page.parent / name if name else page
            assert path.exists(), f"{page.name} links to {name}"
            assert not anchor or anchor in anchors(path), f"{page.name} links to {name}#{anchor}"
        for name in re.findall(r"`((?:cluster|generation|selection|training)/[\w/]+\.py)`", text):
            assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in text]
    assert not missing, missing


def test_the_reference_says_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("build", ROOT / "docs/build.py")
    assert spec is not None and spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    made = build.pages()
    there = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs/reference").glob("*.md")}
    assert there == made, "run python docs/build.py"
