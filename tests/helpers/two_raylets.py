"""A Ray cluster of a head and two raylets of one core each, in a network of its own: to be run as a script, since Ray
listens on all of a machine's interfaces otherwise. It builds a recipe there, kills what it is told to, and prints what
it saw as JSON.

    python two_raylets.py RECIPE STORE
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PATIENCE = 120


def raise_loopback() -> None:
    """`ip link set lo up`, without iproute."""
    get, put, up = 0x8913, 0x8914, 0x1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any:
        request = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(any, get, request))[1]
        fcntl.ioctl(any, put, struct.pack("16sh", b"lo", flags | up))


def chunks(store: str) -> dict[str, int]:
    """The last file of each finished chunk, and its time."""
    return {str(p): p.stat().st_mtime_ns for p in Path(store).glob("predictions/*/[0-9a-f]*/objects.parquet")}


def start(address: str, recipe: str, store: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "builder.cli", "build", recipe, "--store", store, "--no-report", "--json"]
    command += ["--engine", "ray", "--address", address, "--workers=1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_labelled(driver: subprocess.Popen[str], store: str, count: int) -> dict[str, int]:
    """The finished chunks, at least `count` of them, of a driver that stands still."""
    end = time.monotonic() + PATIENCE
    while len(chunks(store)) < count:
        assert driver.poll() is None and time.monotonic() < end, driver.communicate()
        time.sleep(0.005)
    driver.send_signal(signal.SIGSTOP)
    return chunks(store)


def main(recipe: str, store: str) -> dict[str, Any]:
    from ray.cluster_utils import Cluster

    raise_loopback()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster()
    cluster.add_node(num_cpus=0, node_ip_address="127.0.0.1", include_dashboard=False)
    nodes = [cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1") for _ in range(2)]
    killed = start(cluster.address, recipe, store)
    first = until_labelled(killed, store, 2)
    killed.kill()
    killed.wait()
    again = start(cluster.address, recipe, store)
    second = until_labelled(again, store, len(first) + 2)
    cluster.remove_node(nodes[1], allow_graceful=False)
    again.send_signal(signal.SIGCONT)
    out, err = again.communicate(timeout=PATIENCE)
    last = chunks(store)
    refused = start("127.0.0.1:1", recipe, store)
    return {
        "driver_killed_at": len(first),
        "raylet_killed_at": len(second),
        "kept": all(last[path] == made for path, made in (first | second).items()),
        "code": again.returncode,
        "out": out,
        "err": err,
        "refused": refused.communicate(timeout=PATIENCE)[1],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])))
    sys.stdout.flush()
    os._exit(0)  # what is left of Ray ends with this process's namespace
