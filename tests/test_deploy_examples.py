"""The deployment examples: every command is one that the program takes, every name that one file uses is in another.

Nothing is deployed here: there is no container engine and no cluster. Units, rotation and manifests are also given to
systemd-analyze, logrotate and kubectl, where these are installed.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from amqptasks import App
from amqptasks.cli.main import COMMANDS, program
from amqptasks.settings import NAMES
from amqptasks.testing import running_worker
from amqptasks.waiting import home
from tests.support.pages import ROOT, TYPED, blocks, commands
from tests.test_docs import parse

DEPLOY = ROOT / "examples" / "deploy"
SYSTEMD, DOCKER, KUBERNETES = DEPLOY / "systemd", DEPLOY / "docker", DEPLOY / "kubernetes"
UNITS = sorted(SYSTEMD.glob("*.service"))
PAGE = "docs/guide/deployment.md"
PROGRAM = "/srv/proj/.venv/bin/amqptasks"
HEALTH_PORT = "9540"


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """The examples' application, on a broker in memory."""
    monkeypatch.setattr(home, "app", None)
    monkeypatch.setenv("AMQPTASKS_BROKER_URL", "memory://deployed")
    monkeypatch.syspath_prepend(str(DOCKER))
    import proj.tasks

    yield proj.tasks.app
    proj.tasks.app.close()
    for name in ("proj.tasks", "proj"):
        del sys.modules[name]


def environment(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def check_variable(name: str, value: str) -> None:
    """Raise AssertionError unless the program reads it, and can read that value."""
    what = name.removeprefix("AMQPTASKS_").lower()
    assert name.startswith("AMQPTASKS_"), name
    command, _, option = what.partition("_")
    if what == "app" or what in NAMES:
        return
    assert command in COMMANDS, f"{name}: neither a setting nor an option"
    known = program.get_command(None, command)  # type: ignore[arg-type]
    parameter = next((each for each in known.params if each.name == option), None)
    assert parameter is not None, f"{name}: `amqptasks {command}` has no such option"
    parse(["-A", "proj", command, max(parameter.opts, key=len), value])


# --- the page --------------------------------------------------------------------------------------------


def told(program: str) -> list[list[str]]:
    """What the page's reader types for this program, as words without the program."""
    typed = [each for block in blocks(PAGE) if block.language == TYPED for each in commands(block)]
    return [words[1:] for words in (shlex.split(each.words) for each in typed) if words[0] == program]


def test_what_the_page_tells_systemctl_docker_and_kubectl_is_there() -> None:
    """The first is also done, by integration/test_deployment_guide.py; of the others there is none on a test's machine."""
    units = {path.name.removesuffix(".service") for path in UNITS}
    named = [word for words in told("systemctl") for word in words[1:] if not word.startswith("-")]
    assert {re.sub("@.*", "@", name) for name in named} == units

    composed = [words[1:] for words in told("docker") if words[0] == "compose"]
    assert [words[0] for words in composed] == ["up", "ps", "logs"]
    assert composed[2][-1] in compose()["services"]

    apply, rollout = told("kubectl")
    assert apply[:2] == ["apply", "-k"]
    assert (ROOT / apply[2]) == KUBERNETES
    kind, _, name = rollout[2].partition("/")
    assert rollout[:2] == ["rollout", "status"]
    assert name in of_kind(kind.capitalize())


def test_every_command_of_the_page_is_known_to_some_test() -> None:
    """Those of ours, and curl, are typed by integration/test_deployment_guide.py."""
    programs = {
        shlex.split(each.words)[0]
        for block in blocks(PAGE)
        if block.language == TYPED
        for each in commands(block)
    }

    assert programs == {"amqptasks", "curl", "systemctl", "docker", "kubectl"}


# --- systemd ---------------------------------------------------------------------------------------------

DIRECTIVES = {
    "Unit": "Description Wants After StartLimitIntervalSec",
    "Service": "Type NotifyAccess User Group WorkingDirectory EnvironmentFile ExecStart ExecReload TimeoutStartSec "
    "KillMode TimeoutStopSec WatchdogSec Restart RestartSec RestartPreventExitStatus NoNewPrivileges "
    "CapabilityBoundingSet PrivateTmp PrivateDevices ProtectSystem ProtectHome ProtectClock ProtectHostname "
    "ProtectKernelLogs ProtectKernelModules ProtectKernelTunables ProtectControlGroups RestrictAddressFamilies "
    "RestrictNamespaces RestrictRealtime RestrictSUIDSGID LockPersonality SystemCallArchitectures UMask "
    "StateDirectory",
    "Install": "WantedBy",
}
"""What systemd.unit(5), systemd.service(5) and systemd.exec(5) of systemd 247 have, as far as it is used."""


def unit(path: Path) -> dict[str, list[tuple[str, str]]]:
    sections: dict[str, list[tuple[str, str]]] = {}
    for line in path.read_text().splitlines():
        if found := re.fullmatch(r"\[(\w+)\]", line):
            here = sections.setdefault(found[1], [])
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            here.append((name, value))
    return sections


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_has_directives_that_systemd_knows(path: Path) -> None:
    sections = unit(path)

    for section, directives in sections.items():
        assert {name for name, _ in directives} <= set(DIRECTIVES[section].split())
    service = dict(sections["Service"])
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) > 0
    assert int(service["TimeoutStopSec"]) > int(service["RestartSec"])


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_of_ours(path: Path) -> None:
    words = shlex.split(dict(unit(path)["Service"])["ExecStart"].replace("%i", "short").replace("%H", "here"))

    assert words[0] == PROGRAM
    parse(["-A", "proj", *words[1:]])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for path in UNITS:  # the program is not installed where they say
        (tmp_path / path.name).write_text(path.read_text().replace(PROGRAM, sys.executable))

    names = [path.name.replace("@.", "@short.") for path in UNITS]
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in names)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert (ran.returncode, [line for line in ran.stderr.splitlines() if "amqptasks" in line]) == (0, [])


