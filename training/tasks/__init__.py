"""The tasks that a model is trained for, one file each. `AnyTask` is their registry."""

from typing import Annotated

from pydantic import Field

from gristmill.training.tasks.causal_lm import CausalLm
from gristmill.training.tasks.question_answering import QuestionAnswering
from gristmill.training.tasks.sequence_classification import SequenceClassification
from gristmill.training.tasks.token_classification import TokenClassification

AnyTask = Annotated[
    CausalLm | SequenceClassification | TokenClassification | QuestionAnswering, Field(discriminator="kind")
]
