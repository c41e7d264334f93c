"""The parts of a text: the request, pasted text, and code. The rules are for English and Chinese.

People write `Summarise this article.` and paste the article below it. Limits on the length and the language of an
instruction concern the request only.
"""

import re
from functools import lru_cache

from gristmill.cluster.text.words import num_words, tokens

SHORT_REQUEST = 40
"""Most words of a first paragraph that is always the request, whatever comes after it."""
_PARAGRAPHS = re.compile(r"\n\s*\n|(?<=[:：])[^\S\n]*\n")
_FENCE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
_CODE = re.compile(
    r"""^\s*(?:
      (?:async\s+)?(?:def|class|function|func|fn|struct|interface)\s+\w+\s*[\w<({:]*
    | (?:import|package|using|namespace|require)\s+[\w.{*'"<]+;?\s*$
    | from\s+[\w.]+\s+import\b
    | (?:if|elif|else|for|while|try|except|switch|case|with|catch)\b.*[:{]\s*$
    | (?:return|yield|raise|throw|const|let|var|public|private|static|void|int|print|echo)\b[\s(].*
    | (?:SELECT|INSERT|UPDATE|DELETE|CREATE|FROM|WHERE|JOIN|INNER|LEFT|GROUP|ORDER|HAVING|WITH|ALTER|DROP|VALUES|AND)\s
    | [@#$%&<>{}()\[\]|/*\\^=+~]
    | [\w.\[\]'"]+\s*[-+*/|&]?=[^=]
    | [\w.]+\(.*\)\s*[;:{]?\s*$
    )|[;{}]\s*$""",
    re.VERBOSE,
)
"""Matches a line of code. It looks only at this line."""


@lru_cache(8192)
def request(text: str) -> str:
    """Return the paragraph with the request: the first, or the last if the first is long and the last is shorter.

    Long means more than `SHORT_REQUEST` words.

    A paragraph ends at an empty line, or at a line that ends with a colon. A text of one paragraph is all request.
    """
    found = [part.strip() for part in _PARAGRAPHS.split(text) if part.strip()]
    if len(found) < 2:
        return text.strip()
    first, last = num_words(found[0]), num_words(found[-1])
    return found[-1] if last < first > SHORT_REQUEST else found[0]


@lru_cache(8192)
def prose(text: str) -> str:
    """Return the lines of a text that are in a natural language, without code, formulas and lists of numbers."""
    lines = _FENCE.sub(" ", text).splitlines()
    return "\n".join(line for line in lines if not _CODE.search(line) and _worded(line))


def _worded(line: str) -> bool:
    """Say whether at least half of the pieces of a line are words, and not code, formulas or numbers."""
    found = tokens(line)
    words = sum(1 for token in found if not token.isascii() or (len(token) > 1 and token.isalpha()))
    return bool(found) and words * 2 >= len(found)
