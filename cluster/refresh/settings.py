"""The settings of `[refresh]`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from gristmill.cluster.contract.settings import Settings
from gristmill.cluster.io.ingest import Source


class RefreshSettings(Settings):
    """`[refresh]`: when a round of the line begins, and what its model is trained on. `gristmill refresh` reads it.

    A line is the recipe's name. Each round runs the other sections of the recipe once: the champion writes the new
    rows, a challenger is trained from the champion, and the gate of `[evaluate]` decides between the two.
    """

    every_days: float = Field(default=7.0, ge=0)
    """Days between two rounds. Time is cut into slots of this length, counted from 1970-01-01 in UTC. At most one round
    begins in each slot. With 0, a round may begin at any time."""
    min_new: dict[str, int] = Field(default_factory=dict)
    """Least number of new rows that an input must have since the last round, by the key of the input, such as
    `{"generate.input" = 50, "generate.documents" = 20}`. A round begins when one of them has enough. Without this
    table, the time alone decides. `gristmill refresh --alarm REASON` begins a round without new rows."""
    writer: Literal["champion", "recipe"] = "champion"
    """The model that writes the rows of `[generate]`: the champion of the line, or the model that the recipe names,
    such as a larger one at an endpoint."""
    people: Source | None = None
    """Rows that people wrote, which are trained on in every round. By default they are the recipe's seeds that have an
    answer."""
    max_synthetic: float = Field(default=0.95, gt=0, le=1)
    """Largest share of an epoch of the training that may come from rows that models wrote. If there are too few rows of
    people, they are repeated. More than four times is of little use (Muennighoff et al. 2023, arXiv:2305.16264). With
    1, rows of people are trained on without a smallest share."""
    max_depth: int = Field(default=4, ge=1)
    """Largest depth of a row. A row that the base model wrote has the depth 1. A row that a trained model wrote has the
    depth of the rows that the model was trained on, plus 1. When the champion would write deeper rows, the newest model
    before it that would not writes instead. The more often models are trained on their own rows, the more they lose of
    the tails of the data (Shumailov et al. 2024, Nature 631)."""
    replay: float = Field(default=0.2, ge=0, lt=1)
    """Share of an epoch of the training that comes from the rows of earlier rounds; from the second round on."""
    replay_rows: int = Field(default=20_000, gt=0)
    """Most rows of earlier rounds from which the replay is drawn. A hash of their ids decides which."""
    canary: int = Field(default=0, ge=0)
    """Number of first rows of a round that are compared with those of earlier rounds, such as 500; 0 for none. If a new
    champion writes rows whose acceptance, length, diversity or scores are outside of their control limits, it is rolled
    back before anything is trained on its rows. It takes three earlier rounds with the same section `[generate]`."""
    steer: str = ""
    """Name of a suite of `[evaluate]`. The labels of `targeted` methods in which the champion fails in this suite get
    more rows. The suite must not decide (`evaluate.gate.suites`), because rows that follow its failures are made for
    its items. Without a name, the quotas of the recipe stay."""
    steer_floor: float = Field(default=0.5, ge=0, le=1)
    """Share of the rows that all labels get alike; the rest follows the failures."""
    mlflow: str = ""
    """Address of a registry of MLflow, such as `http://host:5000` or `sqlite:////folder/mlflow.db`. It gets a version
    for each challenger and the aliases `champion`, `previous` and `challenger`, under the name of the line. The records
    of the line stay what counts. Credentials are read from MLflow's own environment variables."""
    anchor: bool = True
    """Whether the challenger must also not be worse than the base model by `evaluate.gate.anchor_margin`, in each suite
    in which it may be worse than the champion. So many small losses cannot add up. From the first promotion on, the
    base model is asked the suites too."""

    @model_validator(mode="after")
    def _leaves_room(self) -> Self:
        if self.replay >= self.max_synthetic:
            raise ValueError(
                f"replay is {self.replay:g}, must be below max_synthetic ({self.max_synthetic:g}), because the rows of "
                "earlier rounds are of models"
            )
        return self
