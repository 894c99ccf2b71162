"""A profile: where the edge is, and with what to call it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from services.runtime import tls

FILE = "profile.json"


class ProfileError(Exception):
    """The profile is not there, or not whole; the text says what to do."""


@dataclass(frozen=True)
class Representation:
    """In whose name calls are made, by a mandate in which theme."""

    principal: str
    """A party: `persons/...` or `organisations/...`."""
    theme: str
    """`themes/{theme}`."""
    specifier: str = ""
    """On which one thing, where the mandate is for one."""


@dataclass(frozen=True)
class Profile:
    """Where the edge is, and with what to call it."""

    edge: str
    """Origin of the edge: "https://localhost:8443"."""
    client_id: str
    files: tls.Files
    """The client's certificate and key, and the authority of the edge's."""
    scopes: tuple[str, ...]
    """What tokens are asked for."""
    acts_for: Representation | None = None
    """Whose name calls are made in; None: that of the client's own party."""
    redirect_uri: str = ""
    """Where people who logged in are sent back to; empty where nobody logs in to the client."""
    assertion_key: Path | None = None
    """A private key as JWK (RFC 7517) with `kid` and `alg`, for clients that are registered for `private_key_jwt`."""

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Reads a profile file, or the one in a folder. Raises ProfileError."""
        file = Path(path)
        if file.is_dir():
            file /= FILE
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            folder = file.parent
            return cls(
                edge=values["edge"],
                client_id=values["client_id"],
                files=tls.Files(
                    certificate=folder / values["certificate"],
                    key=folder / values["key"],
                    authorities=folder / values["authorities"],
                ),
                scopes=tuple(values["scopes"]),
                redirect_uri=values.get("redirect_uri", ""),
                assertion_key=folder / values["assertion_key"] if "assertion_key" in values else None,
            )
        except OSError as error:
            raise ProfileError(f"cannot read the profile {file}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ProfileError(f"{file} is not a profile: {error!r}") from None

    def acting_for(self, principal: str, *, theme: str, specifier: str = "") -> Profile:
        """The same client acting for another party, by tokens exchanged for its own (RFC 8693)."""
        return replace(self, acts_for=Representation(principal, theme, specifier))

    @property
    def target(self) -> str:
        """host:port of the edge."""
        return urlsplit(self.edge).netloc
