"""Token exchange (RFC 8693): what one token may become. Pure rules.

Two steps, each for the client that holds the subject token:

- an id_token of a trusted identity provider becomes a *person's token*: `sub` is
  the person;
- the token of somebody who acts, a person's or the client's own, becomes an
  *on-behalf-of token*: `sub` is the principal, `act` who acts, and
  `authorization_details` the mandate that allows it.

No step gives more scope, another audience or a longer life than what it stands
on, and an on-behalf-of token becomes nothing further.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.runtime.errors import InvalidArgument

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - a name
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105 - a name

MANDATE = "mandate"
"""The one type of authorisation details (RFC 9396)."""

_PARTY = re.compile(r"(persons|organisations)/[a-z2-7]{26}")
_THEME = re.compile(r"themes/[a-z][a-z0-9-]{1,61}[a-z0-9]")
_MEMBERS = frozenset({"type", "principal", "theme", "specifier"})
MAX_SPECIFIER_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The parameters of an exchange, as sent; empty where they were not."""

    subject_token: str
    subject_token_type: str
    actor_token: str
    actor_token_type: str
    requested_token_type: str
    audience: str
    authorization_details: str


@dataclass(frozen=True, kw_only=True)
class Representation:
    """In whose name somebody wants to act."""

    principal: str
    theme: str
    specifier: str


@dataclass(frozen=True, kw_only=True)
class Support:
    """On what the right to act rests."""

    mandates: tuple[str, ...]
    """`mandates/{mandate}`, the one who acts first."""
    through: str = ""
    """The one organisation in between, a party name; empty for none. A token names no longer chain."""
    expires: datetime | None = None
    """When the right ends at the latest, as known now."""
    consistency_token: str = ""
    """The facts on which it was judged."""


def examine(asked: Asked, *, audience: str) -> None:
    """What can be judged before any token is.

    Raises InvalidArgument: OAUTH_INVALID_REQUEST, OAUTH_INVALID_TARGET,
    OAUTH_INVALID_AUTHORIZATION_DETAILS.
    """
    # RFC 8693, 2.1, parameter by parameter.
    if not asked.subject_token:
        raise _malformed("the subject token is missing", "subject_token")
    if asked.subject_token_type not in (ID_TOKEN, ACCESS_TOKEN):
        raise _malformed("the type of the subject token is missing, or not taken here", "subject_token_type")
    if asked.actor_token or asked.actor_token_type:
        raise _malformed("who acts is said by the subject token; an actor token is not taken", "actor_token")
    if asked.requested_token_type not in ("", ACCESS_TOKEN):
        raise _malformed("only access tokens are issued", "requested_token_type")
    if asked.audience not in ("", audience):
        raise InvalidArgument("OAUTH_INVALID_TARGET", "the audience is not this node")
    # RFC 9396, 5: details belong to the second step, and to it alone.
    if bool(asked.authorization_details) != (asked.subject_token_type == ACCESS_TOKEN):
        raise InvalidArgument(
            "OAUTH_INVALID_AUTHORIZATION_DETAILS",
            "an access token is exchanged for one mandate, an id_token for none",
        )


def representation(text: str) -> Representation:
    """What the authorisation details ask for. Raises InvalidArgument, OAUTH_INVALID_AUTHORIZATION_DETAILS."""
    try:
        [detail] = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise _details("they are not a JSON array of one object") from None
    if not isinstance(detail, dict) or detail.get("type") != MANDATE or detail.keys() - _MEMBERS:
        raise _details("the object is not one of type mandate, or has members that it does not know")
    principal, theme, specifier = detail.get("principal"), detail.get("theme"), detail.get("specifier", "")
    if not isinstance(principal, str) or not _PARTY.fullmatch(principal):
        raise _details("principal is not the name of a party")
    if not isinstance(theme, str) or not _THEME.fullmatch(theme):
        raise _details("theme is not the name of a theme")
    if not isinstance(specifier, str) or len(specifier) > MAX_SPECIFIER_CHARACTERS:
        raise _details("specifier is not a short text")
    return Representation(principal=principal, theme=theme, specifier=specifier)


def actor(claims: Mapping[str, Any], *, client_id: str) -> str:
    """The party that acts, by the claims of a subject token of this node that the caller has verified.

    Raises InvalidArgument, OAUTH_INVALID_GRANT.
    """
    # The token is the client's own: RFC 8693, 2.1, leaves it to the server whose tokens a client may exchange.
    if claims["client_id"] != client_id:
        raise refused()
    # A chain is judged in one piece by the mandate check, never by exchanging again and again.
    if "act" in claims or "authorization_details" in claims:
        raise refused()
    party = claims["sub"]
    assert isinstance(party, str)
    return party


def on_behalf(wanted: Representation, support: Support, *, actor: str) -> dict[str, Any]:
    """The claims by which an on-behalf-of token says in whose name and why (RFC 8693, 4.1; RFC 9396, 9.1)."""
    acting: dict[str, Any] = {"sub": actor}
    if support.through:
        acting["act"] = {"sub": support.through}
    detail = {"type": MANDATE, "theme": wanted.theme, "mandates": list(support.mandates)}
    if wanted.specifier:
        detail["specifier"] = wanted.specifier
    if support.consistency_token:
        detail["consistency_token"] = support.consistency_token
    return {"sub": wanted.principal, "act": acting, "authorization_details": [detail]}


def refused() -> InvalidArgument:
    """The one answer to a subject token that cannot be exchanged."""
    return InvalidArgument("OAUTH_INVALID_GRANT", "the subject token is not one that can be exchanged here")


def unsupported() -> InvalidArgument:
    """The answer where nothing allows what was asked."""
    return InvalidArgument("OAUTH_INVALID_AUTHORIZATION_DETAILS", "no mandate in force supports what was asked")


def _malformed(message: str, parameter: str) -> InvalidArgument:
    return InvalidArgument("OAUTH_INVALID_REQUEST", message, parameter=parameter)


def _details(message: str) -> InvalidArgument:
    return InvalidArgument("OAUTH_INVALID_AUTHORIZATION_DETAILS", message)
