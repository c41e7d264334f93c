"""Documents: what is read from Markdown, HTML, PDF and plain text, and how it is cut."""

import builtins
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.io import documents
from gristmill.cluster.io.documents import chunks
from gristmill.cluster.io.ingest import Source, ingest, place_of, read
from gristmill.cluster.store.store import Store
from tests.invariants import check_dataset

MARKDOWN = """---
title: "The hive"
author: nobody
---

# Keeping bees

A hive needs a dry stand.

```
# no heading
```

## Food

### In winter

A colony eats fifteen kilograms.

Water
-----

Shallow, with stones.
"""
HTML = """<!doctype html><html><head><meta charset="{charset}"><title>{title} | Garden</title></head><body>
<nav><a href="/">Home</a> <a href="/about">About us</a></nav>
<main><h1>{title}</h1><p>{first}</p><h2>{heading}</h2><p>{second}</p></main>
<footer>All rights reserved. We use cookies.</footer></body></html>"""


def pdf(*pages: str, title: str = "") -> bytes:
    """Write a PDF whose font has no outlines but says which character each code is, so that any script will do."""
    kids = " ".join(f"{5 + 2 * n} 0 R" for n in range(len(pages)))
    cmap = "1 begincodespacerange <0000> <FFFF> endcodespacerange\n1 beginbfrange <0000> <FFFF> <0000> endbfrange"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        (
            "<< /Type /Font /Subtype /Type0 /BaseFont /F /Encoding /Identity-H /ToUnicode 4 0 R /DescendantFonts "
            "[<< /Type /Font /Subtype /CIDFontType2 /BaseFont /F /DW 500 "
            "/CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> >>] >>"
        ),
        f"<< /Length {len(cmap)} >>\nstream\n{cmap}\nendstream",
    ]
    for n, page in enumerate(pages):
        shown = " ".join(f"<{line.encode('utf-16-be').hex()}> Tj 0 -14 Td" for line in page.split("\n"))
        content = f"BT /F1 12 Tf 72 700 Td {shown} ET"
        where = f"/Contents {6 + 2 * n} 0 R"
        resources = "/Resources << /Font << /F1 3 0 R >> >>"
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] {resources} {where} >>")
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    objects.append(f"<< /Title <feff{title.encode('utf-16-be').hex()}> >>")
    body, places = "%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    body += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    start = body.index("xref\n")
    trailer = f"<< /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R >>"
    return f"{body}trailer\n{trailer}\nstartxref\n{start}\n%%EOF".encode()


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def samples(path: Path, **settings: Any) -> list[Sample]:
    return list(read(Source.model_validate({"path": str(path), **settings})))


# -- cutting ------------------------------------------------------------------------------------------------------

ENGLISH = "\n\n".join(" ".join(f"Sentence {n} of paragraph {p} is here." for n in range(6)) for p in range(8))
CHINESE = "\n\n".join("".join(f"第{p}段的第{n}句话写在这里。" for n in range(9)) for p in range(8))


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, "word " * 500, "x" * 3000, "汉" * 3000])
@pytest.mark.parametrize(("size", "overlap"), [(100, 0), (300, 40), (300, 290), (5000, 200)])
def test_chunks_cover_the_text_are_short_enough_and_overlap_as_asked(text: str, size: int, overlap: int) -> None:
    found = list(chunks(text, size, overlap))
    assert [c.number for c in found] == list(range(1, len(found) + 1))
    assert found[0].begin == 0 and found[-1].end == len(text.rstrip())
    for chunk in found:
        assert 0 < chunk.end - chunk.begin <= size
        assert text[chunk.begin : chunk.end] == text[chunk.begin : chunk.end].strip()
    for one, other in itertools.pairwise(found):
        assert one.begin < other.begin and one.end < other.end
        assert not text[one.end : other.begin].strip()  # nothing is lost
        assert one.end - other.begin <= overlap


def test_chunks_end_with_paragraphs_and_else_with_sentences() -> None:
    ends = [ENGLISH[c.begin : c.end] for c in chunks(ENGLISH, 500, 0)]
    assert all(piece.endswith("Sentence 5 of paragraph " + piece[-10] + " is here.") for piece in ends)
    one = ENGLISH.replace("\n\n", " ")
    assert all(one[c.begin : c.end].endswith("here.") for c in chunks(one, 333, 0))
    flat = CHINESE.replace("\n\n", "")
    assert all(flat[c.begin : c.end].endswith("。") for c in chunks(flat, 77, 0))
    assert all(flat[c.begin] == "第" for c in chunks(flat, 77, 20))
    quoted = "他说：“今天很冷。”" * 30
    assert all(quoted[c.begin : c.end].endswith("。”") for c in chunks(quoted, 50, 0))


def test_words_are_not_torn_and_a_heading_stays_with_its_text() -> None:
    assert {piece for c in chunks("word " * 90, 52, 9) for piece in ("word " * 90)[c.begin : c.end].split()} == {"word"}
    text = "A first paragraph of some words.\n\nA second one.\n\n## Food\n\nA third paragraph that is longer than this."
    assert [text[c.begin : c.end][-13:] for c in chunks(text, 60, 0)] == ["A second one.", "er than this."]


