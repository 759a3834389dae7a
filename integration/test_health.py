"""Probes, metrics and systemd's notifications of a real worker: with the broker cut off and back, stopped and stuck."""

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from broker import free_ports

from amqptasks import App
from integration.support import Proxy, WorkerProcess, wait_until
from integration.support.processes import ROOT, Process

APP = "integration.apps.health_tasks"


class Probe:
    """Asks a worker by its health port."""

    def __init__(self, worker: Process) -> None:
        host, port = worker.wait_log(r"health: http://([^/]+):(\d+)/").groups()
        self.address = f"http://{host}:{port}"

    def __call__(self, path: str, timeout: float = 10.0) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{self.address}{path}", timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def ready(self) -> tuple[bool, list[str]]:
        status, body = self("/readyz")
        said = json.loads(body)
        assert said["ready"] is (status == 200)
        return said["ready"], said["reasons"]

    def metrics(self) -> dict[str, float]:
        """Sample -> value, by the text before the value."""
        status, body = self("/metrics")
        assert status == 200, body
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in body.splitlines()
            if not line.startswith("#")
        }


NODE = f"amqptasks@{socket.gethostname()}"


def sample(text: str, prefix: str = "amqptasks_", /, **labels: str) -> str:
    """A sample's text."""
    shown = ",".join(f'{key}="{value}"' for key, value in sorted({**labels, "hostname": NODE}.items()))
    return f"{prefix}{text}{{{shown}}}"


def of_task(text: str, task: str, /, **labels: str) -> str:
    return sample(text, name=f"{APP}.{task}", queue_name="amqptasks", **labels)


def call(app: App, name: str, *args: Any, **options: Any) -> Any:
    return app.send_task(f"{APP}.{name}", args, **options)


def test_a_broker_cut_off_and_back(
    proxy: Proxy, fresh_vhost: str, worker: Callable[..., WorkerProcess]
) -> None:
    """Live and measured all the time; ready only while its messages have a way."""
    url = proxy.url(fresh_vhost)
    running = worker(APP, "-c", "1", "--health-port", "0", "--", "broker_heartbeat=3", broker_url=url)
    probe = Probe(running)
    assert probe.ready() == (True, [])
    with App("client", broker=url) as app:
        assert call(app, "add", 2, 3).get(timeout=20) == 5

        proxy.refuse()
        proxy.rst()

        cut_off = "no connection to the broker for consuming"
        wait_until(lambda: cut_off in probe.ready()[1], 10, "not ready")
        assert probe("/livez")[0] == 200
        cut = probe.metrics()
        assert cut[sample("connected", connection="consuming")] == 0
        assert not [name for name in cut if name.startswith("amqptasks_queue_length{")]
        assert cut[of_task("task_succeeded_total", "add")] == 1

        proxy.accept()

        wait_until(lambda: probe.ready()[0], 30, lambda: f"ready again; {probe.ready()}")
        back = probe.metrics()
        assert back[sample("connected", connection="consuming")] == 1
        assert back[sample("reconnects_total", connection="consuming")] >= 1
        assert call(app, "add", 2, 3).get(timeout=60) == 5
        wait_until(lambda: probe.metrics()[of_task("task_succeeded_total", "add")] == 2, 10, "counted")

        proxy.blackhole()

        wait_until(lambda: not probe.ready()[0], 20, "not ready, by the heartbeats that are missed")
        assert probe("/livez")[0] == 200
        assert probe("/metrics")[0] == 200
        proxy.restore()
        wait_until(lambda: probe.ready()[0], 30, lambda: f"ready again; {probe.ready()}")