@pytest.mark.parametrize("path", sorted(SYSTEMD.glob("*.env")), ids=lambda path: path.name)
def test_every_variable_of_an_environment_file_is_read(path: Path) -> None:
    for name, value in environment(path).items():
        check_variable(name, value)


def test_each_group_of_workers_has_a_port_and_queues_of_its_own(app: App) -> None:
    groups = [environment(SYSTEMD / f"{group}.env") for group in ("short", "long")]

    assert len({group["AMQPTASKS_WORKER_HEALTH_PORT"] for group in groups}) == 2
    assert {group["AMQPTASKS_WORKER_QUEUES"] for group in groups} == {"short", "long"}


# --- rotation --------------------------------------------------------------------------------------------


def test_rotation_sends_no_signal() -> None:
    """The log is watched by who writes it, and HUP would start the worker anew."""
    directives = (DEPLOY / "logrotate" / "amqptasks").read_text()

    for word in ("postrotate", "copytruncate", "kill", "create "):
        assert not re.search(rf"^\s*{word}", directives, re.MULTILINE)


@pytest.mark.skipif(shutil.which("logrotate") is None, reason="no logrotate")
def test_logrotate_takes_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "w1.log").write_text("a line\n")
    configuration = tmp_path / "logrotate.conf"
    text = (DEPLOY / "logrotate" / "amqptasks").read_text().replace("/var/log/amqptasks", str(tmp_path))
    configuration.write_text(text)
    configuration.chmod(0o644)
    command = ["logrotate", "-f", "-s", str(tmp_path / "state"), str(configuration)]

    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "w1.log.1").read_text() == "a line\n"
    assert not (tmp_path / "w1.log").exists()


# --- containers ------------------------------------------------------------------------------------------

