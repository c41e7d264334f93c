"""The selectors by kind. This union is the whole registry: add a file, add its class here."""

from typing import Annotated

from pydantic import Field

from selection.selectors.exact import Exact
from selection.selectors.k_center import KCenter
from selection.selectors.random_ import RandomChoice
from selection.selectors.semantic import Semantic
from selection.selectors.top_score import TopScore

AnySelector = Annotated[Exact | Semantic | KCenter | TopScore | RandomChoice, Field(discriminator="kind")]
