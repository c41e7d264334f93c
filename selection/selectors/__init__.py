"""The selectors by kind. This union is the whole registry: add a file, add its class here."""

from typing import Annotated

from pydantic import Field

from selection.selectors.against import Against
from selection.selectors.balance import Balance
from selection.selectors.complexity import Complexity
from selection.selectors.decontaminate import Decontaminate
from selection.selectors.diversity import Diversity
from selection.selectors.exact import Exact
from selection.selectors.longest import Longest
from selection.selectors.minhash import MinHash
from selection.selectors.private import Private
from selection.selectors.quality import Quality
from selection.selectors.random_ import RandomChoice
from selection.selectors.relevance import Relevance
from selection.selectors.semantic import Semantic
from selection.selectors.substring import Substring

AnySelector = Annotated[
    Exact
    | MinHash
    | Substring
    | Semantic
    | Against
    | Decontaminate
    | Quality
    | Complexity
    | Diversity
    | Relevance
    | Balance
    | Private
    | RandomChoice
    | Longest,
    Field(discriminator="kind"),
]