def test_every_way_that_a_call_ends_is_counted(broker_url: str, worker: Callable[..., WorkerProcess]) -> None:
    running = worker(APP, "-c", "1", "--health-port", "0", broker_url=broker_url)
    probe = Probe(running)
    with App("client", broker=broker_url) as app:
        for number in range(5):
            assert call(app, "add", number, 1).get(timeout=20) == number + 1
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                call(app, "boom").get(timeout=20)
        with pytest.raises(Exception, match="died"):
            call(app, "die").get(timeout=20)
        with pytest.raises(Exception, match="not mine"):
            call(app, "reject").get(timeout=20)
        with pytest.raises(Exception, match="no task named"):
            app.send_task("nobody.knows", headers={"x-amqptasks-unknown": 99}).get(timeout=20)
        call(app, "nap", 0.3).get(timeout=20)

    def seen() -> dict[str, float]:
        return probe.metrics()

    last = (
        of_task("task_succeeded_total", "nap"),
        sample("dead_letters_total", queue_name="amqptasks", reason="rejected"),
        sample("dead_letters_total", queue_name="amqptasks", reason="unknown"),
    )
    wait_until(lambda: all(seen().get(name) == 1 for name in last), 20, lambda: f"all counted; {seen()}")
    now = seen()

    assert now[of_task("task_received_total", "add")] == 5
    assert now[of_task("task_started_total", "add")] == 5
    assert now[of_task("task_succeeded_total", "add")] == 5
    assert now[of_task("task_failed_total", "boom", exception="ZeroDivisionError")] == 2
    assert now[of_task("task_failed_total", "die", exception="WorkerLost")] == 1
    assert now[sample("tasks_lost_total")] == 1
    assert now[sample("children_replaced_total")] == 1
    assert now[of_task("task_rejected_total", "reject")] == 1
    assert now[sample("dead_letters_total", queue_name="amqptasks", reason="rejected")] == 1
    assert now[sample("dead_letters_total", queue_name="amqptasks", reason="unknown")] == 1
    assert now[sample("task_rejected_total", name="unknown", queue_name="amqptasks")] == 1
    assert "nobody" not in str(now), "a sender makes up names of series"
    assert now[of_task("task_runtime_count", "nap")] == 1
    assert 0.3 <= now[of_task("task_runtime_sum", "nap")] < 60
    assert now[of_task("task_runtime_bucket", "nap", le="0.25")] == 0
    assert now[of_task("task_queue_wait_time_count", "add")] == 5
    assert 0 <= now[of_task("task_queue_wait_time_sum", "add")] < 60
    assert now[sample("publish_confirm_seconds_count")] >= 1
    assert now[sample("prefetch", queue_name="amqptasks")] >= 1
    assert now['amqptasks_queue_length{queue_name="amqptasks"}'] == 0
    assert now[sample("worker_up")] == 1


def test_what_waits_is_aged(fresh_vhost: str, node: Any, worker: Callable[..., WorkerProcess]) -> None:
    """The oldest message that waits here, and how many wait on the broker, under celery-exporter's prefix."""
    url = node.url(fresh_vhost)
    running = worker(
        APP, "-c", "1", "--prefetch-multiplier", "2", "--health-port", "0",
        "--", "worker_metrics_prefix=celery_", broker_url=url,
    )  # fmt: skip
    probe = Probe(running)
    with App("client", broker=url) as app:
        for _ in range(6):
            call(app, "nap", 60)
        ours = {"queue_name": "amqptasks"}

        def now() -> dict[str, float]:
            return probe.metrics()

        age = sample("oldest_message_age_seconds", "celery_", **ours)
        wait_until(lambda: now().get(age, 0) >= 3, 20, "it ages")
        length = 'celery_queue_length{queue_name="amqptasks"}'
        wait_until(lambda: now().get(length, 0) >= 3, 20, "the rest")
        assert now()[sample("worker_tasks_active", "celery_")] == 1
        assert now()[sample("active_process_count", "celery_", **ours)] == 1
        assert now()[sample("active_consumer_count", "celery_", **ours)] == 1
        assert not [name for name in now() if not name.startswith("celery_")]
    running.signal(signal.SIGQUIT)
    running.wait()


