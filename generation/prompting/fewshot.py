"""Prompts whose answer is begun: what the user says, and how the assistant's turn starts, in one template.

A template has two parts with a line `---` between them. The part before it is the user's turn; the part after it is
how the assistant's turn begins, usually a list of solved cases that ends where the next is to be written. Small models
continue such a list far better than they follow a rubric. Without the line all of the template is the user's turn.
"""

from gristmill.cluster.contract.sample import Message
from gristmill.generation.prompting.template import fill

MARK = "\n---\n"


def begin_answer(template: str, **values: object) -> tuple[tuple[Message, ...], str]:
    """Return the user's turn of a template and the prefix of the assistant's, both filled in."""
    asked, _, start = template.partition(MARK)
    return (Message("user", fill(asked.strip(), **values)),), fill(start, **values)


def flat(text: str) -> str:
    """Return a text without blank lines, which end a case of such a list."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())
