"""UnitService."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from solmu.messages.v1 import units_pb2

from services.messages import profiles, unit_store
from services.messages.servicers import names
from services.runtime import identity, pages
from services.runtime.database import Database, Row
from services.runtime.errors import Aborted, AlreadyExists, InvalidArgument
from services.runtime.parties import PartyNames

CHANGEABLE = frozenset({"display_names", "accepts_new_messages", "retention", "legal_profile"})


class Units:
    """Keeps the units that send and receive messages."""

    def __init__(self, *, database: Database, parties: PartyNames) -> None:
        self._database = database
        self._parties = parties

    async def CreateUnit(self, request: units_pb2.CreateUnitRequest) -> units_pb2.Unit:
        """Makes a unit for the caller's organisation, or for the owner named."""
        unit = request.unit
        organisation = identity.caller().party
        if unit.HasField("owner"):
            organisation = self._parties.name_of(unit.owner, field="unit.owner")
        if not organisation.startswith("organisations/"):
            raise InvalidArgument(
                "FIELD_INVALID", "a unit belongs to an organisation", violations=[("unit.owner", "is a person")]
            )
        row = await unit_store.insert_unit(
            self._database,
            {
                "unit_id": request.unit_id,
                "organisation": organisation,
                "display_names": _pack(unit),
                "accepts_new_messages": unit.accepts_new_messages,
                "retention": _retention(unit),
                "legal_profile": _legal_profile(unit),
                "create_time": names.now(),
            },
        )
        if row is None:
            raise AlreadyExists("RESOURCE_EXISTS", "there is a unit of this name", resource=f"units/{request.unit_id}")
        return _unit(row)

    async def GetUnit(self, request: units_pb2.GetUnitRequest) -> units_pb2.Unit:
        """A unit of the caller's organisation."""
        return _unit(await names.own_unit(self._database, names.part(request.name, 1)))

    async def ListUnits(self, request: units_pb2.ListUnitsRequest) -> units_pb2.ListUnitsResponse:
        """The units of the caller's organisation, by name."""
        organisation = identity.caller().party
        size = pages.size(request.page_size)
        after = pages.key(request.page_token, question=organisation)
        rows = await unit_store.units_of(self._database, organisation, after=after, limit=size + 1)
        response = units_pb2.ListUnitsResponse(units=[_unit(row) for row in rows[:size]])
        if len(rows) > size:
            response.next_page_token = pages.token(rows[size - 1]["unit_id"], question=organisation)
        return response

    async def UpdateUnit(self, request: units_pb2.UpdateUnitRequest) -> units_pb2.Unit:
        """Changes what may change of a unit of the caller's organisation."""
        paths = set(request.update_mask.paths) or CHANGEABLE
        if unknown := paths - CHANGEABLE:
            violations = [("update_mask", f"{path} cannot be changed") for path in sorted(unknown)]
            raise InvalidArgument("FIELD_INVALID", "some fields cannot be changed", violations=violations)
        unit_id = names.part(request.unit.name, 1) if request.unit.name.count("/") == 1 else ""
        row = await names.own_unit(self._database, unit_id)
        unit = _unit(row)
        if request.unit.etag and request.unit.etag != unit.etag:
            raise _changed_meanwhile()
        for path in paths:
            unit.ClearField(path)  # type: ignore[arg-type]  # one of CHANGEABLE
        change = units_pb2.Unit()
        for path in paths:
            if path == "display_names":
                change.display_names.extend(request.unit.display_names)
            elif path == "retention" and request.unit.HasField("retention"):
                change.retention.CopyFrom(request.unit.retention)
            elif path in ("accepts_new_messages", "legal_profile"):
                setattr(change, path, getattr(request.unit, path))
        unit.MergeFrom(change)
        updated = await unit_store.update_unit(
            self._database,
            unit_id,
            version=row["version"],
            display_names=_pack(unit),
            accepts_new_messages=unit.accepts_new_messages,
            retention=_retention(unit),
            legal_profile=_legal_profile(unit),
        )
        if updated is None:
            raise _changed_meanwhile()
        return _unit(updated)


def display_names(packed: bytes) -> units_pb2.Unit:
    """A unit that holds the display names of a row and nothing else."""
    return units_pb2.Unit.FromString(packed)


def display_name(packed: bytes, *, language: str) -> str:
    """What residents see as the sender, in that language where there is one."""
    known = display_names(packed).display_names
    return next((name.text for name in known if name.language == language), known[0].text)


def _pack(unit: units_pb2.Unit) -> bytes:
    return units_pb2.Unit(display_names=unit.display_names).SerializeToString()


def _retention(unit: units_pb2.Unit) -> timedelta | None:
    return unit.retention.ToTimedelta() if unit.HasField("retention") else None


def _legal_profile(unit: units_pb2.Unit) -> str:
    profile = unit.legal_profile or profiles.DEFAULT
    if profile not in profiles.PROFILES:
        raise InvalidArgument("LEGAL_PROFILE_UNKNOWN", f"there is no legal profile {profile}")
    return profile


def _unit(row: Row) -> units_pb2.Unit:
    unit = units_pb2.Unit(
        name=f"units/{row['unit_id']}",
        display_names=display_names(row["display_names"]).display_names,
        organisation=row["organisation"],
        accepts_new_messages=row["accepts_new_messages"],
        legal_profile=row["legal_profile"],
        create_time=names.timestamp(row["create_time"]),
        etag=str(row["version"]),
    )
    if row["retention"] is not None:
        retention = Duration()
        retention.FromTimedelta(row["retention"])
        unit.retention.CopyFrom(retention)
    return unit


def _changed_meanwhile() -> Aborted:
    return Aborted("ETAG_MISMATCH", "somebody else changed the unit first; read it again")
