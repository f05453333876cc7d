"""Run independent pieces of work on the nodes of a Ray cluster. The only place that knows Ray.

Nothing of a store travels: pieces of work go out, what came of them comes back, and this process alone writes. Every
node needs the same Python, Tutelage and models, and must reach the images under the same paths or addresses.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from typing import Any, Protocol, TypeVar

from builder.errors import BuildError, brief
from teachers.errors import warn

Item = TypeVar("Item")
Result = TypeVar("Result")

RETRIES = 2
"""How often a piece of work is begun anew whose worker died: one that is its cause, as by its memory, ends the run."""
AHEAD = 4
"""Groups of items in flight, for each processor of the cluster."""
PATIENCE = 600.0
"""Seconds without any worker, as where others hold the whole cluster, after which the run ends."""
ANSWER = 10.0
"""Seconds in which a cluster is to answer."""
LOOK = 5.0
"""Seconds after which the cluster is looked at again for nodes that came."""
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM") if hasattr(signal, name))
"""Those whose handlers Ray puts others in place of."""


class Worker(Protocol):
    """What is made once on each node, or for each GPU, and does pieces of work there one after another."""

    def facts(self) -> Mapping[str, Any]:
        """What it is and runs on: equal in all workers of a team."""
        ...

    def work(self, item: Any) -> Any: ...


class Cluster:
    """A connection to a Ray cluster for as long as its block lasts.

    Args:
        address: of a cluster that runs (`host:6379`, `auto`, `ray://…` not); None starts Ray on this machine alone,
            as for several GPUs.

    Raises:
        BuildError: when the block begins, if there is none at this address.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = address

    def __enter__(self) -> Cluster:
        import ray

        if self.address is not None and self.address != "auto":
            _check_answers(self.address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # unless the user wants Ray to report
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        alone: dict[str, Any] = {} if self.address else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        try:
            ray.init(self.address or "local", log_to_driver=False, logging_level=logging.ERROR, **alone)
        except (OSError, RuntimeError, ValueError) as error:
            raise BuildError(
                f"no Ray cluster at {self.address or 'this machine'} ({brief(error)}): start one with `ray start "
                "--head`, or leave the address out for this machine alone"
            ) from None
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self

    def __exit__(self, *error: object) -> None:
        import ray

        ray.shutdown()

    def map(self, work: Callable[[Item], Result], items: Iterable[Item], group: int = 1) -> Iterator[Result]:
        """`work(item)` for each item, in order, `group` of them at a time in a process of the cluster. A group whose
        node died is done again elsewhere. The first error of `work` is raised. work: a function of a module, or a
        partial of one. Raises BuildError for a group that ended its process again and again."""
        import ray

        task: Any = ray.remote(_each).options(num_cpus=1, max_retries=RETRIES, scheduling_strategy="SPREAD")
        most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting: deque[Any] = deque()
        rest = iter(items)
        try:
            while (some := list(islice(rest, group))) or waiting:
                if some:
                    waiting.append(task.remote(version("tutelage"), work, some))
                if len(waiting) >= most or not some:
                    yield from _got(waiting.popleft())
        finally:
            for reference in waiting:
                ray.cancel(reference)


@dataclass(eq=False)
class _Member:
    """A worker of a team. node: where it is; jobs: what it was given and has not done, in order."""

    actor: Any
    node: str
    jobs: deque[int] = field(default_factory=deque)
    facts: Mapping[str, Any] = field(default_factory=dict)


class Team:
    """Workers on a cluster, one for each GPU, or on each node where no node has one. Those whose node died are replaced
    when nodes come; what they were doing is done elsewhere.

    Args:
        cluster: within its block.
        make: what makes a worker; picklable.

    Raises:
        BuildError: if no worker could begin for PATIENCE seconds, or two differ in their facts.
    """

    def __init__(self, cluster: Cluster, make: Callable[[], Worker]) -> None:
        self._make = make
        self._members: list[_Member] = []
        self._coming: dict[Any, _Member] = {}
        self._seen: set[str] = set()
        self._looked = -LOOK
        self._stillborn: dict[str, int] = {}
        self._alone_since = time.monotonic()
        while not self._members:
            self._wait([])
        self.facts: Mapping[str, Any] = self._members[0].facts

    def map(self, items: Iterable[Item]) -> Iterator[Any]:
        """What `work(item)` of some worker gives for each item, in order. Raises the first error of a worker."""
        import ray

        rest = enumerate(items)
        given: dict[int, Any] = {}
        done: dict[int, Any] = {}
        again: deque[int] = deque()
        deaths: dict[int, int] = {}
        running: dict[Any, tuple[int, _Member]] = {}
        first, ended = 0, False
        while True:
            for member in sorted(self._members, key=lambda member: len(member.jobs)):
                while len(member.jobs) < 2 and (again or (not ended and len(given) + len(done) < self._most)):
                    if again:
                        number = again.popleft()
                    elif (job := next(rest, None)) is not None:
                        number, given[job[0]] = job
                    else:
                        ended = True
                        break
                    member.jobs.append(number)
                    running[member.actor.work.remote(given[number])] = number, member
            while first in done:
                yield done.pop(first)
                first += 1
            if ended and not given and not done:
                return
            for reference in self._wait(list(running)):
                number, member = running.pop(reference)
                blamed = member.jobs[0] == number
                member.jobs.remove(number)
                try:
                    done[number] = _value(reference)
                    del given[number]
                except ray.exceptions.RayError as error:  # by its own end, or by Ray for its node's want of memory
                    deaths[number] = deaths.get(number, 0) + blamed
                    if deaths[number] > RETRIES:
                        raise _ended(deaths[number], error) from None
                    again.append(number)
                    self._lost(member)

    @property
    def _most(self) -> int:
        """Items that may be given out or wait for earlier ones."""
        return 3 * len(self._members) + 1

    def _wait(self, running: list[Any]) -> list[Any]:
        """Those that ended of the pieces of work that run; looks after who comes."""
        import ray

        if time.monotonic() - self._looked >= LOOK:
            self._recruit()
        if self._members:
            self._alone_since = time.monotonic()
        elif time.monotonic() - self._alone_since > PATIENCE:
            raise BuildError(
                f"no node of the cluster had room for a worker in {PATIENCE:.0f} s: look at `ray status`; what was "
                "done is kept"
            )
        references = [*running, *self._coming]
        if not references:
            time.sleep(LOOK)
            return []
        ready, _ = ray.wait(references, num_returns=1, timeout=LOOK)
        ended = []
        for reference in ready:
            if (member := self._coming.pop(reference, None)) is None:
                ended.append(reference)
                continue
            try:
                member.facts = _value(reference)
            except ray.exceptions.RayError as error:
                self._stillborn[member.node] = times = self._stillborn.get(member.node, 0) + 1
                if times <= RETRIES:
                    self._lost(member)
                elif not self._members and not self._coming:
                    raise _ended(times, error) from None
                continue  # in the last case without that node
            self._check(member)
            self._members.append(member)
        return ended

    def _check(self, member: _Member) -> None:
        """Raises BuildError unless a new worker is what the others are: one set of predictions is of one kind of
        machine."""
        if self._members and member.facts != self._members[0].facts:
            first = self._members[0]
            raise BuildError(
                f"the nodes of the cluster differ: {_differences(first.facts, member.facts)}; what they predict would "
                "not agree to the bit: use nodes that are equal, or name the device with --set device=…"
            )

    def _lost(self, member: _Member) -> None:
        """A worker is gone. Its node, where it is alive, gets another."""
        if member in self._members:
            self._members.remove(member)
        warn("a worker of the cluster was lost, with its node perhaps; its work is done again by others")
        self._seen.discard(member.node)
        self._looked = -LOOK

    def _recruit(self) -> None:
        """Begin workers on the nodes that have none."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._looked = time.monotonic()
        alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        nodes = {node["NodeID"]: node["Resources"] for node in alive}
        with_gpus = {name for name, has in nodes.items() if has.get("GPU", 0) >= 1}
        actor: Any = ray.remote(_Actor)
        for name in sorted((with_gpus or nodes.keys()) - self._seen):
            self._seen.add(name)
            busy = sum(member.node == name for member in (*self._members, *self._coming.values()))
            cpus, gpus = int(nodes[name].get("CPU", 0)), int(nodes[name].get("GPU", 0))
            count = gpus or 1
            for _ in range(count - busy):
                made = actor.options(
                    num_cpus=max(cpus // count, 1 if cpus else 0),
                    num_gpus=1 if gpus else 0,
                    max_restarts=0,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False),
                ).remote(version("tutelage"), self._make)
                self._coming[made.facts.remote()] = _Member(made, name)


class _Actor:
    """A worker in a process of the cluster."""

    def __init__(self, version: str, make: Callable[[], Worker]) -> None:
        self._version, self._make = version, make
        self._worker: Worker | None = None

    def facts(self) -> Any:
        _check_version(self._version)
        self._worker = self._make()
        return self._worker.facts()

    def work(self, item: Any) -> Any:
        assert self._worker is not None
        return self._worker.work(item)


def _each(version: str, work: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    _check_version(version)
    return [work(item) for item in items]


def _check_answers(address: str) -> None:
    """Raises BuildError where nobody listens: Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise BuildError(f"address {address!r} is no HOST:PORT of a Ray cluster, such as head:6379: correct it")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
    except OSError as error:
        raise BuildError(
            f"nobody answers at {address} ({error.strerror or error}): start a Ray cluster with `ray start --head`, or "
            "leave the address out for this machine alone"
        ) from None


def _check_version(driver: str) -> None:
    if (mine := version("tutelage")) != driver:
        raise BuildError(
            f"a node of the cluster has Tutelage {mine}, and this process {driver}: install the same on every node"
        )


def _got(reference: Any) -> Any:
    """What a task returned, and _ended for one that was lost again and again."""
    import ray

    try:
        return _value(reference)
    except ray.exceptions.RayError as error:
        raise _ended(RETRIES + 1, error) from None


def _value(reference: Any) -> Any:
    """What a piece of work returned. Raises what it raised."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause or BuildError(f"the cluster failed: {brief(error)}")
        cause.add_note("on a node of the cluster, which has to see the same files under the same paths:")
        raise cause from error


def _ended(times: int, error: Exception) -> BuildError:
    cause = brief(str(error).partition("\n")[0])
    return BuildError(
        f"the same piece of work ended its process {times} times on the cluster ({cause}): "
        "look at the memory of its nodes, then run the command again; what was done is kept"
    )


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name} is {brief(repr(first.get(name)))} and {brief(repr(second.get(name)))}"
        for name in sorted({*first, *second})
        if first.get(name) != second.get(name)
    )