INSTRUCTIONS = [
    "FROM",
    "RUN",
    "COPY",
    "WORKDIR",
    "ENV",
    "USER",
    "EXPOSE",
    "STOPSIGNAL",
    "HEALTHCHECK",
    "ENTRYPOINT",
    "CMD",
]


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines if line]


def test_the_image_runs_a_worker_as_a_user_and_as_process_1() -> None:
    made = instructions()
    last = dict(made)

    assert {name for name, _ in made} <= set(INSTRUCTIONS)
    assert made[0][0] == "FROM"
    assert all(re.fullmatch(r"[\w./-]+:[\w.-]+( AS \w+)?", image) for name, image in made if name == "FROM")
    assert not last["USER"].startswith(("0", "root"))
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(last["ENTRYPOINT"]) == ["amqptasks"]  # no shell before it, which would keep the signals
    parse(json.loads(last["CMD"]))


def test_the_image_knows_its_health() -> None:
    last = dict(instructions())
    variables = dict(word.split("=", 1) for word in shlex.split(last["ENV"]))
    check = json.loads(last["HEALTHCHECK"].partition(" CMD ")[2])

    for name, value in variables.items():
        if name.startswith("AMQPTASKS_"):
            check_variable(name, value)
    assert last["EXPOSE"] == variables["AMQPTASKS_WORKER_HEALTH_PORT"] == HEALTH_PORT
    assert check[:2] == ["python", "-c"]
    compile(check[2], "HEALTHCHECK", "exec")
    assert f"127.0.0.1:{HEALTH_PORT}/readyz" in check[2]


def test_what_the_image_copies_is_there() -> None:
    for name, words in instructions():
        if name == "COPY" and not words.startswith("--from"):
            assert (DOCKER / words.split()[0]).exists(), words


SERVICE_KEYS = {
    "build",
    "image",
    "command",
    "environment",
    "depends_on",
    "restart",
    "init",
    "read_only",
    "tmpfs",
    "cap_drop",
    "secrets",
    "security_opt",
    "hostname",
    "ports",
    "volumes",
    "healthcheck",
    "stop_grace_period",
    "deploy",
}
"""Of the Compose Specification, those that are used."""
HEALTHCHECK_KEYS = {"test", "interval", "timeout", "retries", "start_period", "disable"}


def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return read


def test_compose_is_made_of_what_compose_knows() -> None:
    read = compose()

    assert {key for key in read if not key.startswith("x-")} == {"name", "services", "secrets", "volumes"}
    for name, service in read["services"].items():
        assert set(service) <= SERVICE_KEYS, name
        assert "image" in service or "build" in service
        assert set(service.get("depends_on", ())) <= set(read["services"])
        assert set(service.get("healthcheck", {})) <= HEALTHCHECK_KEYS
        for volume in service.get("volumes", ()):
            assert volume.partition(":")[0] in read["volumes"]
        assert set(service.get("secrets", ())) <= set(read["secrets"])
        for wanted in service.get("depends_on", {}).values():
            assert wanted["condition"] == "service_healthy"


def test_compose_starts_commands_of_ours_for_every_queue(app: App) -> None:
    services = compose()["services"]
    ours = {name: service for name, service in services.items() if service.get("image") == "proj"}
    queues = set()
    for service in ours.values():
        parse(["-A", "proj", *service["command"]])
        for name, value in service["environment"].items():
            check_variable(name, value)
        if "-Q" in service["command"]:
            queues.add(service["command"][service["command"].index("-Q") + 1])

    assert services["rabbitmq"]["healthcheck"]["test"] == ["CMD", "rabbitmq-diagnostics", "-q", "ping"]
    assert queues == {app.conf.task_default_queue, "long"}
    assert {service["command"][0] for service in ours.values()} == {"worker", "beat", "dashboard"}


def test_the_examples_tasks_run(app: App) -> None:
    with running_worker(app, queues=["short", "long"]):
        assert app.tasks["proj.tasks.mail"].delay("a@example.org").get(timeout=60) == "sent to a@example.org"
        assert app.tasks["proj.tasks.render"].delay(0).get(timeout=60) == 0


