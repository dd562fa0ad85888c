"""cluster.yaml: what Ray's launcher and EC2 would refuse is refused here, without a cloud account."""

import copy
import json
import re
import shlex
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

from depers.pipeline.ray_data import _CHUNK_BYTES_PER_CORE
from depers.runtime.capacity import merge_kinds

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "cluster.yaml").read_text()
CLUSTER: dict[str, Any] = yaml.safe_load(TEXT)
NODE_TYPES: dict[str, Any] = CLUSTER["available_node_types"]
COMMANDS = [
    *CLUSTER["initialization_commands"],
    *CLUSTER["setup_commands"],
    *CLUSTER["head_start_ray_commands"],
    *CLUSTER["worker_start_ray_commands"],
]


def lock() -> dict[str, str]:
    """Package → version, of the lines of the lock without markers."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and ";" not in line)


def ec2_report(node_config: dict[str, Any]) -> str:
    """What botocore finds wrong with the RunInstances call that Ray makes of a node_config ("" if nothing)."""
    added = {
        "MinCount": 1,
        "MaxCount": 1,
        "SubnetId": "subnet-0",
        "SecurityGroupIds": ["sg-0"],
        "KeyName": "ray-autoscaler_1",
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "ray-node-type", "Value": "worker"}]}],
    }
    service = botocore.session.get_session().get_service_model("ec2")
    shape = service.operation_model("RunInstances").input_shape
    report: str = ParamValidator().validate({**node_config, **added}, shape).generate_report()
    return report


def test_ray_accepts_it() -> None:
    validate_config(prepare_config(copy.deepcopy(CLUSTER)))


def test_ray_adds_no_default_of_its_own() -> None:
    prepared = prepare_config(copy.deepcopy(CLUSTER))
    assert prepared["provider"] == CLUSTER["provider"]  # by default the zones of another region
    assert prepared["head_setup_commands"] == prepared["worker_setup_commands"] == CLUSTER["setup_commands"]
    assert set(prepared["available_node_types"]) == set(NODE_TYPES)


def test_ray_refuses_a_misspelt_key() -> None:
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config({**copy.deepcopy(CLUSTER), "idle_timeout": 5}))


@pytest.mark.parametrize("name", NODE_TYPES)
def test_ec2_accepts_the_node_config(name: str) -> None:
    assert ec2_report(NODE_TYPES[name]["node_config"]) == ""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"InstanceTyp": "m7i.large"}, "Unknown parameter in input"),
        ({"BlockDeviceMappings": [{"Ebs": {"VolumeSize": "50 GB"}}]}, "Invalid type for parameter"),
        ({"InstanceMarketOptions": {"Market": "spot"}}, "Unknown parameter in InstanceMarketOptions"),
    ],
)
def test_ec2_refuses_mistakes(wrong: dict[str, Any], message: str) -> None:
    assert message in ec2_report({**NODE_TYPES["cpu"]["node_config"], **wrong})


@pytest.mark.parametrize("name", NODE_TYPES)
def test_instance_types_and_markets_are_ones_that_ec2_has(name: str) -> None:
    service = botocore.session.get_session().get_service_model("ec2")
    config = NODE_TYPES[name]["node_config"]
    assert config["InstanceType"] in service.shape_for("InstanceType").enum
    assert config["BlockDeviceMappings"][0]["Ebs"]["VolumeType"] in service.shape_for("VolumeType").enum
    market = config.get("InstanceMarketOptions", {}).get("MarketType")
    assert market == (None if name == CLUSTER["head_node_type"] or name.endswith("-on-demand") else "spot")


def test_the_head_does_no_work_and_workers_may_all_go() -> None:
    assert NODE_TYPES["head"]["resources"] == {"CPU": 0}
    (start,) = (command for command in CLUSTER["head_start_ray_commands"] if "ray start" in command)
    assert "--num-cpus=0" in shlex.split(start)
    workers = {name: kind for name, kind in NODE_TYPES.items() if name != "head"}
    assert {name for name, kind in workers.items() if kind["resources"].get("GPU")} == {"gpu", "gpu-on-demand"}
    assert all(kind["min_workers"] == 0 for kind in workers.values())
    assert CLUSTER["max_workers"] == sum(kind["max_workers"] for kind in workers.values())


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_on_demand_instances_are_the_same_and_come_second(name: str) -> None:
    spot, on_demand = NODE_TYPES[name], NODE_TYPES[f"{name}-on-demand"]
    assert spot["priority"] > on_demand["priority"]
    assert spot["resources"] == on_demand["resources"]
    market = {"InstanceMarketOptions": {"MarketType": "spot"}}
    assert spot["node_config"] == on_demand["node_config"] | market


@pytest.mark.parametrize(("name", "gib"), [("cpu", 32), ("gpu", 64)])
def test_object_stores_hold_what_is_read_ahead_and_leave_memory_to_workers(name: str, gib: int) -> None:
    resources = NODE_TYPES[name]["resources"]
    assert resources["object_store_memory"] >= 2 * _CHUNK_BYTES_PER_CORE * resources["CPU"]
    assert resources["object_store_memory"] <= gib * 2**30 * 0.3  # what Ray takes by itself
    capacity = merge_kinds([{"CPU": 0.0}], CLUSTER)
    assert capacity.describe() == "0 of at most 24 nodes with 16 CPUs, 0 of at most 5 nodes with 16 CPUs and 1 GPU"


def test_roles_may_do_what_the_work_needs_with_the_buckets_alone() -> None:
    policies = {path.stem: json.loads(path.read_text()) for path in (ROOT / "iam").glob("*.json")}
    assert set(policies) == {"trust", "buckets", "head"}
    for policy in policies.values():
        assert policy["Version"] == "2012-10-17" and all(rule["Effect"] == "Allow" for rule in policy["Statement"])
    rules = policies["buckets"]["Statement"]
    resources = {
        text
        for rule in rules
        for text in ([rule["Resource"]] if isinstance(rule["Resource"], str) else rule["Resource"])
    }
    assert all(re.fullmatch(r"arn:aws:s3:::(INPUT|OUT)-BUCKET(/\*)?", text) for text in resources)
    writing = [rule for rule in rules if "s3:PutObject" in rule["Action"]]
    assert [rule["Resource"] for rule in writing] == ["arn:aws:s3:::OUT-BUCKET/*"]
    assert not any(
        "*" in action for policy in policies.values() for rule in policy["Statement"] for action in rule["Action"]
    )
    conditions = {
        rule["Sid"]: rule.get("Condition", {}).get("StringEquals", {}) for rule in policies["head"]["Statement"]
    }
    assert conditions["EndWorkers"] == {"ec2:ResourceTag/ray-cluster-name": CLUSTER["cluster_name"]}
    assert conditions["StartWorkers"] == {"aws:RequestedRegion": CLUSTER["provider"]["region"]}
    passed = next(rule["Resource"] for rule in policies["head"]["Statement"] if rule["Sid"] == "PassTheWorkersRole")
    profiles = {
        kind["node_config"]["IamInstanceProfile"]["Name"] for name, kind in NODE_TYPES.items() if name != "head"
    }
    assert profiles == {passed.rpartition("/")[2]}


def test_versions_are_those_of_the_lock() -> None:
    assert re.findall(r"ray==(\S+)", TEXT) == [lock()["ray"]]
    (python,) = set(re.findall(r"python(\d+\.\d+)", TEXT))
    assert python in ("3.11", "3.12")
    installs = [command for command in COMMANDS if "uv pip install" in command]
    assert all("--no-deps" in command for command in installs)
    assert sum("requirements.lock" in command for command in installs) == 1


def test_no_path_of_one_machine_and_no_secret() -> None:
    assert CLUSTER["file_mounts"] == {
        "/home/ubuntu/depers": ".",
        "/home/ubuntu/.ray/auth_token": "~/.ray/auth_token",
    }
    assert not re.search(r"/(?:root|Users|work)/|AKIA|RAY_AUTH_TOKEN=", TEXT)


def test_every_start_uses_the_token() -> None:
    starts = [command for command in COMMANDS if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
