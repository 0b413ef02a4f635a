"""Checks of the parts of a ``ray up`` file that Ray passes on to AWS and Google Cloud without checking them."""

from __future__ import annotations

from typing import Any

from cluster.files.finding import FileFindings
from cluster.files.key_path import KeyPath, list_at, mapping_at, value_at
from cluster.files.machines import MACHINES
from trainer.errors import nearest

WORLD = ("0.0.0.0/0", "::/0")
AWS_KEYS = (  # of EC2's RunInstances that Ray passes on, and SubnetIds, which is Ray's own
    "BlockDeviceMappings CapacityReservationSpecification CpuOptions CreditSpecification DisableApiStop "
    "DisableApiTermination EbsOptimized EnclaveOptions HibernationOptions IamInstanceProfile ImageId "
    "InstanceInitiatedShutdownBehavior InstanceMarketOptions InstanceType KeyName LaunchTemplate LicenseSpecifications "
    "MaintenanceOptions MetadataOptions Monitoring NetworkInterfaces NetworkPerformanceOptions Placement "
    "PrivateDnsNameOptions PrivateIpAddress SecurityGroupIds SubnetId SubnetIds TagSpecifications UserData"
)
GCP_KEYS = (  # of Compute Engine's instances.insert
    "acceleratorType advancedMachineFeatures canIpForward confidentialInstanceConfig description disks displayDevice "
    "guestAccelerators labels machineType metadata minCpuPlatform name networkInterfaces networkPerformanceConfig "
    "reservationAffinity resourcePolicies runtimeVersion scheduling serviceAccounts shieldedInstanceConfig "
    "sourceMachineImage tags"
)


def is_spot(config: dict[str, Any]) -> bool:
    """Whether a node_config of AWS or Google Cloud asks for a spot machine."""
    scheduling = config.get("scheduling")
    parts = scheduling if isinstance(scheduling, list) else [scheduling]
    return value_at(config, "InstanceMarketOptions", "MarketType") == "spot" or any(
        value_at(p, "provisioningModel") == "SPOT" or value_at(p, "preemptible") is True for p in parts
    )


def check_aws(findings: FileFindings, full: dict[str, Any]) -> None:
    bucket = str(value_at(full, "metadata", "run_folder") or "").startswith("s3://")
    for key, name, config in _configs(full):
        _known_keys(findings, key, config, AWS_KEYS)
        _machine(findings, full, "aws", key, name, config.get("InstanceType"), "InstanceType")
        if not config.get("SecurityGroupIds") and not config.get("NetworkInterfaces"):
            findings.warn(
                (*key, "SecurityGroupIds"),
                "is missing, and the group that Ray makes opens port 22 to the whole internet",
                "Name a group that lets in only itself, and SSH from your address (docs/cluster.md).",
            )
        if bucket and not config.get("IamInstanceProfile"):
            findings.warn(
                (*key, "IamInstanceProfile"),
                "is missing, and the run folder is a bucket: this node could not write to it",
                "Name an instance profile whose role may read and write the bucket.",
            )
        market = value_at(config, "InstanceMarketOptions", "MarketType")
        if market not in (None, "spot", "capacity-block"):
            findings.error(
                (*key, "InstanceMarketOptions", "MarketType"),
                f"is not known.{nearest(str(market), ['spot', 'capacity-block'])}",
                value=market,
            )
        disks = [value_at(d, "Ebs", "VolumeSize") for d in list_at(config, "BlockDeviceMappings")]
        _disk(findings, (*key, "BlockDeviceMappings"), disks)
    for i, rule in enumerate(list_at(full, "provider", "security_group", "IpPermissions")):
        ranges = [str(r.get("CidrIp", r.get("CidrIpv6"))) for k in ("IpRanges", "Ipv6Ranges") for r in list_at(rule, k)]
        if any(r in WORLD for r in ranges):
            ports = f"{rule.get('FromPort', 'all')} to {rule.get('ToPort', 'all')}"
            findings.warn(
                ("provider", "security_group", "IpPermissions", i),
                f"opens ports {ports} to the whole internet ({', '.join(r for r in ranges if r in WORLD)})",
                "Write your own address: 203.0.113.7/32.",
            )


