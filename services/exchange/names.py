"""Identifiers in their three spellings (identifiers.proto): as messages, with "/", and in resource names.

Within the service an identifier is a string spelt with "/", as in statements:
"FI/GOV/0245437-2/letters". Its parts are encoded alike in resource names, where
"~" stands for "/".
"""

from __future__ import annotations

from solmu.exchange.v1.identifiers_pb2 import MemberId, NodeId, ServiceId, SubsystemId

from services.exchange.evidence import identifiers

RESERVED = "solmu"
"""The subsystem in which a node's own services stand."""


def own_subsystem(identifier: str) -> str:
    """The subsystem of a node's own services, from the identifier of the node or of something of its member."""
    return f"{member_of(identifier)}/{RESERVED}"


def reserved(identifier: str) -> bool:
    """Whether something is of a subsystem in which a node's own services stand."""
    return identifier.split("/")[3] == RESERVED


def member(value: MemberId) -> str:
    """A member's identifier. Raises InvalidArgument, NAME_INVALID, as all of these."""
    return identifiers.join((value.instance, value.member_class, value.member_code))


def subsystem(value: SubsystemId) -> str:
    """A subsystem's identifier."""
    return f"{member(value.member)}/{identifiers.encode(value.subsystem_code)}"


def node(value: NodeId) -> str:
    """A node's identifier."""
    return f"{member(value.owner)}/{identifiers.encode(value.node_code)}"


def member_id(identifier: str) -> MemberId:
    """The message of an identifier, as all of these."""
    instance, member_class, member_code = identifiers.split(identifier, 3)
    return MemberId(instance=instance, member_class=member_class, member_code=member_code)


def subsystem_id(identifier: str) -> SubsystemId:
    """Of a subsystem."""
    owner, _, code = identifier.rpartition("/")
    return SubsystemId(member=member_id(owner), subsystem_code=identifiers.decode(code))


def node_id(identifier: str) -> NodeId:
    """Of a node."""
    owner, _, code = identifier.rpartition("/")
    return NodeId(owner=member_id(owner), node_code=identifiers.decode(code))


def service_id(identifier: str) -> ServiceId:
    """Of a service, with a version or without."""
    parts = identifiers.split(identifier, 5, 6)
    return ServiceId(
        subsystem=subsystem_id(subsystem_of(identifier)),
        service_code=parts[4],
        service_version=parts[5] if len(parts) > 5 else "",
    )


def resource(collection: str, identifier: str) -> str:
    """A resource name: "subsystems/FI~GOV~0245437-2~letters". Empty for no identifier."""
    return f"{collection}/{identifier.replace('/', '~')}" if identifier else ""


def identifier(name: str, *counts: int) -> str:
    """The identifier in the second segment of a resource name; it has one of these counts of parts."""
    found = name.split("/")[1].replace("~", "/")
    identifiers.split(found, *counts)
    return found


def service_resource(identifier: str) -> str:
    """The resource name of a service."""
    code = identifier[len(subsystem_of(identifier)) + 1 :]
    return f"{resource('subsystems', subsystem_of(identifier))}/services/{code.replace('/', '~')}"


def service(name: str) -> str:
    """The identifier of a service, from its resource name or that of something below it."""
    parts = name.split("/")
    found = f"{parts[1]}~{parts[3]}".replace("~", "/")
    identifiers.split(found, 5, 6)
    return found


def subsystem_of(identifier: str) -> str:
    """The subsystem that an identifier of a service begins with."""
    return "/".join(identifier.split("/")[:4])


def member_of(identifier: str) -> str:
    """The member that an identifier of a subsystem, service or node begins with."""
    return "/".join(identifier.split("/")[:3])


def instance_of(identifier: str) -> str:
    """The mesh of an identifier, as it is: not encoded."""
    return identifiers.decode(identifier.partition("/")[0])
