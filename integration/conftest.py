"""One private RabbitMQ for the run, one vhost for a module."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from broker import CURE, PrivateNode, free_ports, install, sweep  # noqa: E402  the path comes first

from integration.support import CeleryWorker, Proxy, WorkerProcess  # noqa: E402
from tests.support import machine  # noqa: E402

machine.forget()

P = TypeVar("P", WorkerProcess, CeleryWorker)
_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    """On CI what is missing is installed before the first test, whose time is bounded, and once for all processes."""
    if os.environ.get("CI") and not hasattr(config, "workerinput"):
        from integration.support import browser, stores  # an import that other runs need not pay

        for kind in (stores.Redis, stores.PostgreSQL, stores.MariaDB):
            kind.missing()
        browser.missing()


@pytest.fixture(scope="session")
def node() -> Iterator[PrivateNode]:
    """A broker of this run's own: tests may kill it, and leave it running."""
    sweep()
    if not install():
        pytest.exit(CURE, returncode=69)
    with PrivateNode() as private:
        yield private


@pytest.fixture(scope="module")
def vhost(node: PrivateNode, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty vhost for the module."""
    name = f"{Path(request.path).stem}-{next(_numbers)}"
    node.start()  # a test before may have left it dead
    node.add_vhost(name)
    yield name
    node.start()
    node.delete_vhost(name)


@pytest.fixture(scope="module")
def broker_url(node: PrivateNode, vhost: str) -> str:
    return node.url(vhost)


@pytest.fixture
def fresh_vhost(node: PrivateNode) -> Iterator[str]:
    """An empty vhost for one test."""
    name = f"test-{next(_numbers)}"
    node.start()
    node.add_vhost(name)
    yield name
    node.start()
    node.delete_vhost(name)


@pytest.fixture
def fresh_url(node: PrivateNode, fresh_vhost: str) -> str:
    return node.url(fresh_vhost)


@pytest.fixture
def effects(tmp_path: Path) -> Path:
    """A file that tasks leave lines in; there is none yet."""
    return tmp_path / "effects"


@pytest.fixture(scope="session")
def managed() -> Iterator[tuple[PrivateNode, str]]:
    """A second broker, with the management plugin, and the URL of its API; it counts anew every second."""
    sweep()
    if not install():
        pytest.exit(CURE, returncode=69)
    (port,) = free_ports(1)
    listener: dict[str, str | int] = {"management.tcp.ip": PrivateNode.host, "management.tcp.port": port}
    config = listener | {"collect_statistics_interval": 1000}
    with PrivateNode(plugins=("rabbitmq_management",), config=config) as private:
        yield private, f"http://guest:guest@{PrivateNode.host}:{port}/api/"


@pytest.fixture(scope="session")
def tls_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PrivateNode, int, Path]]:
    """A node with a TLS port, that port, and its certificate for `localhost`, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "2"]
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        key,
        "-out",
        certificate,
        *subject,
    ]
    subprocess.run(made, check=True, capture_output=True)
    [port] = free_ports(1)
    options: dict[str, str | int] = {
        "listeners.ssl.default": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": str(certificate),
        "ssl_options.certfile": str(certificate),
        "ssl_options.keyfile": str(key),
    }
    with PrivateNode(config=options) as node:
        yield node, port, certificate


@pytest.fixture
def proxy(node: PrivateNode) -> Iterator[Proxy]:
    """A proxy before the node; `proxy.url(vhost)`."""
    with Proxy(node.port) as between:
        yield between


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium (Playwright's `Browser`); see `support.browser.tab`."""
    from integration.support import browser as chromium  # only the modules with pages pay for its import

    yield from chromium.started()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """`worker("app", "-c", "2", broker_url=...)`: a started worker, ended with the test."""
    yield from _started(WorkerProcess, tmp_path)


@pytest.fixture
def celery_worker(tmp_path: Path) -> Iterator[Callable[..., CeleryWorker]]:
    """As `worker`, by Celery."""
    yield from _started(CeleryWorker, tmp_path)


def _started(kind: type[P], folder: Path) -> Iterator[Callable[..., P]]:
    processes: list[P] = []

    def start(app: str, *arguments: str, **options: Any) -> P:
        log = folder / f"{kind.__name__.lower()}-{len(processes)}.log"
        processes.append(kind(app, *arguments, log=log, **options))
        return processes[-1].start()

    yield start
    for process in processes:
        process.end()
