"""Frames: what the template of a method puts around each of its instructions, which is not compared.

It says nothing new, but five labels with a question around a text of ten words make any two such instructions alike.
"""

from collections.abc import Iterable
from dataclasses import replace

from gristmill.cluster.contract.sample import Sample
from gristmill.generation.contracts import Method

Frames = tuple[tuple[str, str], ...]
"""Beginnings and ends, the longest first."""


def frames_of(methods: Iterable[Method]) -> Frames:
    """Return the frames of all methods, each once."""
    found = {frame for method in methods for frame in method.frames() if any(frame)}
    return tuple(sorted(found, key=lambda frame: (-len("".join(frame)), frame)))


def unframed(sample: Sample, frames: Frames) -> Sample:
    """Return the sample with the longest frame that fits taken off its instruction, or the sample itself."""
    text = sample.instruction
    for begin, end in frames:
        if len(text) > len(begin) + len(end) and text.startswith(begin) and text.endswith(end):
            place = next(place for place, turn in enumerate(sample.messages) if turn.role == "user")
            new = sample.messages[place]._replace(content=text[len(begin) : len(text) - len(end)])
            return replace(sample, messages=(*sample.messages[:place], new, *sample.messages[place + 1 :]))
    return sample
