"""Parties, themes and mandates for tests of the authorisations service."""

import itertools
import uuid
from typing import Any

from solmu.authorisations.v1 import mandates_pb2, themes_pb2
from solmu.authorisations.v1.mandate_service_pb2 import CreateMandateRequest
from solmu.authorisations.v1.parties_pb2 import Party, ValidityPeriod
from solmu.types.v1.types_pb2 import LocalizedText

from tests.integration.authorisations.service import Service, calls_as

CITY = "organisations/" + "c" * 26
ACT, REPRESENT, ISSUE, ISSUE_REPRESENT = (
    mandates_pb2.Mandate.KIND_ACT,
    mandates_pb2.Mandate.KIND_REPRESENT,
    mandates_pb2.Mandate.KIND_ISSUE,
    mandates_pb2.Mandate.KIND_ISSUE_REPRESENT,
)
_numbers = itertools.count()
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _id() -> str:
    number, text = next(_numbers), ""
    while len(text) < 26:
        number, digit = divmod(number, 26)
        text = _LETTERS[digit] + text
    return text


def person() -> str:
    """A person that no other test knows."""
    return f"persons/{_id()}"


def company() -> str:
    """An organisation that no other test knows."""
    return f"organisations/{_id()}"


async def make_theme(service: Service, *, activate: bool = True, **fields: Any) -> themes_pb2.Theme:
    """A theme of the city's, in use, that allows all kinds for five years."""
    calls_as(CITY)
    values: dict[str, Any] = {
        "titles": [LocalizedText(language="en", text="Taxes"), LocalizedText(language="fi", text="Verot")],
        "longest_terms": [
            themes_pb2.Theme.LongestTerm(kind=kind, months=60) for kind in (ACT, REPRESENT, ISSUE, ISSUE_REPRESENT)
        ],
    }
    request = themes_pb2.CreateThemeRequest(theme_id=f"theme-{_id()[-8:]}", theme=themes_pb2.Theme(**values | fields))
    theme = await service.themes.CreateTheme(request)
    if activate:
        theme = await service.themes.ActivateTheme(themes_pb2.ActivateThemeRequest(name=theme.name, etag=theme.etag))
    return theme


def asking(
    theme: str,
    *,
    principal: str = "",
    delegate: str = "",
    kind: Any = ACT,
    days: tuple[str, str] = ("", "2027-06-30"),
    specifier: str = "",
    request_id: str = "",
    validate_only: bool = False,
) -> CreateMandateRequest:
    """A request for a mandate; a side left out is the caller's."""
    mandate = mandates_pb2.Mandate(
        kind=kind, theme=theme, specifier=specifier, validity=ValidityPeriod(first_day=days[0], last_day=days[1])
    )
    if principal:
        mandate.principal.CopyFrom(Party(name=principal))
    if delegate:
        mandate.delegate.CopyFrom(Party(name=delegate))
    return CreateMandateRequest(
        mandate=mandate, request_id=request_id or str(uuid.uuid4()), validate_only=validate_only
    )


async def give(service: Service, theme: str, principal: str, delegate: str, **fields: Any) -> mandates_pb2.Mandate:
    """A mandate that the principal gives."""
    calls_as(principal)
    return await service.mandates.CreateMandate(asking(theme, delegate=delegate, **fields))