def test_a_worker_that_is_told_to_stop_is_not_ready_while_its_last_task_runs(
    broker_url: str, worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    running = worker(APP, "-c", "1", "--health-port", "0", broker_url=broker_url)
    probe = Probe(running)
    with App("client", broker=broker_url) as app:
        last = call(app, "held", str(tmp_path / "go"))
        wait_until(lambda: probe.metrics()[sample("worker_tasks_active")] == 1, 20, "it runs")

        running.signal(signal.SIGTERM)

        wait_until(lambda: not probe.ready()[0], 5, "not ready")
        assert probe.ready()[1] == ["the worker is shutting down"]
        assert probe("/livez")[0] == 200
        assert probe.metrics()[sample("worker_tasks_active")] == 1
        (tmp_path / "go").touch()
        assert last.get(timeout=20) == "let go"
    assert running.wait() == 0


def test_a_stopped_process_answers_no_probe(broker_url: str, worker: Callable[..., WorkerProcess]) -> None:
    running = worker(APP, "-c", "1", "--health-port", "0", broker_url=broker_url)
    probe = Probe(running)
    running.signal(signal.SIGSTOP)
    try:
        with pytest.raises(OSError):
            probe("/livez", timeout=1)
    finally:
        running.signal(signal.SIGCONT)

    assert wait_until(lambda: probe("/livez")[0] == 200, 20, "it goes on")


def test_a_port_in_use_is_one_line_and_an_exit_code(
    broker_url: str, worker: Callable[..., WorkerProcess]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = worker(
            APP, "--health-port", str(port), "-n", "refused@%h", broker_url=broker_url, ready=None
        )

        assert refused.wait() == 73

    assert (
        f"error: the health port {port} on 127.0.0.1 cannot be opened: Address already in use"
        in refused.log()
    )
    assert "Traceback" not in refused.log()
    refused.assert_gone()


# --- systemd ---------------------------------------------------------------------------------------------


class Supervisor:
    """The end of NOTIFY_SOCKET that systemd holds.

    A thread takes what comes: the kernel keeps ten messages, and drops what comes while nobody reads them.
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._came: queue.Queue[dict[str, str]] = queue.Queue()
        self.told: list[dict[str, str]] = []
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        while text := self._socket.recv(4096).decode():
            self._came.put(dict(line.split("=", 1) for line in text.splitlines()))

    def hear(self, name: str, timeout: float = 60.0) -> dict[str, str]:
        """Take messages until one has this field; return that. Raises queue.Empty after so long without any."""
        while True:
            fields = self._came.get(timeout=timeout)
            self.told.append(fields)
            if name in fields:
                return fields

    def drain(self) -> None:
        """Take what has come; then nothing does for a second."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._came.get(timeout=1.0)

    def says(self, words: str) -> bool:
        """Take messages until the last status has these words; a message may tell of something else as well."""
        while not any(words in fields.get("STATUS", "") for fields in self.told):
            self.hear("STATUS")
        return True

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RD)
        self._thread.join(10)
        self._socket.close()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    listening = Supervisor(str(tmp_path / "notify"))
    yield listening
    listening.close()


def test_systemd_hears_of_a_worker_from_its_start_to_its_end(
    proxy: Proxy,
    fresh_vhost: str,
    tmp_path: Path,
    supervisor: Supervisor,
    worker: Callable[..., WorkerProcess],
) -> None:
    """Ready only once it consumes; alive while the loop turns, broker or not; HUP is a reload of the same process."""
    (port,) = free_ports(1)
    environment = {
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "1000000",
        "AMQPTASKS_WORKER_HEALTH_PORT": str(port),
    }
    proxy.refuse()
    running = worker(APP, "-c", "1", broker_url=proxy.url(fresh_vhost), env=environment, ready="trying again")
    supervisor.hear("WATCHDOG")
    assert not any("READY" in fields for fields in supervisor.told)
    proxy.accept()
    supervisor.hear("READY")

    proxy.refuse()
    proxy.rst()
    while not supervisor.hear("STATUS")["STATUS"].startswith("not connected"):
        pass
    supervisor.hear("WATCHDOG")
    proxy.accept()
    while "consuming amqptasks" not in supervisor.hear("STATUS")["STATUS"]:
        pass  # what never says so is silent in the end, which is an error

    pid = running.pid
    running.signal(signal.SIGHUP)
    assert int(supervisor.hear("RELOADING")["MONOTONIC_USEC"]) > 0
    supervisor.hear("READY")
    assert running.pid == pid
    assert running.returncode is None
    assert not any("STOPPING" in fields for fields in supervisor.told)
    assert Probe(running).ready() == (True, [])  # on the same port

    running.signal(signal.SIGSTOP)
    try:
        supervisor.drain()
        with pytest.raises(queue.Empty):
            supervisor.hear("WATCHDOG", timeout=1.5)
    finally:
        running.signal(signal.SIGCONT)
    supervisor.hear("WATCHDOG")

    running.signal(signal.SIGTERM)
    supervisor.hear("STOPPING")
    assert running.wait() == 0


def test_systemd_hears_of_a_beat(broker_url: str, tmp_path: Path, supervisor: Supervisor) -> None:
    environment = {
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "400000",
        "AMQPTASKS_BROKER_URL": broker_url,
    }
    command = [sys.executable, "-m", "amqptasks", "-A", APP, "beat", "-l", "INFO"]
    with Process(command, env=environment, log=tmp_path / "beat.log") as beat:
        supervisor.hear("READY")
        supervisor.hear("WATCHDOG")
        assert supervisor.says("leads")
        beat.signal(signal.SIGTERM)
        supervisor.hear("STOPPING")
        assert beat.wait() == 0


# --- containers ------------------------------------------------------------------------------------------


EXAMPLES = ROOT / "examples" / "deploy"


def test_the_examples_environments_and_health_check_work(broker_url: str, tmp_path: Path) -> None:
    """What the units, and the image, would start: only the ports, and the broker's place, are ours."""
    workers = []
    with contextlib.ExitStack() as ending, App("client", broker=broker_url) as app:
        for group in ("short", "long"):
            environment = {
                **variables(EXAMPLES / "systemd" / "proj.env"),
                **variables(EXAMPLES / "systemd" / f"{group}.env"),
                "AMQPTASKS_BROKER_URL": broker_url,
                "AMQPTASKS_WORKER_HEALTH_PORT": "0",
            }
            command = [sys.executable, "-m", "amqptasks", "worker", "-n", f"{group}@example"]
            log, folder = tmp_path / f"{group}.log", EXAMPLES / "docker"
            process = Process(command, ready=" ready", env=environment, cwd=folder, log=log)
            workers.append(ending.enter_context(process))
        sent = app.send_task("proj.tasks.mail", ("a@example.org",), queue="short")
        assert sent.get(timeout=20) == "sent to a@example.org"
        assert app.send_task("proj.tasks.render", (0,), queue="long").get(timeout=20) == 0

        image = (EXAMPLES / "docker" / "Dockerfile").read_text()
        check = json.loads(re.search(r"HEALTHCHECK .*\n\s+CMD (.*)", image)[1])
        check[0], check[2] = (
            sys.executable,
            check[2].replace("http://127.0.0.1:9540", Probe(workers[0]).address),
        )
        assert subprocess.run(check, timeout=20).returncode == 0
        workers[0].signal(signal.SIGTERM)
        workers[0].wait()
        assert subprocess.run(check, timeout=20, capture_output=True).returncode != 0


def variables(path: Path) -> dict[str, str]:
    """Of an environment file."""
    lines = path.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _namespaces() -> bool:
    """Whether this user may have a process 1 of its own."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return (
        shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not _namespaces(), reason="no permission for a pid namespace")
def test_a_worker_is_process_1_of_a_container(broker_url: str, tmp_path: Path) -> None:
    """No shell and no init before it: it takes SIGTERM, finishes, and leaves nothing."""
    command = [
        "unshare", "--pid", "--fork", "--kill-child", "--mount-proc",
        sys.executable, "-m", "amqptasks", "-A", APP, "worker", "-l", "INFO", "-c", "1", "--health-port", "0",
    ]  # fmt: skip
    environment = {"AMQPTASKS_BROKER_URL": broker_url}
    with Process(command, ready=" ready", env=environment, log=tmp_path / "first.log") as outer:
        worker = next(pid for pid in outer.children() if _inner_pid(pid) == 1)
        probe = Probe(outer)
        with App("client", broker=broker_url) as app:
            assert call(app, "add", 2, 3).get(timeout=20) == 5
            with pytest.raises(Exception, match="died"):
                call(app, "die").get(timeout=20)
            last = call(app, "held", str(tmp_path / "go"))
            wait_until(lambda: probe.metrics()[sample("worker_tasks_active")] == 1, 20, "it runs")
            os.kill(worker, signal.SIGTERM)
            outer.wait_log("Warm shutdown")
            (tmp_path / "go").touch()
            assert last.get(timeout=20) == "let go"
        assert outer.wait() == 0


def _inner_pid(pid: int) -> int:
    """The pid that a process has in its own namespace."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^NSpid:.*?(\d+)$", status, re.MULTILINE)
    assert found is not None
    return int(found[1])


# --- log rotation ----------------------------------------------------------------------------------------


def test_a_log_file_that_is_moved_away_is_begun_anew(
    broker_url: str, tmp_path: Path, worker: Callable[..., WorkerProcess]
) -> None:
    """By the parent and by its children, which write into the same file, without a signal or a restart."""
    log = tmp_path / "rotated.log"
    running = worker(APP, "-c", "1", "-f", str(log), "--health-port", "0", broker_url=broker_url, ready=None)
    with App("client", broker=broker_url) as app:
        call(app, "say", "before").get(timeout=60)
        old = log.rename(tmp_path / "rotated.log.1")
        call(app, "say", "after").get(timeout=20)

        wait_until(
            lambda: log.exists() and "after" in log.read_text(), 10, "the child's line in the new file"
        )
        wait_until(lambda: "MainProcess] Task" in log.read_text(), 10, "the parent's line in the new file")
    assert "before" in old.read_text()
    assert "after" not in old.read_text()
    assert running.stop() == 0
