"""A study on a cluster that grows and shrinks, for tests/cluster/hosting/test_autoscaling.py: the study in the file
argv[1] runs into the folder argv[2] on Ray's fake nodes, each a raylet of this machine. Prints one JSON object of what
was seen.

To be run in namespaces of its own: ``AutoscalingCluster`` begins and ends by stopping every Ray process that it finds.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

MOST = 5  # nodes that the cluster may have
IDLE_MINUTES = 0.1


def main() -> None:
    import ray
    from ray.cluster_utils import AutoscalingCluster

    class FakeNodes(AutoscalingCluster):  # type: ignore[misc]
        """Ray's wheels leave out the file with the configuration that this class begins with."""

        def _generate_config(self, head_resources: Any, worker_node_types: Any, **rest: Any) -> dict[str, Any]:
            head = {"resources": head_resources, "node_config": {}, "max_workers": 0}
            provider = {"type": "fake_multinode", "use_node_id_as_ip": True}
            provider |= {"disable_node_updaters": True, "disable_launch_config_check": True}
            commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
            return {
                "cluster_name": "autoscaled",
                "max_workers": MOST,
                "idle_timeout_minutes": IDLE_MINUTES,
                "upscaling_speed": 1.0,
                "provider": provider,
                "auth": {},
                "docker": {},
                "available_node_types": {**worker_node_types, "ray.head.default": head},
                "head_node_type": "ray.head.default",
                "file_mounts": {},
                "cluster_synced_files": [],
                "file_mounts_sync_continuously": False,
                "rsync_exclude": [],
                "rsync_filter": [],
                **{f"{name}_commands": [] for name in commands},
            }

    worker = {"resources": {"CPU": 1, "object_store_memory": 100 * 2**20}, "node_config": {}}
    cluster = FakeNodes({"CPU": 0}, {"worker": {**worker, "min_workers": 0, "max_workers": MOST}})
    cluster.start(override_env={"AUTOSCALER_UPDATE_INTERVAL_S": "1"})
    ray.init("auto", log_to_driver=False)
    try:
        with Watch() as watch:
            code = study(watch)
            watch.wait_for_none()
    finally:
        ray.shutdown()
        cluster.shutdown()
    print("SEEN " + json.dumps({"code": code, "nodes": watch.nodes, "asked": watch.asked, "events": watch.events}))


class Watch:
    """How many worker nodes there are, and how many places are asked for or held (placement groups), each time that it
    changes; and when what happened. Seconds from the start."""

    def __init__(self) -> None:
        self.nodes: list[tuple[float, int]] = [(0.0, 0)]
        self.asked: list[tuple[float, int]] = [(0.0, 0)]
        self.events: list[tuple[float, str]] = []
        self._began = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def tell(self, what: str) -> None:
        self.events.append((time.monotonic() - self._began, what))

    def wait_for_none(self) -> None:
        end = time.monotonic() + 60
        while self.nodes[-1][1] and time.monotonic() < end:
            time.sleep(0.2)

    def _look(self) -> None:
        import ray
        from ray.util import placement_group_table

        while not self._over.wait(0.2):
            n = sum(bool(node["Alive"]) and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())
            places = sum(group["state"] != "REMOVED" for group in placement_group_table().values())
            for seen, now in ((self.nodes, n), (self.asked, places)):
                if now != seen[-1][1]:
                    seen.append((time.monotonic() - self._began, now))


def study(watch: Watch) -> int:
    from cluster.hosting import hosts
    from sweeps.live import table as live
    from sweeps.run import run
    from sweeps.study.load import load_study

    hosts.IDLE = float(os.environ.get("HOST_IDLE", "4"))
    report = live.LiveTable.report

    def told(self: Any, rung: Any) -> None:
        watch.tell(f"rung {rung.rung_index}")
        report(self, rung)

    live.LiveTable.report = told  # type: ignore[method-assign,assignment]
    console, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115
    try:
        code = run(load_study(sys.argv[1]), sys.argv[2])
    finally:
        sys.stdout = console
    watch.tell("done")
    return code


if __name__ == "__main__":
    main()
