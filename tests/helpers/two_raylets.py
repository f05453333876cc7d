"""A Ray cluster of a head and two raylets of one core each, and an S3 server, in a network of their own: a script,
since Ray listens on all of a machine's interfaces otherwise. It builds a recipe whose pool is in the bucket, kills
driver and raylet on the way, publishes what came of it, and prints what it saw as JSON.

    python -m tests.helpers.two_raylets RECIPE POOL STORE
"""

from __future__ import annotations

import fcntl
import hashlib
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

from tests.helpers.s3 import BUCKET, running_s3

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


def start(address: str, store: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "builder.cli", *words, "--store", store, "--json", "--workers=1"]
    command += ["--engine", "ray", "--address", address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_labelled(driver: subprocess.Popen[str], store: str, count: int) -> dict[str, int]:
    """The finished chunks, at least `count` of them, of a driver that stands still."""
    end = time.monotonic() + PATIENCE
    while len(chunks(store)) < count:
        assert driver.poll() is None and time.monotonic() < end, driver.communicate()
        time.sleep(0.005)
    driver.send_signal(signal.SIGSTOP)
    return chunks(store)


def main(recipe: str, pool: str, store: str) -> dict[str, Any]:
    from ray.cluster_utils import Cluster

    raise_loopback()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    build = ("build", recipe, "--no-report", "--set", f"pool.source=s3://{BUCKET}/pool")
    with running_s3() as s3:
        s3.put_folder(Path(pool), "pool")
        cluster = Cluster()
        cluster.add_node(num_cpus=0, node_ip_address="127.0.0.1", include_dashboard=False)
        nodes = [cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1") for _ in range(2)]
        killed = start(cluster.address, store, *build)
        first = until_labelled(killed, store, 2)
        killed.kill()
        killed.wait()
        again = start(cluster.address, store, *build)
        second = until_labelled(again, store, len(first) + 2)
        cluster.remove_node(nodes[1], allow_graceful=False)
        again.send_signal(signal.SIGCONT)
        out, err = again.communicate(timeout=PATIENCE)
        last = chunks(store)
        refused = start("127.0.0.1:1", store, *build)
        published = start(cluster.address, store, "publish", "pets@v1", f"s3://{BUCKET}/out", "--allow-private")
        os.chdir(os.path.dirname(store))  # the raylets stay where they were
        written = start(cluster.address, os.path.basename(store), "materialize", "pets@v1", "plain")
        return {
            "driver_killed_at": len(first),
            "raylet_killed_at": len(second),
            "kept": all(last[path] == made for path, made in (first | second).items()),
            "code": again.returncode,
            "out": out,
            "err": err,
            "refused": refused.communicate(timeout=PATIENCE)[1],
            "published": published.communicate(timeout=PATIENCE),
            "written": written.communicate(timeout=PATIENCE),
            "hashes": {key: hashlib.sha256(data).hexdigest() for key, data in s3.keys("out").items()},
        }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])))
    sys.stdout.flush()
    os._exit(0)  # what is left of Ray ends with this process's namespace
