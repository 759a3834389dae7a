"""A second private RabbitMQ that joins a first one: for what depends on which node a queue lives on."""

from __future__ import annotations

from broker import PrivateNode, free_ports


class Partner(PrivateNode):
    """A node in the cluster of `first`, which runs before it starts and longer than it: they share its epmd."""

    def __init__(self, first: PrivateNode) -> None:
        super().__init__(
            f"{first.folder.name}-partner",
            folder=first.folder.parent,
            config={
                "cluster_formation.peer_discovery_backend": "classic_config",
                "cluster_formation.classic_config.nodes.1": "amqptasks@localhost",
                "cluster_formation.classic_config.nodes.2": "partner@localhost",
            },
        )
        self._ports = [*free_ports(2), first._ports[2]]
        self._cookie = first._cookie

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"RABBITMQ_NODENAME": "partner@localhost"}
