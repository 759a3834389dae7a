"""What no test of either suite may depend on: how busy the machine is, and how the run was started."""

import os
import signal

import hypothesis


def forget() -> None:
    """Called once by each suite's conftest."""
    # How long an example takes says how busy the machine is, and nothing of the product. On CI the examples are the
    # same each time, so that a change is judged by what it changes; elsewhere they are new ones.
    hypothesis.settings.register_profile(
        "shared machine",
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
        derandomize="CI" in os.environ,
    )
    hypothesis.settings.load_profile("shared machine")
    # A run in the background of a script is started with SIGINT ignored, and so would be all that it starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
