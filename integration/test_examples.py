"""The demo, end to end: its own program, its own worker groups, a real broker; on a part of its input, to be quick."""

import os
import subprocess
import sys
from pathlib import Path

from broker import PrivateNode

from integration.support.calls import count
from integration.support.processes import ROOT

DEMO = ROOT / "examples" / "stdlib_report"
LESS = """
import sys
sys.path.insert(0, sys.argv[1])
import analysis
modules, packages = analysis.modules, analysis.packages
analysis.modules = lambda: modules()[:60]
analysis.packages = lambda: ["json", "logging", "wsgiref"]
import run
sys.exit(run.main())
"""


def test_the_demo_runs_and_its_answer_is_that_of_one_process(
    tmp_path: Path, node: PrivateNode, fresh_vhost: str
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", LESS, str(DEMO)],
        cwd=tmp_path,
        env=os.environ | {"AMQPTASKS_BROKER_URL": node.url(fresh_vhost), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=220,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "60 modules on queue short, 3 packages on queue long" in ran.stdout
    assert "63 tasks sent and confirmed in" in ran.stdout
    assert "checked: the same report in one process without the queue" in ran.stdout
    assert (tmp_path / "stdlib_report.svg").read_text().lstrip().startswith("<svg")
    # Every task came from the queue of its kind.
    queues = ("short", "long", "short.dead", "long.dead")
    assert {queue: count(node.url(fresh_vhost), queue) for queue in queues} == dict.fromkeys(queues, 0)
