"""Job: one section of a recipe, and the values that it gets when it runs. Read this before any `*/job.py`."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from gristmill.cluster.contract.settings import Settings
from gristmill.cluster.io.ingest import Source
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Kind, Manifest, Shard, Store

JOBS = {
    "generate": "gristmill.generation.job:Generate",
    "review": "gristmill.generation.labels.job:Review",
    "select": "gristmill.selection.job:Select",
    "lift": "gristmill.training.evaluate.lift:Lift",
    "train": "gristmill.training.job:Train",
    "evaluate": "gristmill.training.evaluate.job:Evaluate",
}
"""The class of each job as `module:class`, in the order in which a recipe runs the jobs. The modules are in packages
that import this one, so they are imported only when a recipe is loaded."""

SAMPLE_JOBS = ("ingest", "generate", "review", "select", "lift")
"""The jobs that make a dataset of samples, in the order in which they run."""


class ClusterSettings(Settings):
    """`[cluster]`: the Ray cluster that the run uses."""

    address: str | None = None
    """`"auto"` or `host:port` of a running cluster. By default, a run under `ray job submit` uses the cluster that it
    was submitted to. Any other run starts a local cluster, which ends with the run."""
    num_cpus: int | None = Field(default=None, gt=0)
    """Number of cores of the local cluster. By default it has all cores of the machine."""
    num_gpus: int | None = Field(default=None, ge=0)
    """Number of GPUs of the local cluster. By default it has all GPUs of the machine."""
    wait_s: float = Field(default=120.0, ge=0)
    """Seconds to wait for cores and GPUs that the cluster has, but that are in use. The command then ends with exit
    code 75, and the same command goes on later. A day is 86400."""
    grace_s: float = Field(default=25.0, gt=0)
    """Seconds after SIGTERM, SIGHUP or Ctrl-C in which the run shuts down in order. Then it writes its record and ends
    at once. Kubernetes kills a process 30 seconds after SIGTERM, unless its settings say otherwise."""


@dataclass(frozen=True)
class Run:
    """One execution of a recipe: its store, its ledger, its screen and its logs."""

    id: str
    store: Store
    ledger: Ledger
    screen: Screen
    logs: str | None
    """Local folder for the log files of drivers and actors. It is None if the store is remote."""
    wait_s: float = 120.0
    """Seconds to wait for cores and GPUs that are in use."""


@dataclass(frozen=True)
class Work:
    """The work of one job of a run: name and fingerprint of its output folder, and its input folders by role."""

    output: str
    fingerprint: str
    inputs: Mapping[str, str]
    expected: Mapping[str, int] = field(default_factory=dict)
    """Expected number of kept samples by folder, for folders that do not exist yet. Only `plan` sets it."""

    def num_samples(self, store: Store) -> int:
        """Return the number of kept input samples. If the dataset is not complete, it is the expected number."""
        folder = self.inputs.get("samples", "")
        return store.manifest(folder).kept if folder and store.complete(folder) else self.expected.get(folder, 0)


@dataclass
class Plan:
    """The plan of a job: what it would do. It is made without loading a model."""

    job: str
    output: str
    state: str = "to do"
    """`to do`, `continues` or `done`."""
    shards: int = 0
    samples: int = 0
    """Samples that `generate` is asked for, or that another job reads. It is 0 if this is not known before the run."""
    kept: int = 0
    """Expected number of kept samples."""
    actors: int = 0
    cpus: float = 0
    gpus: float = 0
    tokens: int = 0
    """Estimated number of tokens of all prompts and replies."""
    notes: list[str] = field(default_factory=list)
    spreads: bool = False
    """Whether the job takes as many processes as the cluster has room for, one for `gpus` GPUs."""
    process_s: float = 0.0
    """Seconds in which one process would do all of it. It is 0 if this was not measured."""
    driver_s: float = 0.0
    """Seconds of a core that the driver needs in all. It is 0 if this was not measured."""
    driver_bytes: float = 0.0
    """Memory of the driver. It is 0 if this was not measured."""
    bases: list[str] = field(default_factory=list)
    """Where the last three numbers come from."""


class Job(Settings):
    """One section of a recipe: a frozen value that makes one folder of the store from other folders."""

    name: ClassVar[str]
    upstream: ClassVar[tuple[str, ...]] = ()
    """Jobs of the same recipe whose output this job can read if it has no `input`. It reads that of the first job in
    this tuple that the recipe has."""
    figures: ClassVar[type[Figures]] = Figures
    """Class of the value that `make` returns."""
    presentation: ClassVar[str] = "gristmill.cluster.report.sections:Presentation"
    """Class that makes the summary and the report of the figures. It is a string, so that its module, which draws
    charts, is imported only when needed."""
    chooses: ClassVar[bool] = False
    """Whether the samples that the job drops are good ones that it did not choose. The report shows these apart from
    refused samples."""
    dashboard: ClassVar[bool] = False
    """Whether a local Ray must run its dashboard for this job."""
    not_identity: ClassVar[frozenset[str]] = frozenset({"input"})
    working: ClassVar[tuple[str, ...]] = ()
    """Patterns of the paths of files that `make` needs only until its output is complete, such as `checkpoints/*`."""

    def uses_ray(self, store: Store, work: Work) -> bool:
        """Say whether `make` needs a session of Ray for this work. If no job of a recipe needs one, no Ray starts."""
        del store, work
        return True

    input: Source | None = None
    """Data from outside the recipe: a path, or a table with path and format."""

    def check(self, base: Path) -> list[str]:
        """Return the problems of the settings that their types do not find, as `key: what is, what must be`.

        `base` is the recipe's folder.
        """
        del base
        return []

    def sources(self) -> dict[str, Source]:
        """Return the sources of data from outside, by their role among the job's inputs."""
        return {"samples": self.input} if self.input else {}

    def needs(self, outputs: Mapping[str, str]) -> dict[str, str]:
        """Return the folders of further inputs, by role.

        `outputs` has the output folders of the recipe's earlier jobs, by the name of the job.
        """
        del outputs
        return {}

    def manifest(
        self,
        work: Work,
        kind: Kind,
        shards: Sequence[Shard],
        metadata: Mapping[str, str] | None = None,
        files: Sequence[Shard] = (),
    ) -> Manifest:
        """Return the manifest of this job's output. The job commits it when all shards and files are written."""
        return Manifest(
            name=work.output,
            kind=kind,
            job=self.name,
            fingerprint=work.fingerprint,
            inputs=dict(work.inputs),
            settings=self.public(),
            shards=tuple(shards),
            metadata=dict(metadata or {}),
            files=tuple(files),
        )

    @abstractmethod
    def plan(self, store: Store, work: Work) -> Plan:
        """Return the plan of `make`, within seconds and without loading a model. The inputs need not exist yet."""

    @abstractmethod
    def make(self, run: Run, work: Work) -> Figures:
        """Make `work.output` and return its figures. Committed shards are not made again.

        The job commits the manifest itself (`Store.commit`). Ray runs when this is called, if the job `uses_ray`.
        """


def job_class(name: str) -> type[Job]:
    """Return the class of the job of a section."""
    module, _, attribute = JOBS[name].partition(":")
    kind: type[Job] = getattr(import_module(module), attribute)
    return kind


def figures_class(name: str) -> type[Figures]:
    """Return the class of the figures of a section, or of ingest."""
    return job_class(name).figures if name in JOBS else Figures