def test_nothing_gives_no_chunk() -> None:
    assert list(chunks("", 100, 10)) == list(chunks(" \n ", 100, 10)) == []


# -- formats ------------------------------------------------------------------------------------------------------


def test_markdown_keeps_its_text_and_knows_its_headings() -> None:
    document = documents.read(MARKDOWN.encode(), "markdown")
    assert document.title == "The hive"
    assert document.text.startswith("# Keeping bees\n\nA hive") and "author" not in document.text
    assert [name for _, name in document.headings] == [
        "Keeping bees",
        "Keeping bees > Food",
        "Keeping bees > Food > In winter",
        "Keeping bees > Water",
    ]
    assert [document.text[place:].split("\n")[0] for place, _ in document.headings] == [
        "# Keeping bees",
        "## Food",
        "### In winter",
        "Water",
    ]
    assert documents.read(b"Text\n\n# One\n\n# Two", "markdown").title == "One"
    assert documents.read("# 养蜂\n\n蜂箱要干燥。".encode(), "markdown").title == "养蜂"


@pytest.mark.parametrize(
    ("charset", "title", "first", "heading", "second"),
    [
        ("utf-8", "Keeping bees", "A hive needs a dry stand, away from wind.", "Food", "A colony eats fifteen kilos."),
        ("gb18030", "养蜂入门", "蜂箱要放在干燥的地方，早上能晒到太阳。", "食物", "一个蜂群过冬大约吃十五公斤蜂蜜。"),
    ],
)
def test_html_gives_its_main_text_without_menus(
    charset: str, title: str, first: str, heading: str, second: str
) -> None:
    page = HTML.format(charset=charset, title=title, first=first, heading=heading, second=second)
    document = documents.read(page.encode(charset), "html")
    assert document.title == title
    assert document.text == f"# {title}\n\n{first}\n\n## {heading}\n\n{second}"
    assert [name for _, name in document.headings] == [title, f"{title} > {heading}"]


def test_pdf_gives_its_pages_with_the_lines_joined() -> None:
    data = pdf(
        "A hive needs\na dry stand. It faces the morn-\ning sun.\nA new line.", "蜂箱要放在\n干燥的地方。", title="蜂"
    )
    document = documents.read(data, "pdf")
    assert document.title == "蜂"
    one, two = document.text.split("\n\n")
    assert one == "A hive needs a dry stand. It faces the morning sun.\nA new line."
    assert two == "蜂箱要放在干燥的地方。"
    assert document.pages == (0, len(one) + 2)