def check_gcp(findings: FileFindings, full: dict[str, Any]) -> None:
    if not value_at(full, "provider", "project_id"):
        findings.error(("provider", "project_id"), "is missing", "Write the id of your Google Cloud project.")
    bucket = str(value_at(full, "metadata", "run_folder") or "").startswith("gs://")
    for key, name, config in _configs(full):
        _known_keys(findings, key, config, GCP_KEYS)
        _machine(findings, full, "gcp", key, name, config.get("machineType"), "machineType")
        if not config.get("networkInterfaces"):
            findings.warn(
                (*key, "networkInterfaces"),
                "is missing, so the default network is used, which lets SSH in from the whole internet",
                "Name a subnetwork of a network with rules of your own (docs/cluster.md).",
            )
        if bucket and not config.get("serviceAccounts") and name != full["head_node_type"]:
            findings.warn(
                (*key, "serviceAccounts"),
                "is missing, and the run folder is a bucket: this node could not write to it",
                "Name a service account that may read and write the bucket, with the scope cloud-platform.",
            )
        scheduling = config.get("scheduling")
        if isinstance(scheduling, list):
            findings.warn(
                (*key, "scheduling"), "is a list, and Compute Engine wants a mapping", "Write scheduling: {…}."
            )
        model = value_at(scheduling, "provisioningModel")
        models = ["SPOT", "STANDARD", "FLEX_START", "RESERVATION_BOUND"]
        if model not in (None, *models):
            findings.error(
                (*key, "scheduling", "provisioningModel"), f"is not known.{nearest(str(model), models)}", value=model
            )
        gpus = mapping_at(full, "available_node_types", name, "resources").get("GPU", 0)
        if gpus and value_at(scheduling, "onHostMaintenance") != "TERMINATE" and isinstance(scheduling, dict | None):
            findings.error(
                (*key, "scheduling", "onHostMaintenance"),
                "must be TERMINATE on a machine with GPUs, which cannot be moved while it runs",
                "Write scheduling: {onHostMaintenance: TERMINATE}.",
            )
        _disk(
            findings, (*key, "disks"), [value_at(d, "initializeParams", "diskSizeGb") for d in list_at(config, "disks")]
        )


def _configs(full: dict[str, Any]) -> list[tuple[KeyPath, str, dict[str, Any]]]:
    return [
        (("available_node_types", name, "node_config"), name, mapping_at(kind, "node_config"))
        for name, kind in full["available_node_types"].items()
    ]


def _known_keys(findings: FileFindings, key: KeyPath, config: dict[str, Any], known: str) -> None:
    for name in config:
        if name not in known.split():
            findings.error((*key, name), f"is not a known key.{nearest(name, known.split())}")


def _machine(
    findings: FileFindings, full: dict[str, Any], provider: str, key: KeyPath, name: str, machine: Any, field: str
) -> None:
    if not machine:
        findings.error((*key, field), "is missing", "Ray cannot choose a machine without it.")
        return
    facts = MACHINES[provider].get(str(machine))
    if facts is None:
        return
    declared = mapping_at(full, "available_node_types", name, "resources")
    for resource, has in (("CPU", facts.cpus), ("GPU", facts.gpus)):
        given = declared.get(resource, 0)
        if given > has:
            findings.error(
                (*key[:-1], "resources", resource),
                f"is more than a {machine} has ({has}): trials that count on it can never be placed there",
                f"Write {has}.",
                given,
            )
        elif resource == "GPU" and given < has:
            findings.warn(
                (*key[:-1], "resources", "GPU"), f"leaves GPUs of a {machine} unused ({has})", f"Write {has}.", given
            )


def _disk(findings: FileFindings, key: KeyPath, sizes: list[Any]) -> None:
    known = [s for s in sizes if isinstance(s, int | float)]
    if not known or max(known) < 60:
        findings.warn(
            key,
            f"gives a disk of {max(known)} GB" if known else "does not say how large the disk is",
            "The environment takes 15 GB with its image, and the model its own size: 100 GB are safe.",
        )
