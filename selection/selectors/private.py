"""Private: private samples vote for the samples that stay, and noise on the counts protects each private sample."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io.ingest import Source
from gristmill.selection.contracts import Budget, Choice, Cost, Selector, View, budget_rows
from gristmill.selection.data.matrix import Float64
from gristmill.selection.diversity.representation import FLOP_PER_S
from gristmill.selection.relevance.vote import epsilon_of, gaussian, sigma_of, votes

PRIVATE = "private"
KEY_BYTES = 16
TYPICAL = 10_000
"""Number of private samples that the estimate of the cost assumes, because the real number is private."""
REASONS = ("private: beyond the budget", "private: too few votes")


class Private(Selector):
    """Keep the samples nearest to private samples. The choice reveals hardly anything about any single private sample.

    Every private sample votes for the samples nearest to it. The votes for each sample are counted, and Gaussian noise
    is added to every count. The noisy counts become the score `private_votes`. Everything that is computed only from
    the noisy counts is as private as the counts. The guarantee is (epsilon, delta)-differential privacy for one private
    sample more or less. The analytic accountant of the Gaussian mechanism (Balle & Wang 2018, arXiv:1805.06530)
    computes it over all `rounds`.

    The guarantee needs secret noise, see `key`. It does not cover: samples that were made from private samples without
    protection; several private samples of one person (with m samples it is m times weaker, and more); the private
    samples themselves, their vectors and the figures of their embedding, which all stay in the store; any other use of
    the private samples.

    Source: Lin et al. 2023, Private Evolution, arXiv:2305.15560, section 4, algorithm 2 (nearest neighbour histogram,
    noise, threshold); Xie et al. 2024, Aug-PE, arXiv:2403.01749, section 3 (on texts, the highest counts stay).
    Departures: there is one choice among samples that exist, and no loop that varies samples. Sampling is without
    replacement. If a private sample has several votes, each weighs 1/sqrt(votes), so that the sensitivity stays 1. The
    noise consists of floating point numbers, not of the discrete Gaussian, and the counts are released as float32.
    """

    kind: Literal["private"] = "private"
    example: ClassVar[Mapping[str, Any]] = {
        "private_data": "private.jsonl",
        "budget": 100,
        "epsilon": 8.0,
        "delta": 1e-6,
    }
    needs_vectors: ClassVar[bool] = True

    private_data: Source
    """The private samples: a path, or a table with path and format as for the input."""
    budget: Budget
    """Most samples that stay: a whole number, or a share of the samples that come in."""
    delta: float = Field(gt=0, lt=1)
    """Probability with which the guarantee may fail. It must be well below 1 / (number of private samples)."""
    epsilon: float | None = Field(default=None, gt=0)
    """Limit of what the choice may reveal, from which the noise is computed. 1 is strict, 10 is weak. Set either this
    or `sigma`."""
    sigma: float | None = Field(default=None, gt=0)
    """Standard deviation of the noise, in votes, from which epsilon is computed. Set either this or `epsilon`."""
    rounds: int = Field(default=1, gt=0)
    """Number of choices that the same private samples will make, including this one, each with noise of this size. The
    guarantee is for all these choices together. If you will choose by the same private samples again later, set this
    before the first choice."""
    votes: int = Field(default=1, gt=0)
    """Number of nearest samples for which each private sample votes."""
    threshold: float = Field(default=0.0, ge=0)
    """Samples with this many noisy votes or fewer are dropped. A few times sigma excludes samples that have no vote."""
    rule: Literal["top", "sample"] = "top"
    """`top` keeps the samples with the highest noisy counts. `sample` draws samples at random, each with a probability
    in proportion to its noisy count minus the threshold."""
    key: str | None = None
    """File with at least 16 secret random bytes, from which the noise is made. A relative path begins at the folder of
    the recipe. Without a key, the noise is made from the recipe's seed, which is not secret. This is a rehearsal
    without any guarantee, and the figures say so. With the same key, the noise differs for other votes, settings or
    samples."""

    @field_validator("key")
    @classmethod
    def _beside_recipe(cls, value: str | None, info: ValidationInfo) -> str | None:
        base = (info.context or {}).get("base")
        return str(base / Path(value).expanduser()) if base and value else value

    @model_validator(mode="after")
    def _one_of_two(self) -> "Private":
        if (self.epsilon is None) == (self.sigma is None):
            raise ValueError("epsilon and sigma are both set or both not, must be exactly one of them")
        return self

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the choice.

        Of the setting `key`, only whether there is a key counts, because a rehearsal and a release must differ.
        """
        value = super().identity()
        value["fields"]["key"] = self.key is not None
        return value

    def sources(self) -> dict[str, Source]:
        """Return the private samples."""
        return {PRIVATE: self.private_data}

    def most(self, num: int) -> int:
        """Return the budget, or `num` if that is less."""
        return budget_rows(self.budget, num)

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the cost of the votes of 10,000 private samples."""
        return Cost(TYPICAL * num * (2 * dim / FLOP_PER_S + 4e-10), 60 * num + 4 * 8192 * (8192 + 2 * dim))

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice, with the score `private_votes`: the noisy counts, rounded to float32.

        Raises:
            JobError: when there are no private samples, delta is too large for their number, or the key cannot be used.
        """
        private = view.beside[PRIVATE]
        if not len(private):
            raise JobError("private.private_data: has no samples, must have some that vote")
        if self.delta * len(private) >= 1:
            raise JobError(
                f"private.delta: {self.delta:g} is no less than 1 over the number of private samples, must be well "
                "below: else one of them may be revealed as a whole; lower delta"
            )
        sigma = self.sigma if self.sigma is not None else sigma_of(self.epsilon or 0.0, self.delta, self.rounds)
        counts = votes(private.unit(self.kind), view.unit(self.kind), self.votes)
        noisy = counts + sigma * gaussian(self._noise_key(view, counts, rng), len(view))
        noisy = noisy.astype(np.float32).astype(np.float64)  # the choice may use only the released numbers
        kept = choose(
            noisy - self.threshold, budget_rows(self.budget, len(view)), rng if self.rule == "sample" else None
        )
        reason = np.where(kept, -1, np.where(noisy > self.threshold, 0, 1))
        return Choice(
            reason, REASONS, scores={"private_votes": noisy.astype(np.float32)}, figures=self._guarantee(sigma)
        )

    def _noise_key(self, view: View, counts: Float64, rng: Random) -> bytes:
        """Return the key from which the noise of this release is made; other counts or settings give another key.

        If the noise were the same for two private datasets, the difference of two releases would reveal the votes.
        """
        secret = rng.getrandbits(256).to_bytes(32, "big") if self.key is None else _read(self.key)
        release = ids.digest(self.fingerprint(), view.samples.fingerprint).encode()
        return hashlib.sha3_256(b"".join((secret, release, view.ids.tobytes(), counts.tobytes()))).digest()

    def _guarantee(self, sigma: float) -> dict[str, float | str]:
        epsilon = epsilon_of(sigma, self.delta, self.rounds)
        return {
            "epsilon": math.ceil(epsilon * 1e6) / 1e6,
            "delta": self.delta,
            "sigma": round(sigma, 6),
            "rounds": self.rounds,
            "accountant": "analytic Gaussian mechanism (Balle & Wang 2018); one private sample more or less",
            "noise": "from a secret key" if self.key else "from the recipe's seed: a rehearsal, no guarantee",
        }


def choose(weight: Float64, budget: int, rng: Random | None = None) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return [n] which rows stay: those with the highest positive weights, or with `rng` a weighted draw.

    Rows whose weight is not positive never stay. The draw is without replacement: it takes the rows with the highest
    log weight + Gumbel noise (Efraimidis & Spirakis 2006).
    """
    open_ = np.flatnonzero(weight > 0)
    rank = weight[open_]
    if rng is not None:
        rank = np.log(rank) + np.random.default_rng(rng.getrandbits(64)).gumbel(size=len(open_))
    kept = np.zeros(len(weight), np.bool_)
    kept[open_[np.argsort(-rank, kind="stable")[:budget]]] = True
    return kept


def _read(path: str) -> bytes:
    try:
        secret = Path(path).read_bytes()
    except OSError as error:
        raise JobError(
            f"private.key: {path} can't be read: {error}; make one with `head -c 32 /dev/urandom`"
        ) from error
    if len(secret) < KEY_BYTES:
        raise JobError(f"private.key: {path} has {len(secret)} bytes, must have at least {KEY_BYTES} random ones")
    return secret