def test_chunks_of_a_file_say_where_they_stand(tmp_path: Path) -> None:
    path = put(tmp_path, "hive.md", MARKDOWN)
    text = documents.read(MARKDOWN.encode(), "markdown").text
    found = samples(path, chunk_chars=100, overlap_chars=0)
    assert len(found) > 1
    for number, sample in enumerate(found, 1):
        begin, end = map(int, sample.tags["span"].split("-"))
        assert sample.instruction == text[begin:end] and not sample.answer
        assert sample.tags["chunk"] == str(number) and sample.tags["title"] == "The hive"
    assert found[0].tags["heading"] == "Keeping bees"
    assert len({sample.tags["document"] for sample in found}) == 1
    assert samples(put(tmp_path, "feng.md", "# 养蜂\n\n蜂箱要干燥。"))[0].tags["language"] == "zh"
    [page] = samples(put(tmp_path, "x.pdf", pdf("一页。", "两页。")))
    assert page.tags["page"] == "1-2"
    assert [s.tags["page"] for s in samples(tmp_path / "x.pdf", chunk_chars=5)] == ["1", "2"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json.gz", "rows.csv"])
def test_a_table_is_no_document(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"text": "The tide mill grinds at low water."}\n')
    with pytest.raises(JobError, match="by its name, which has rows, must be one text under format"):
        samples(tmp_path / name, format="document")


def test_a_whole_text_file_is_one_document_where_that_is_asked_for(tmp_path: Path) -> None:
    path = put(tmp_path, "x.txt", "One line.\nAnother line.\n")
    assert [s.instruction for s in samples(path)] == ["One line.", "Another line."]
    assert "chunk" not in samples(path)[0].tags
    [whole] = samples(path, format="document")
    assert whole.instruction == "One line.\nAnother line."
    assert whole.tags["span"] == "0-23"
    assert place_of(Source(path=(str(path),))) != place_of(Source(path=(str(path),), format="document"))


def test_rows_are_cut_only_where_that_is_asked_for(tmp_path: Path) -> None:
    row = json.dumps({"text": ENGLISH, "tags": {"topic": "a"}})
    path = put(tmp_path, "x.jsonl", f'{row}\n{{"text": 7}}\n')
    assert [len(s.instruction) for s in samples(path, on_bad_row="drop")] == [len(ENGLISH), 11]
    cut = samples(path, chunk_chars=600, on_bad_row="drop")
    assert len(cut) > 3 and all(s.tags["topic"] == "a" for s in cut[:-1])
    assert cut[-1].dropped == "ingest: line 2: field 'text' is the number 7, must be text"
    labels = put(tmp_path, "y.csv", f"text,label\n{'long ' * 200},x\n")
    assert len(samples(labels, chunk_chars=100)) == 1, "a text with a label is no document"


def test_a_folder_of_all_kinds_is_one_source_that_does_not_depend_on_names(tmp_path: Path, store: Store) -> None:
    files = {
        "a.md": MARKDOWN.encode(),
        "b.html": HTML.format(
            charset="utf-8", title="T", first="A text of words.", heading="H", second="More."
        ).encode(),
        "c.pdf": pdf("A page of the third file."),
        "d.txt": b"Plain text.\n\nOf two paragraphs.",
    }
    for folder in ("one", "two/deeper"):
        (tmp_path / folder).mkdir(parents=True)
    for number, (name, data) in enumerate(files.items()):
        put(tmp_path / "one", name, data)
        put(tmp_path / "two/deeper", f"{number}{Path(name).suffix}", data)
    one, two = (Source(path=(f"{tmp_path}/{p}",), format="document") for p in ("one/*", "two/**/*"))
    assert place_of(one) == place_of(two)
    rows = check_dataset(store, ingest(store, one))
    assert [row.instruction.split()[-1] for row in rows] == ["stones.", "More.", "file.", "paragraphs."]
    assert len({row.tags["document"] for row in rows}) == 4
    digests = set(re.findall(r"[0-9a-f]{32}", store.manifest(ingest(store, one)).metadata["files"]))
    assert {row.tags["document"] for row in rows} == {digest[:12] for digest in digests}


# -- bad files and pages ------------------------------------------------------------------------------------------

BAD = {
    "half.pdf": (pdf("text")[:300], "is no PDF that can be read"),
    "no.pdf": (b"not a PDF at all", "is no PDF that can be read"),
    "blank.pdf": (pdf(""), "holds no text, must hold some"),
    "blank.md": (b" \n\n", "holds no text, must hold some"),
    "empty.md": (b"", "holds no text, must hold some"),
    "empty.html": (b"<html><body></body></html>", "holds no text, must hold some"),
    "latin.md": ("café".encode("latin-1"), "byte 3 is not UTF-8, must be UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_an_error_or_a_dropped_row(name: str, tmp_path: Path, store: Store) -> None:
    data, problem = BAD[name]
    put(tmp_path, name, data)
    put(tmp_path, "good.md", MARKDOWN)
    with pytest.raises(JobError, match=rf"{name}:document: {problem}"):
        samples(tmp_path / name)
    source = Source(path=(str(tmp_path / "*"),), on_bad_row="drop")
    rows = check_dataset(store, ingest(store, source))
    dropped = [row.dropped for row in rows if row.dropped]
    assert len(dropped) == 1 and dropped[0].startswith("ingest: document of file ") and problem in dropped[0]
    assert [row for row in rows if not row.dropped]


def test_a_bad_page_is_an_error_or_a_dropped_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pypdf

    whole = pypdf.PageObject.extract_text

    def extract(page: pypdf.PageObject) -> str:
        text = whole(page)
        if "worm" in text:
            raise KeyError("/Font")
        return text

    monkeypatch.setattr(pypdf.PageObject, "extract_text", extract)
    path = put(tmp_path, "x.pdf", pdf("A first page.", "A worm.", "A third page."))
    with pytest.raises(JobError, match=r"x\.pdf:page 2: cannot be read \('/Font'\)"):
        samples(path)
    bad, good = samples(path, on_bad_row="drop")
    assert bad.dropped == "ingest: page 2: cannot be read ('/Font'), must be text; repair it"
    assert good.instruction == "A first page.\n\nA third page." and good.tags["page"] == "1-3"


def test_a_locked_pdf_is_refused(tmp_path: Path) -> None:
    import io

    import pypdf

    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf("secret")))
    writer.encrypt("word", algorithm="RC4-128")
    locked = io.BytesIO()
    writer.write(locked)
    with pytest.raises(JobError, match=r"x\.pdf:document: is encrypted, must be readable"):
        samples(put(tmp_path, "x.pdf", locked.getvalue()))


@pytest.mark.parametrize(("name", "library"), [("x.pdf", "pypdf"), ("x.html", "trafilatura")])
def test_an_absent_library_is_named_with_its_extra(
    name: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = builtins.__import__

    def absent(module: str, *rest: Any) -> Any:
        if module == library:
            raise ImportError(module)
        return whole(module, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(JobError, match=rf"needs {library}.*install gristmill\[documents\]"):
        samples(put(tmp_path, name, "<p>text</p>"), on_bad_row="drop")


def test_a_document_has_no_other_shape(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"is markdown, its shape must be document and not label"):
        samples(put(tmp_path, "x.md", "text"), shape="label")
