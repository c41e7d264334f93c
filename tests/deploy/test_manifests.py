"""The manifests of `deploy/kuberay`: fields that exist, values that agree with each other and with the package."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from gristmill.cluster.jobs.job import ClusterSettings
from tests.deploy.manifests import ClusterSpec, checked, merged
from tests.paths import ROOT

DEPLOY = ROOT / "deploy"
KUBERAY = DEPLOY / "kuberay"
DEFINITIONS = "KUBERAY_CRDS"
"""Variable with the folder of KubeRay's own definitions, `helm-chart/kuberay-operator/crds` of a checkout."""


def loaded(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERAY / name).read_text(encoding="utf-8")))


MANIFESTS = [(path.name, one) for path in sorted(KUBERAY.glob("*.yaml")) for one in loaded(path.name)]


def job(name: str = "rayjob.yaml") -> dict[str, Any]:
    spec: dict[str, Any] = loaded(name)[-1]["spec"]
    return spec


def clusters() -> list[dict[str, Any]]:
    return [job("raycluster.yaml"), job()["rayClusterSpec"], job("raycronjob.yaml")["jobTemplate"]["rayClusterSpec"]]


@pytest.mark.parametrize(("name", "manifest"), MANIFESTS, ids=[f"{n} {m['kind']}" for n, m in MANIFESTS])
def test_every_field_is_known_and_every_value_of_its_type(name: str, manifest: dict[str, Any]) -> None:
    assert checked(manifest), name


def test_a_misspelt_field_and_a_rule_of_the_operator_are_found() -> None:
    for path, value in ((("rayClusterSpec", "headGroupSpec", "rayStartParam"), {}), (("backofLimit",), 1)):
        broken = deepcopy(loaded("rayjob.yaml")[0])
        place = broken["spec"]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            checked(broken)
    both = deepcopy(loaded("rayjob.yaml")[0])
    both["spec"]["shutdownAfterJobFinishes"] = True
    with pytest.raises(ValidationError, match="one way of deletion"):
        checked(both)


def test_all_files_have_the_same_cluster_and_the_same_job() -> None:
    first, *others = clusters()
    assert all(other == first for other in others)
    once, weekly = job(), job("raycronjob.yaml")["jobTemplate"]
    assert weekly.pop("entrypoint") == once.pop("entrypoint").replace(" run ", " refresh ")
    assert weekly == once


def test_the_cluster_has_the_ray_of_the_lock_on_images_that_the_dockerfile_makes() -> None:
    pinned = {
        re.search(r"^ray(?:\[.*\])?==(.*)$", lock.read_text(), re.MULTILINE) for lock in DEPLOY.glob("lock/?pu.txt")
    }
    assert {match[1] for match in pinned if match} == {clusters()[0]["rayVersion"]} and len(pinned) == 2
    made = re.findall(r"-t (gristmill:\w+)", (DEPLOY / "Dockerfile").read_text())
    spec = ClusterSpec.model_validate(clusters()[0])
    groups = [spec.headGroupSpec, *spec.workerGroupSpecs]
    assert {container.image for group in groups for container in group.template.spec.containers} <= set(made)


def test_a_pod_lives_longer_than_the_run_takes_to_leave() -> None:
    spec, grace = ClusterSpec.model_validate(clusters()[0]), ClusterSettings().grace_s
    for group in (spec.headGroupSpec, *spec.workerGroupSpecs):
        assert (group.template.spec.terminationGracePeriodSeconds or 0) > grace + 10
    environment = {env.name: env.value for env in spec.headGroupSpec.template.spec.containers[0].env}
    assert grace < float(environment["RAY_JOB_STOP_WAIT_TIME_S"]) < 60


def hook() -> list[str]:
    command: list[str] = clusters()[0]["headGroupSpec"]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"][
        "exec"
    ]["command"]
    return command


def test_the_hook_of_the_head_stops_the_run_and_waits_until_it_has_ended(tmp_path: Path) -> None:
    """A program with the name and the arguments of a run, which takes a second to leave after SIGTERM."""
    program = tmp_path / "bin/gristmill"
    program.parent.mkdir()
    program.write_text(
        "import signal, sys, time\n"
        f"def leave(*_):\n    time.sleep(1)\n    open({str(tmp_path / 'left')!r}, 'w').close()\n    sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, leave)\nprint('up', flush=True)\ntime.sleep(60)\n"
    )
    # the word of the recipe keeps the hook of this test away from other runs of this machine
    mark = f"run {tmp_path}/recipe.toml"
    words = [word.replace("(run|refresh)", mark) for word in hook()]
    with subprocess.Popen([sys.executable, program, *mark.split()], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None and run.stdout.readline() == b"up\n"
        began = time.monotonic()
        # `wait` is the parent of the run, as the job agent of Ray is: without it the ended run would stay in the list
        waiter = subprocess.Popen(words)
        assert run.wait(10) == 75
        assert waiter.wait(10) is not None
        assert (tmp_path / "left").exists() and time.monotonic() - began > 1


def test_the_cron_job_creates_the_file_of_the_rayjob_and_waits_for_all_with_its_label() -> None:
    *_, cron = loaded("cronjob.yaml")
    pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["initContainers"][0]["args"][-1] == "/job/rayjob.yaml"
    (selector,) = [arg for arg in pod["containers"][0]["args"] if arg.startswith("--selector=")]
    key, _, value = selector.removeprefix("--selector=").partition("=")
    assert loaded("rayjob.yaml")[0]["metadata"]["labels"][key] == value


def test_the_note_on_kueue_gives_a_job_that_the_operator_takes() -> None:
    (patch,) = re.findall(r"```yaml\n(.*?)```", (DEPLOY / "kueue.md").read_text(encoding="utf-8"), re.DOTALL)
    made = merged(loaded("rayjob.yaml")[0], yaml.safe_load(patch))
    spec = checked(made).spec
    assert spec.suspend and spec.deletionStrategy is None and not spec.rayClusterSpec.enableInTreeAutoscaling


def strict(schema: Any) -> Any:
    """A schema of Kubernetes in which an unknown field is an error, as for `kubectl --validate=strict`."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and "type" in made and "additionalProperties" not in made:
        made["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    if made.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    return made


def definitions() -> Iterator[tuple[str, dict[str, Any]]]:
    """The kind and the strict schema of each definition of KubeRay."""
    for path in sorted(Path(os.environ[DEFINITIONS]).glob("*.yaml")):
        made = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
        for version in made["spec"]["versions"]:
            if version["name"] == "v1":
                whole = version["schema"]["openAPIV3Schema"]
                whole["properties"]["metadata"]["properties"] = {"name": {}, "generateName": {}, "labels": {}}
                yield made["spec"]["names"]["kind"], strict(whole)


@pytest.mark.skipif(DEFINITIONS not in os.environ, reason=f"{DEFINITIONS} names no folder of KubeRay's definitions")
def test_the_definitions_of_kuberay_itself_take_the_manifests() -> None:
    import jsonschema

    schemas = dict(definitions())
    tried = [(name, one) for name, one in MANIFESTS if one["apiVersion"].startswith("ray.io/")]
    assert {one["kind"] for _, one in tried} == {"RayCluster", "RayJob", "RayCronJob"}
    for name, one in tried:
        problems = list(jsonschema.Draft7Validator(schemas[one["kind"]]).iter_errors(one))
        assert not problems, f"{name}: {problems[0].message} at {problems[0].json_path}"
        broken = {**one, "spec": {**one["spec"], "unheardOf": 1}}
        assert list(jsonschema.Draft7Validator(schemas[one["kind"]]).iter_errors(broken)), name
