"""What journeys of mandates share: a theme, a register's keeper, questions, and tokens on another's behalf."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
from solmu.authorisations.v1 import checks_pb2, mandates_pb2, registers_pb2, themes_pb2
from solmu.authorisations.v1.checks_pb2_grpc import CheckServiceStub
from solmu.authorisations.v1.parties_pb2 import Party
from solmu.authorisations.v1.register_records_pb2 import RegisterRecord
from solmu.authorisations.v1.registers_pb2_grpc import RegisterServiceStub
from solmu.authorisations.v1.themes_pb2_grpc import ThemeServiceStub
from solmu.types.v1.types_pb2 import LocalizedText, NationalIdentifier

from gateway.client import AlreadyExists, Client
from tests.integration.node.callers import Caller

HELSINKI = ZoneInfo("Europe/Helsinki")
ALLOWED, DENIED = checks_pb2.DECISION_ALLOWED, checks_pb2.DECISION_DENIED
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


def known_as(code: NationalIdentifier) -> Party:
    """A party by its identity code, as information systems know it."""
    return Party(identifier=code)


async def make_theme(office: Client, *, name: str = "", **fields: Any) -> str:
    """A theme in use, for mandates to act and to represent."""
    stub = office.stub(ThemeServiceStub)
    kinds = (mandates_pb2.Mandate.KIND_ACT, mandates_pb2.Mandate.KIND_REPRESENT)
    theme = themes_pb2.Theme(
        titles=[LocalizedText(language="en", text="Benefits"), LocalizedText(language="fi", text="Etuudet")],
        longest_terms=[themes_pb2.Theme.LongestTerm(kind=kind, months=24) for kind in kinds],
        **fields,
    )
    theme_id = name.removeprefix("themes/") or f"journey-{uuid.uuid4().hex[:12]}"
    request = themes_pb2.CreateThemeRequest(theme_id=theme_id, theme=theme)
    made = await office.call(stub.CreateTheme, request, attempts=5)
    await office.call(stub.ActivateTheme, themes_pb2.ActivateThemeRequest(name=made.name, etag=made.etag))
    return str(made.name)


MAIL = "themes/mail"
"""The theme of mandates for mail, as nodes have it unless their settings say otherwise."""


async def mail_theme(office: Client) -> None:
    """Makes the theme of mandates for mail, unless another test on the same node has."""
    rule = themes_pb2.Theme.SpecifierRule(
        pattern="units/[a-z0-9-]{3,63}", titles=[LocalizedText(language="en", text="The unit")]
    )
    rights = [themes_pb2.Theme.RegisterRight(role="custodian", until_age=15)]
    try:
        await make_theme(office, name=MAIL, specifier_rule=rule, register_rights=rights)
    except AlreadyExists as fault:
        assert fault.reason == "RESOURCE_EXISTS"


class Keeper:
    """A register's keeper: its information system imports what the register says."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stub = client.stub(RegisterServiceStub)
        self.register = ""

    async def open(self, *contents: str) -> None:
        """Makes the register known."""
        register = registers_pb2.Register(
            display_name="Register", contents=contents, importer=f"clients/{self._client.profile.client_id}"
        )
        request = registers_pb2.CreateRegisterRequest(register_id=f"journey-{uuid.uuid4().hex[:12]}", register=register)
        self.register = (await self._client.call(self._stub.CreateRegister, request, attempts=5)).name

    async def says(self, *records: RegisterRecord) -> registers_pb2.Import:
        """Imports a snapshot."""
        kind = registers_pb2.ImportRecordsRequest
        header = kind.Header(
            register=self.register, mode=registers_pb2.Import.MODE_SNAPSHOT, request_id=str(uuid.uuid4())
        )
        header.as_of.FromDatetime(datetime.now(UTC))

        async def stream() -> AsyncIterator[registers_pb2.ImportRecordsRequest]:
            yield kind(header=header)
            if records:
                yield kind(batch=kind.Batch(records=records))
            yield kind(trailer=kind.Trailer(record_count=len(records)))

        return await self._stub.ImportRecords(stream(), metadata=await self._client.metadata(), timeout=15)


async def check(
    office: Client, theme: str, delegate: NationalIdentifier, principal: NationalIdentifier, **fields: Any
) -> checks_pb2.CheckResponse:
    """An office asks whether one may act for another."""
    request = checks_pb2.CheckRequest(delegate=known_as(delegate), principal=known_as(principal), theme=theme, **fields)
    return await office.call(office.stub(CheckServiceStub).Check, request)


async def on_behalf(client: Client, *, principal: str, theme: str) -> tuple[int, dict[str, Any]]:
    """Asks for a token with which the client's party acts for another (RFC 8693)."""
    wanted = {"type": "mandate", "principal": principal, "theme": theme}
    return await form(
        client,
        "/oauth2/token",
        grant_type=EXCHANGE,
        subject_token=await client.token(),
        subject_token_type=ACCESS_TOKEN,
        authorization_details=json.dumps([wanted]),
    )


async def form(client: Client, path: str, **parameters: str) -> tuple[int, dict[str, Any]]:
    """Status and document of a call to an OAuth endpoint."""
    data = {"client_id": client.profile.client_id, **parameters}
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=Caller.context(client.profile.files))) as session,
        session.post(client.profile.edge + path, data=data) as answer,
    ):
        document: dict[str, Any] = await answer.json()
        return answer.status, document
