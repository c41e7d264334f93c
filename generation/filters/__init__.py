"""The filters, one file each; this union is the whole registry."""

from typing import Annotated

from pydantic import Field

from generation.filters.blocklist import Blocklist
from generation.filters.discriminator import Discriminator
from generation.filters.faithfulness import Faithfulness
from generation.filters.format import Format
from generation.filters.ifd import Ifd
from generation.filters.instag import Instag
from generation.filters.judge import Judge
from generation.filters.language import Language
from generation.filters.length import Length
from generation.filters.novelty import Novelty
from generation.filters.pairwise import Pairwise
from generation.filters.personal_data import PersonalData
from generation.filters.refusal import Refusal
from generation.filters.repetition import Repetition
from generation.filters.reward import Reward
from generation.filters.secrets import Secrets
from generation.filters.self_consistency import SelfConsistency
from generation.filters.toxicity import Toxicity

AnyFilter = Annotated[
    Blocklist
    | Discriminator
    | Faithfulness
    | Format
    | Ifd
    | Instag
    | Judge
    | Language
    | Length
    | Novelty
    | Pairwise
    | PersonalData
    | Refusal
    | Repetition
    | Reward
    | Secrets
    | SelfConsistency
    | Toxicity,
    Field(discriminator="kind"),
]
