"""Frames: the text that a method's template puts around each of its instructions.

Frames are not compared. With a frame of a question and five labels around texts of ten words, any two instructions
would be similar.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import overload

from gristmill.cluster.contract.sample import Sample
from gristmill.generation.contracts import Method

Frames = tuple[tuple[str, str], ...]
"""Pairs of a beginning and an end, the longest first."""


def frames_of(methods: Iterable[Method]) -> Frames:
    """Return the different frames of all methods, the longest first."""
    found = {frame for method in methods for frame in method.frames() if any(frame)}
    return tuple(sorted(found, key=lambda frame: (-len("".join(frame)), frame)))


class Unframed(Sequence[Sample]):
    """Samples without frames; a frame is removed when its sample is read."""

    def __init__(self, samples: Sequence[Sample], frames: Frames) -> None:
        """Take samples that may be stored elsewhere."""
        self._samples, self._frames = samples, frames

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, place: int) -> Sample: ...
    @overload
    def __getitem__(self, place: slice) -> list[Sample]: ...
    def __getitem__(self, place: int | slice) -> Sample | list[Sample]:
        """Return one sample, or the samples of a slice."""
        if isinstance(place, slice):
            return [unframed(sample, self._frames) for sample in self._samples[place]]
        return unframed(self._samples[place], self._frames)


def unframed(sample: Sample, frames: Frames) -> Sample:
    """Return the sample without the longest frame that fits its instruction, or the sample itself."""
    text = sample.instruction
    for begin, end in frames:
        if len(text) > len(begin) + len(end) and text.startswith(begin) and text.endswith(end):
            place = next(place for place, turn in enumerate(sample.messages) if turn.role == "user")
            new = sample.messages[place]._replace(content=text[len(begin) : len(text) - len(end)])
            return replace(sample, messages=(*sample.messages[:place], new, *sample.messages[place + 1 :]))
    return sample
