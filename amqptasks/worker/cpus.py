"""How many CPUs this process may use: its affinity and its control group's quota. Knows nothing of pools."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available(root: Path = Path("/")) -> int:
    """Return the CPUs that this process may use, at least 1. `root` is where /proc and /sys are found."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota(root)
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """Return the CPUs that the control groups (version 1 or 2) allow, or None when they set no limit."""
    limits = [limit for folder in _folders(root) if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def _folders(root: Path) -> Iterator[Path]:
    """Yield the folder of this process's group and those of all groups above it: the strictest counts."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        mounts = _mounts(root / "sys/fs/cgroup", controllers)
        # Inside a container the path is the host's, while the mount shows the container's group at its top.
        for mount in mounts:
            inside = PurePosixPath(path.lstrip("/"))
            yield from (mount / one for one in (inside, *inside.parents))


def _mounts(base: Path, controllers: str) -> tuple[Path, ...]:
    if not controllers:
        return (base,)
    if "cpu" in controllers.split(","):
        return (base / "cpu", base / controllers)
    return ()


def _limit(folder: Path) -> float | None:
    version_2 = _numbers(folder / "cpu.max")
    if len(version_2) == 2:
        return version_2[0] / version_2[1]
    quota, period = _numbers(folder / "cpu.cfs_quota_us"), _numbers(folder / "cpu.cfs_period_us")
    return quota[0] / period[0] if quota and period and quota[0] > 0 else None


def _numbers(path: Path) -> list[float]:
    """Return the numbers in the file; none when it is missing or says `max`."""
    try:
        return [float(word) for word in path.read_text().split()]
    except (OSError, ValueError):
        return []
