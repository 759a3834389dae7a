"""Debian packages that the suite needs beside RabbitMQ: installed where they are missing, if that is allowed.

One process installs at a time: the package manager refuses a second one.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def install(package: str, found: Callable[[], bool]) -> str:
    """Install a package unless its programs are `found`; return why there are none, empty when there are."""
    if found():
        return ""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return f"{package} is not installed, and only root may install it"
    # RUNLEVEL=1 keeps Debian's maintainer scripts from starting the system's servers: ours are private.
    env = os.environ | {"RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
    with (Path(tempfile.gettempdir()) / "amqptasks-packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if found():  # by another process meanwhile
            return ""
        for command in (["update"], ["install", "-y", "--no-install-recommends", package]):
            line = ["apt-get", *command]
            print(f"tests: {package} is not installed; running: {' '.join(line)}", file=sys.stderr)
            subprocess.run(line, env=env, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
    return "" if found() else f"{package} could not be installed"
