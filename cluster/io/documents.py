"""Documents: the text of Markdown, HTML, PDF and plain text files, and its overlapping chunks.

This is the only file that imports pypdf and trafilatura. It imports both inside functions.
"""

import io
import itertools
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.text.scripts import UNSPACED, WIDE_SIGNS

CHUNK_CHARS = 4000
"""Most characters of a chunk by default. This is the default of synthetic-data-kit, about 1,000 English tokens."""
PDF_HEAD = b"%PDF"
SHORTEST_PAGE = 20
"""Fewest characters of a page's main text; a shorter one counts as not found. The library's default of 250 would lose
Chinese pages."""

_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE = re.compile(r"[.!?][\"'”’)\]]*\s+|[。！？!?…；][”’」』）》]*\s*|\n\s*")
_WORD = re.compile(r"\s+|[，、：,;:]\s*")
_HEADING = re.compile(r"(?:^|\n)[ \t]{0,3}#{1,6}[ \t][^\n]*$")
_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"(?m)^title:[ \t]*(.+?)[ \t]*$")
_HYPHEN = re.compile(r"(?<=[a-zà-ÿ])-\n(?=[a-zà-ÿ])")
_WRAPPED = re.compile(r"(?<![.!?:。！？：；\n])\n(?!\n|[-*•·]\s|\d+[.)、]\s)")
_UNSPACED = re.compile(f"[{UNSPACED}{WIDE_SIGNS}]")


class DocumentError(Exception):
    """The error for a file or page that is not a document. Its message reads `is …, must be …`."""


@dataclass(frozen=True, slots=True)
class Document:
    """The text of one file, with its headings and pages."""

    text: str
    title: str = ""
    headings: tuple[tuple[int, str], ...] = ()
    """Character offset of each heading, and the headings above it with itself last, such as `"Bees > Food"`."""
    pages: tuple[int, ...] = ()
    """Character offset of each page, for formats that have pages."""
    problems: tuple[tuple[int, str], ...] = ()
    """Pages that could not be read, each as (number from 1, problem)."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a text."""

    number: int
    """Number of the chunk, from 1."""
    begin: int
    end: int
    """`begin` and `end` are character offsets, so that the chunk is `text[begin:end]`."""


