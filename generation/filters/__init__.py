"""The filters, one file each. The union `Known` is their registry."""

from typing import Annotated

from pydantic import Field

from gristmill.cluster.contract.own import OwnSteps
from gristmill.generation.contracts import Filter, HistoryFilter
from gristmill.generation.filters.answer_kind import AnswerKind
from gristmill.generation.filters.blocklist import Blocklist
from gristmill.generation.filters.discriminator import Discriminator
from gristmill.generation.filters.faithfulness import Faithfulness
from gristmill.generation.filters.format import Format
from gristmill.generation.filters.ifd import Ifd
from gristmill.generation.filters.instag import Instag
from gristmill.generation.filters.judge.filter import Judge
from gristmill.generation.filters.language import Language
from gristmill.generation.filters.length import Length
from gristmill.generation.filters.novelty import Novelty
from gristmill.generation.filters.on_topic.filter import OnTopic
from gristmill.generation.filters.pairwise import Pairwise
from gristmill.generation.filters.personal_data import PersonalData
from gristmill.generation.filters.refusal import Refusal
from gristmill.generation.filters.repetition import Repetition
from gristmill.generation.filters.reward import Reward
from gristmill.generation.filters.secrets import Secrets
from gristmill.generation.filters.seed_label import SeedLabel
from gristmill.generation.filters.self_consistency import SelfConsistency
from gristmill.generation.filters.standalone import Standalone
from gristmill.generation.filters.toxicity import Toxicity

Known = Annotated[
    AnswerKind
    | Blocklist
    | Discriminator
    | Faithfulness
    | Format
    | Ifd
    | Instag
    | Judge
    | Language
    | Length
    | Novelty
    | OnTopic
    | Pairwise
    | PersonalData
    | Refusal
    | Repetition
    | Reward
    | Secrets
    | SeedLabel
    | SelfConsistency
    | Standalone
    | Toxicity,
    Field(discriminator="kind"),
]
AnyFilter = Annotated[Known, OwnSteps(lambda: (Filter, HistoryFilter))]
"""One of the built-in filters, or a class in a user's own file: `kind = "steps.py:FollowUp"`."""
