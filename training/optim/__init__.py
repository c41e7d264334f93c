"""The optimizers, one file each, of which this union is the whole registry; and schedules of rate and data."""

from typing import Annotated

from pydantic import Field

from gristmill.training.optim.adafactor import Adafactor
from gristmill.training.optim.adamw import AdamW
from gristmill.training.optim.muon import Muon
from gristmill.training.optim.sgd import Sgd

AnyOptimizer = Annotated[AdamW | Sgd | Adafactor | Muon, Field(discriminator="kind")]
