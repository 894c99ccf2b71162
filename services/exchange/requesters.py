"""In whose name the exchange is called (`Requester` in identifiers.proto)."""

from __future__ import annotations

from datetime import UTC, datetime

from solmu.exchange.v1.identifiers_pb2 import Requester

from services.exchange import names
from services.exchange.configuration import Configuration
from services.exchange.meshes import Meshes
from services.runtime import identity, mesh
from services.runtime.errors import Fault, InvalidArgument, PermissionDenied


class Requesters:
    """Holds callers against the consumers of this node's subsystems."""

    def __init__(self, *, configuration: Configuration, meshes: Meshes) -> None:
        self._configuration = configuration
        self._meshes = meshes

    def seen(self, requester: Requester) -> list[str]:
        """The subsystems in whose name the caller asks, spelt with "/": the one that it names, else all of its own.

        Raises InvalidArgument, REQUESTER_INVALID, and PermissionDenied,
        CONSUMER_NOT_REGISTERED.
        """
        own = self._own(requester)
        named = names.identifier(requester.subsystem, 4) if requester.subsystem else ""
        if not own or (named and named not in own):
            raise _not_registered(requester.subsystem)
        return [named] if named else own

    def one(self, requester: Requester) -> str:
        """The one subsystem in whose name the caller calls. Raises as `seen`."""
        subsystem, *others = self.seen(requester)
        if others:
            raise InvalidArgument("REQUESTER_INVALID", "name the subsystem in whose name this is asked")
        return subsystem

    def of(self, parent: str) -> str:
        """The caller's own subsystem that a resource name begins with; `subsystems/-` stands for its only one."""
        name = "/".join(parent.split("/")[:2])
        return self.one(Requester(subsystem="" if name == "subsystems/-" else name))

    def _own(self, requester: Requester) -> list[str]:
        caller = identity.caller()
        hostings = self._configuration.current.hostings
        if requester.certificate_sha256 and caller.service != mesh.GATEWAY:
            raise InvalidArgument("REQUESTER_INVALID", "only the gateway names a client's certificate")
        if caller.client:
            return [subsystem for subsystem, hosting in hostings.items() if hosting.takes_client(caller.client)]
        if caller.service == mesh.GATEWAY:
            if not requester.certificate_sha256 or not requester.subsystem:
                raise InvalidArgument("REQUESTER_INVALID", "the gateway names a subsystem and a certificate")
            now = datetime.now(UTC)
            sha256 = requester.certificate_sha256
            return [subsystem for subsystem, hosting in hostings.items() if hosting.takes_certificate(sha256, now=now)]
        return [names.own_subsystem(self._meshes.node)] if self._meshes.joined else []


def _not_registered(subsystem: str) -> Fault:
    return PermissionDenied(
        "CONSUMER_NOT_REGISTERED", "the caller is not among the consumers of the subsystem", subsystem=subsystem
    )
