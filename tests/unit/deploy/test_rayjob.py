"""The RayJob for KubeRay: what the API server would refuse is refused here, without a cluster."""

import copy
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from depers import cli

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "deploy/kuberay-rayjob.yaml").read_text()
JOB: dict[str, Any] = yaml.safe_load(TEXT)


def object_of(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """Return the schema of an object that has no other fields: what a CRD does not name is dropped in silence."""
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


def list_of(items: Any) -> dict[str, Any]:
    """Return the schema of a list that is not empty."""
    return {"type": "array", "minItems": 1, "items": items}


TEXT_FIELD = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": "^[0-9]+(Ki|Mi|Gi|m)?$"}}
PORT = {"type": "integer", "minimum": 1, "maximum": 65_535}
PORT_NAME = {"type": "string", "maxLength": 15, "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"}
PROBE = object_of(
    exec=object_of(("command",), command=list_of(TEXT_FIELD)),
    tcpSocket=object_of(("port",), port=PORT),
    initialDelaySeconds=COUNT,
    periodSeconds=COUNT,
    timeoutSeconds=COUNT,
    failureThreshold=COUNT,
)
CONTAINER = object_of(
    ("name", "image", "resources"),
    name=PORT_NAME,
    image=TEXT_FIELD,
    ports=list_of(object_of(("containerPort",), name=PORT_NAME, containerPort=PORT)),
    resources=object_of(requests=QUANTITIES, limits=QUANTITIES),
    readinessProbe=PROBE,
    livenessProbe=PROBE,
    volumeMounts=list_of(object_of(("name", "mountPath"), name=TEXT_FIELD, mountPath=TEXT_FIELD)),
)
POD_SPEC = object_of(
    ("containers",),
    serviceAccountName=TEXT_FIELD,
    terminationGracePeriodSeconds=COUNT,
    tolerations=list_of(
        object_of(
            key=TEXT_FIELD,
            operator={"enum": ["Exists", "Equal"]},
            effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
        )
    ),
    containers=list_of(CONTAINER),
    volumes=list_of(
        object_of(
            ("name", "emptyDir"),
            name=TEXT_FIELD,
            emptyDir=object_of(medium={"enum": ["", "Memory"]}, sizeLimit=QUANTITIES["additionalProperties"]),
        )
    ),
)
TEMPLATE = object_of(("spec",), metadata=object_of(annotations=TEXTS, labels=TEXTS), spec=POD_SPEC)
# The part that is used of the CRD ray.io/v1 RayJob: RayJobSpec, RayClusterSpec, HeadGroupSpec and WorkerGroupSpec of
# KubeRay's ray-operator/apis/ray/v1/rayjob_types.go and raycluster_types.go.
SCHEMA = object_of(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=object_of(("name",), name={"type": "string", "maxLength": 47, "pattern": "^[a-z]([a-z0-9-]*[a-z0-9])?$"}),
    spec=object_of(
        ("entrypoint", "rayClusterSpec"),
        entrypoint=TEXT_FIELD,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        backoffLimit=COUNT,
        activeDeadlineSeconds=COUNT,
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=COUNT,
        runtimeEnvYAML=TEXT_FIELD,
        rayClusterSpec=object_of(
            ("headGroupSpec",),
            rayVersion=TEXT_FIELD,
            authOptions=object_of(mode={"enum": ["disabled", "token"]}),
            enableInTreeAutoscaling={"type": "boolean"},
            autoscalerOptions=object_of(
                idleTimeoutSeconds=COUNT, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}
            ),
            headGroupSpec=object_of(("rayStartParams", "template"), rayStartParams=TEXTS, template=TEMPLATE),
            workerGroupSpecs=list_of(
                object_of(
                    ("groupName", "maxReplicas", "minReplicas", "rayStartParams", "template"),
                    groupName=TEXT_FIELD,
                    replicas=COUNT,
                    minReplicas=COUNT,
                    maxReplicas=COUNT,
                    rayStartParams=TEXTS,
                    template=TEMPLATE,
                )
            ),
        ),
    ),
)
CLUSTER = JOB["spec"]["rayClusterSpec"]
GROUPS = {group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}


def test_it_fits_the_schema() -> None:
    jsonschema.validate(JOB, SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "shutdownAfterJobFinish"), True),  # misspelt
        (("spec", "rayClusterSpec", "rayVersion"), 2.6),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),  # must be text
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), "20"),
        (("kind",), "RayCluster"),
    ],
)
def test_the_schema_refuses(path: tuple[Any, ...], value: Any) -> None:
    job = copy.deepcopy(JOB)
    *parents, name = path
    place: Any = job
    for parent in parents:
        place = place[parent]
    place[name] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, SCHEMA)


def test_its_versions_are_those_of_the_lock() -> None:
    assert f"ray=={CLUSTER['rayVersion']}\n" in (ROOT / "requirements.lock").read_text()
    images = {group["template"]["spec"]["containers"][0]["image"] for group in GROUPS.values()}
    assert images == {"depers:0.1.0", "depers:0.1.0-gpu"}


def test_what_it_runs_is_a_verb() -> None:
    program, verb, *arguments = shlex.split(JOB["spec"]["entrypoint"])
    assert program == "depers" and verb in cli.VERBS
    assert all(argument.startswith(("s3://", "--")) or argument == "json" for argument in arguments)


def test_the_head_does_no_work_and_workers_come_with_it() -> None:
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0" and CLUSTER["enableInTreeAutoscaling"]
    assert all(group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"] for group in GROUPS.values())


def test_every_pod_is_scraped_has_shared_memory_and_equal_requests_and_limits() -> None:
    templates = [CLUSTER["headGroupSpec"]["template"], *(group["template"] for group in GROUPS.values())]
    for template in templates:
        (container,) = template["spec"]["containers"]
        port = template["metadata"]["annotations"]["prometheus.io/port"]
        assert int(port) in {entry["containerPort"] for entry in container["ports"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume["emptyDir"]["medium"] for volume in template["spec"]["volumes"]}
        assert mounts == {"shared-memory": "/dev/shm"} and volumes == {"shared-memory": "Memory"}
        resources = container["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"]
    for group in GROUPS.values():  # Ray counts the cores of the limits
        resources = group["template"]["spec"]["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]
    assert "nvidia.com/gpu" in GROUPS["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]