def chunks(text: str, chunk_chars: int, overlap_chars: int) -> Iterator[Chunk]:
    """Yield the chunks of a text in order.

    No chunk is longer than `chunk_chars` characters. No chunk begins or ends with white space.

    A chunk ends after the last paragraph of its second half; else after the last sentence; else after the last word;
    else at its limit. The next chunk begins up to `overlap_chars` earlier, at the first paragraph, sentence or word
    there, and never before the middle of the chunk before it.
    """
    begin, number = _skip(text, 0), 0
    while begin < len(text):
        end = len(text) if len(text) - begin <= chunk_chars else _end(text, begin, begin + chunk_chars)
        number += 1
        yield Chunk(number, begin, begin + len(text[begin:end].rstrip()))
        if not text[end:].strip():
            return
        begin = _skip(text, _next(text, max(end - overlap_chars, (begin + end + 1) // 2), end))


def tags_at(document: Document, chunk: Chunk) -> dict[str, str]:
    """Return the tags of a chunk: number, span, title, heading and pages."""
    tags = {"chunk": str(chunk.number), "span": f"{chunk.begin}-{chunk.end}"}
    if document.title:
        tags["title"] = document.title
    above = bisect_right([place for place, _ in document.headings], chunk.begin)
    if above:
        tags["heading"] = document.headings[above - 1][1]
    if document.pages:
        first, last = (bisect_right(document.pages, place) for place in (chunk.begin, chunk.end - 1))
        tags["page"] = str(first) if first == last else f"{first}-{last}"
    return tags


def read(data: bytes, format_name: str) -> Document:
    """Return the document that the bytes of a file hold.

    Raises:
        DocumentError: if the bytes do not have the format, or hold no text.
        JobError: if the library that reads the format is not installed.
    """
    readers = {"markdown": _markdown, "html": _html, "pdf": _pdf, "document": _plain}
    document = readers[format_name](data)
    if not document.text.strip() and not document.problems:
        raise DocumentError("holds no text, must hold some; a scanned page needs character recognition first")
    return document


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _end(text: str, begin: int, limit: int) -> int:
    """Return the best place in the second half of `text[begin:limit]` to end a chunk."""
    window = text[begin : limit + 1]  # one more, for the blank that follows a sentence
    for pattern in (_PARAGRAPH, _SENTENCE, _WORD):
        ends = [found.end() for found in pattern.finditer(window) if 2 * found.start() >= limit - begin]
        for end in reversed(ends):
            if end <= limit - begin and not _HEADING.search(window[:end].rstrip()):
                return begin + end
    return limit


def _next(text: str, begin: int, end: int) -> int:
    """Return the first place in `text[begin:end]` where a chunk may begin, or `end` if there is none."""
    for pattern in (_PARAGRAPH, _SENTENCE, _WORD):
        found = pattern.search(text, begin, end)
        if found and found.end() < end:
            return found.end()
    return end


def _plain(data: bytes) -> Document:
    try:
        return Document(data.decode("utf-8-sig").replace("\r\n", "\n"))
    except UnicodeDecodeError as error:
        raise DocumentError(f"byte {error.start} is not UTF-8, must be UTF-8; convert it") from error


def _markdown(data: bytes) -> Document:
    text, title = _plain(data).text, ""
    front = _FRONT.match(text)
    if front:
        named = _FRONT_TITLE.search(front[1])
        text, title = text[front.end() :].lstrip("\n"), named[1].strip("\"'") if named else ""
    return _structured(text, title)


def _structured(text: str, title: str) -> Document:
    """Return a Markdown text as a document with its headings.

    If `title` is empty, the first heading of level 1 is the title.
    """
    from markdown_it import MarkdownIt

    tokens = MarkdownIt().parse(text)
    starts = [0, *(found.end() for found in re.finditer("\n", text))]
    headings: list[tuple[int, str]] = []
    above: list[tuple[int, str]] = []
    for token, inline in itertools.pairwise(tokens):
        if token.type != "heading_open" or token.map is None:
            continue
        level = int(token.tag[1:])
        words = "".join(part.content for part in inline.children or () if part.type in ("text", "code_inline"))
        above = [known for known in above if known[0] < level] + [(level, words.strip())]
        title = title or (words.strip() if level == 1 else "")
        headings.append((starts[token.map[0]], " > ".join(name for _, name in above)))
    return Document(text, title, tuple(headings))


def _html(data: bytes) -> Document:
    """Return the main text of a page as Markdown, without menus and footers.

    If no main part is found, return all text of the page.
    """
    trafilatura = _trafilatura()
    config = trafilatura.settings.use_config()
    config.set("DEFAULT", "MIN_EXTRACTED_SIZE", str(SHORTEST_PAGE))
    settings = {"include_comments": False, "include_formatting": True, "include_tables": True, "favor_recall": True}
    text = trafilatura.extract(data, output_format="markdown", config=config, **settings)
    text = text or trafilatura.html2txt(data) or ""
    metadata = trafilatura.extract_metadata(data) if text else None
    return _structured(text.replace("\r\n", "\n"), str(metadata.title or "") if metadata else "")


def _pdf(data: bytes) -> Document:
    """Return the text of all pages that can be read, with wrapped lines joined."""
    pypdf, broken = _pypdf()
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise DocumentError("is encrypted, must be readable without a password; decrypt it")
        count = len(reader.pages)
        title = _title(reader.metadata)
    except broken as error:
        raise DocumentError(f"is no PDF that can be read ({_said(error)}), must be one; repair it") from error
    parts: list[str] = []
    pages: list[int] = []
    problems: list[tuple[int, str]] = []
    size = 0
    for number in range(count):
        try:
            part = _unwrapped(reader.pages[number].extract_text())
        except broken as error:
            part = ""
            problems.append((number + 1, f"cannot be read ({_said(error)}), must be text; repair it"))
        pages.append(size)
        parts.append(part)
        size += len(part) + 2 if part else 0
    return Document("\n\n".join(part for part in parts if part), title, (), tuple(pages), tuple(problems))


def _title(metadata: Mapping[str, Any] | None) -> str:
    title = metadata.get("/Title") if metadata else None
    return str(title).strip() if title else ""


def _unwrapped(text: str) -> str:
    """Join each line of a page to the next one if it does not end a sentence.

    A space goes between them, except between characters of scripts without spaces.
    """
    lines = _HYPHEN.sub("", "\n".join(line.strip() for line in text.splitlines()))

    def join(found: re.Match[str]) -> str:
        around = lines[max(0, found.start() - 1) : found.start()], lines[found.end() : found.end() + 1]
        return "" if all(_UNSPACED.match(side) for side in around) else " "

    return re.sub(r"\n{3,}", "\n\n", _WRAPPED.sub(join, lines)).strip()


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]


def _pypdf() -> tuple[Any, tuple[type[Exception], ...]]:
    """Return the library, and the errors that it raises for a broken file, such as failed lookups."""
    try:
        import pypdf
    except ImportError as error:
        raise _absent("PDF", "pypdf") from error
    lookups: Sequence[type[Exception]] = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
    return pypdf, (pypdf.errors.PyPdfError, *lookups, AssertionError, NotImplementedError, RecursionError, OSError)


def _trafilatura() -> Any:  # noqa: ANN401 - a module
    try:
        import trafilatura
    except ImportError as error:
        raise _absent("HTML", "trafilatura") from error
    return trafilatura


def _absent(format_name: str, library: str) -> JobError:
    return JobError(f"{format_name} needs {library}, which is not installed; install gristmill[documents]")
