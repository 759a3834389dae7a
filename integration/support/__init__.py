"""What the integration suite works with: a private node, a faulty network, workers as processes."""

from .processes import CeleryWorker, Process, WorkerProcess
from .proxy import Proxy
from .waiting import wait_until

__all__ = ["CeleryWorker", "Process", "Proxy", "WorkerProcess", "wait_until"]
