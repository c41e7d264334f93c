"""The fields of Kubernetes and of KubeRay 1.7 that the manifests of `deploy/kuberay` use. Any other field is an error.

They are written down here by hand, so that a misspelt field fails a test without a cluster. With a checkout of KubeRay,
`tests.deploy.test_manifests` checks the manifests against its own definitions too.
"""
# ruff: noqa: N815 - the fields have the names of Kubernetes

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """A table that refuses unknown fields, and values that would have to be converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    name: str | None = Field(default=None, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=47)
    generateName: str | None = None
    labels: dict[str, str] = {}

    @model_validator(mode="after")
    def one_name(self) -> "Metadata":
        assert (self.name is None) != (self.generateName is None), "one of name and generateName"
        return self


class Named(Strict):
    name: str
    optional: bool = False


class EnvFrom(Strict):
    secretRef: Named


class Env(Strict):
    name: str
    value: str


class Port(Strict):
    name: str = Field(max_length=15)
    containerPort: int


class Resources(Strict):
    requests: dict[str, str | int]
    limits: dict[str, str | int]


class Exec(Strict):
    command: list[str]


class Handler(Strict):
    exec: Exec


class Lifecycle(Strict):
    preStop: Handler


class Mount(Strict):
    name: str
    mountPath: str
    readOnly: bool = False


class Container(Strict):
    name: str
    image: str
    args: list[str] = []
    env: list[Env] = []
    envFrom: list[EnvFrom] = []
    ports: list[Port] = []
    resources: Resources | None = None
    lifecycle: Lifecycle | None = None
    volumeMounts: list[Mount] = []


class Claim(Strict):
    claimName: str


class Empty(Strict):
    medium: Literal["Memory"]
    sizeLimit: str


class Volume(Strict):
    name: str
    persistentVolumeClaim: Claim | None = None
    configMap: Named | None = None
    emptyDir: Empty | None = None


class Security(Strict):
    fsGroup: int


class Pod(Strict):
    securityContext: Security | None = None
    terminationGracePeriodSeconds: int | None = None
    serviceAccountName: str | None = None
    restartPolicy: Literal["Never"] | None = None
    initContainers: list[Container] = []
    containers: list[Container] = Field(min_length=1)
    volumes: list[Volume] = []

    @model_validator(mode="after")
    def mounts_exist(self) -> "Pod":
        volumes = {volume.name for volume in self.volumes}
        used = {mount.name for each in (*self.initContainers, *self.containers) for mount in each.volumeMounts}
        assert used == volumes, f"mounted: {sorted(used)}, declared: {sorted(volumes)}"
        return self


class PodTemplate(Strict):
    spec: Pod


class Group(Strict):
    rayStartParams: dict[str, str]
    template: PodTemplate


class WorkerGroup(Group):
    groupName: str
    replicas: int
    minReplicas: int
    maxReplicas: int


class Auth(Strict):
    mode: Literal["disabled", "token"]
    secretName: str


class Autoscaler(Strict):
    idleTimeoutSeconds: int


class ClusterSpec(Strict):
    rayVersion: str
    authOptions: Auth
    enableInTreeAutoscaling: bool
    autoscalerOptions: Autoscaler | None = None
    headGroupSpec: Group
    workerGroupSpecs: list[WorkerGroup]


class Condition(Strict):
    jobStatus: Literal["SUCCEEDED", "FAILED"] | None = None
    jobDeploymentStatus: Literal["Failed"] | None = None
    ttlSeconds: int = Field(ge=0)

    @model_validator(mode="after")
    def one_status(self) -> "Condition":
        assert (self.jobStatus is None) != (self.jobDeploymentStatus is None), "one of the two statuses"
        return self


class Rule(Strict):
    policy: Literal["DeleteCluster", "DeleteWorkers", "DeleteSelf", "DeleteNone"]
    condition: Condition


class Deletion(Strict):
    deletionRules: list[Rule] = Field(min_length=1)


class JobSpec(Strict):
    entrypoint: str
    backoffLimit: int = Field(ge=0)
    suspend: bool = False
    shutdownAfterJobFinishes: bool = False
    ttlSecondsAfterFinished: int = 0
    deletionStrategy: Deletion | None = None
    rayClusterSpec: ClusterSpec

    @model_validator(mode="after")
    def as_the_operator_checks(self) -> "JobSpec":
        """What the operator refuses after the definitions have passed (`validation.go`)."""
        assert not (self.deletionStrategy and self.shutdownAfterJobFinishes), "one way of deletion"
        assert self.shutdownAfterJobFinishes or not self.suspend, "suspend needs shutdownAfterJobFinishes"
        assert self.shutdownAfterJobFinishes or not self.ttlSecondsAfterFinished, "the time needs it too"
        return self


class CronSpec(Strict):
    schedule: str = Field(pattern=r"^(\S+ ){4}\S+$")
    timeZone: str
    jobTemplate: JobSpec


class BatchJobSpec(Strict):
    backoffLimit: int
    activeDeadlineSeconds: int
    template: PodTemplate


class BatchJob(Strict):
    spec: BatchJobSpec


class BatchCronSpec(Strict):
    schedule: str = Field(pattern=r"^(\S+ ){4}\S+$")
    timeZone: str
    concurrencyPolicy: Literal["Allow", "Forbid", "Replace"]
    startingDeadlineSeconds: int
    successfulJobsHistoryLimit: int
    failedJobsHistoryLimit: int
    jobTemplate: BatchJob


class Right(Strict):
    apiGroups: list[str]
    resources: list[str]
    verbs: list[str]


class RoleRef(Strict):
    apiGroup: Literal["rbac.authorization.k8s.io"]
    kind: Literal["Role"]
    name: str


class Subject(Strict):
    kind: Literal["ServiceAccount"]
    name: str


class Storage(Strict):
    requests: dict[str, str]


class ClaimSpec(Strict):
    accessModes: list[Literal["ReadWriteMany"]]
    resources: Storage


class Manifest(Strict):
    apiVersion: str
    kind: str
    metadata: Metadata


class Cluster(Manifest):
    spec: ClusterSpec


class Job(Manifest):
    spec: JobSpec


class Cron(Manifest):
    spec: CronSpec


class BatchCron(Manifest):
    spec: BatchCronSpec


class Role(Manifest):
    rules: list[Right]


class RoleBinding(Manifest):
    roleRef: RoleRef
    subjects: list[Subject]


class StoreClaim(Manifest):
    spec: ClaimSpec


KINDS: dict[tuple[str, str], type[Manifest]] = {
    ("ray.io/v1", "RayCluster"): Cluster,
    ("ray.io/v1", "RayJob"): Job,
    ("ray.io/v1", "RayCronJob"): Cron,
    ("batch/v1", "CronJob"): BatchCron,
    ("v1", "ServiceAccount"): Manifest,
    ("v1", "PersistentVolumeClaim"): StoreClaim,
    ("rbac.authorization.k8s.io/v1", "Role"): Role,
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): RoleBinding,
}


def checked(manifest: dict[str, Any]) -> Any:
    """Return a manifest as a value of its kind.

    Raises:
        pydantic.ValidationError: if it has an unknown field or a wrong value.
        KeyError: if its kind is unknown.
    """
    return KINDS[manifest["apiVersion"], manifest["kind"]].model_validate(manifest)


def merged(base: Any, patch: Any) -> Any:
    """Return a manifest with the keys of a patch: tables by key, lists by place, and None takes a key away."""
    if isinstance(base, dict) and isinstance(patch, dict):
        both = {key: merged(base.get(key), value) for key, value in patch.items() if value is not None}
        return {key: value for key, value in base.items() if key not in patch} | both
    if isinstance(base, list) and isinstance(patch, list):
        return [merged(*pair) for pair in zip(base, patch, strict=True)]
    return patch