# --- Kubernetes ------------------------------------------------------------------------------------------


def manifests() -> list[dict[str, Any]]:
    index = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    listed = {KUBERNETES / name for name in index["resources"]}
    assert listed == set(KUBERNETES.glob("*.yaml")) - {KUBERNETES / "kustomization.yaml"}
    return [one for path in sorted(listed) for one in yaml.safe_load_all(path.read_text())]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in manifests() if one["kind"] == kind}


def test_every_manifest_names_what_it_is() -> None:
    kinds = {(one["apiVersion"], one["kind"]) for one in manifests()}

    assert kinds == {
        ("v1", "Namespace"), ("v1", "Secret"), ("apps/v1", "Deployment"), ("policy/v1", "PodDisruptionBudget"),
        ("keda.sh/v1alpha1", "ScaledObject"), ("keda.sh/v1alpha1", "TriggerAuthentication"),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["worker-long", "beat"])
def test_a_deployment_runs_a_command_of_ours_and_no_root(name: str) -> None:
    deployment = of_kind("Deployment")[name]
    template = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]

    parse(["-A", "proj", *container["args"]])
    for variable in container.get("env", ()):
        check_variable(variable["name"], variable["value"])
    secrets = of_kind("Secret")
    for source in container["envFrom"]:
        held = secrets[source["secretRef"]["name"]]["stringData"]
        check_variable("AMQPTASKS_BROKER_URL", held["AMQPTASKS_BROKER_URL"])
    assert deployment["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    volumes = {volume["name"] for volume in template["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_the_probes_ask_where_the_worker_answers(app: App) -> None:
    deployment = of_kind("Deployment")["worker-long"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    paths = {
        kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")
    }

    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    assert {container[f"{kind}Probe"]["httpGet"]["port"] for kind in paths} == {"health"}
    assert str(ports["health"]) == variables["AMQPTASKS_WORKER_HEALTH_PORT"] == HEALTH_PORT
    assert variables["AMQPTASKS_WORKER_HEALTH_HOST"] == "0.0.0.0"
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == HEALTH_PORT
    assert pod["terminationGracePeriodSeconds"] > app.conf.worker_soft_shutdown_timeout


def test_what_scales_is_the_workers_queue(app: App) -> None:
    scaled = of_kind("ScaledObject")["worker-long"]["spec"]
    (container,) = of_kind("Deployment")[scaled["scaleTargetRef"]["name"]]["spec"]["template"]["spec"][
        "containers"
    ]
    (trigger,) = scaled["triggers"]
    words = container["args"]
    authentication = of_kind("TriggerAuthentication")[trigger["authenticationRef"]["name"]]["spec"]
    (host,) = authentication["secretTargetRef"]

    assert trigger["type"] == "rabbitmq"
    assert trigger["metadata"]["queueName"] == words[words.index("-Q") + 1]
    assert trigger["metadata"]["mode"] == "QueueLength"
    assert trigger["metadata"]["value"] == words[words.index("-c") + 1]
    assert trigger["metadata"]["excludeUnacknowledged"] == "false"
    assert app.tasks["proj.tasks.render"].acks_late  # which is why
    assert host["parameter"] == "host"
    url = of_kind("Secret")[host["name"]]["stringData"][host["key"]]
    assert url.startswith(f"{trigger['metadata']['protocol']}://")


def test_the_budget_is_the_workers() -> None:
    budget = of_kind("PodDisruptionBudget")["worker-long"]["spec"]
    labels = of_kind("Deployment")["worker-long"]["spec"]["template"]["metadata"]["labels"]

    assert budget["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
def test_kubectl_can_put_the_manifests_together() -> None:
    command = ["kubectl", "kustomize", str(KUBERNETES)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert ran.returncode == 0, ran.stderr
    assert len(list(yaml.safe_load_all(ran.stdout))) == len(manifests())
