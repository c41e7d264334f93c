"""The filters, one file each; this union is the whole registry."""

from typing import Annotated

from pydantic import Field

from generation.filters.judge import Judge
from generation.filters.language import Language
from generation.filters.length import Length
from generation.filters.novelty import Novelty
from generation.filters.refusal import Refusal
from generation.filters.repetition import Repetition

AnyFilter = Annotated[Length | Language | Repetition | Refusal | Novelty | Judge, Field(discriminator="kind")]
