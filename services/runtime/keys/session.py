"""A session with a token behind PKCS #11 (OASIS PKCS #11 v2.40), opened anew when the token was away.

`python-pkcs11` is the optional extra `pkcs11`: this module is imported where a
token is set only.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pkcs11

logger = logging.getLogger(__name__)


class TokenAway(Exception):
    """The token, or its key, cannot be used; the text tells the operator why."""


class Session:
    """A token: the library of its maker, its label, and a file with the user's PIN.

    Uses wait for each other: most devices do one thing at a time.
    """

    def __init__(self, module: Path, label: str, pin: Path) -> None:
        self.label = label
        self._module = module
        self._pin = pin
        self._lock = threading.Lock()
        self._session: Any = None

    @contextmanager
    def use(self) -> Iterator[Any]:
        """The session, logged in. Raises TokenAway."""
        with self._lock:
            try:
                if self._session is None:
                    self._session = self._open()
                yield self._session
            except pkcs11.NoSuchKey:
                raise TokenAway(f"the token {self.label} does not have the key") from None
            except (pkcs11.PKCS11Error, RuntimeError, OSError) as error:
                logger.warning("the token cannot be used", extra={"error": type(error).__qualname__})
                self.close()  # a device that was pulled out is opened anew when it is back
                raise TokenAway(f"the token {self.label} cannot be used ({_said(error)})") from None

    def _open(self) -> Any:
        token = pkcs11.lib(str(self._module)).get_token(token_label=self.label)
        pin = self._pin.read_text().strip()
        try:
            return token.open(rw=True, user_pin=pin)
        except pkcs11.UserAlreadyLoggedIn:  # by another session of this process: a log-in is for all of them
            return token.open(rw=True)

    def close(self) -> None:
        """Ends the session, and with it the log-in: the next use begins anew."""
        session, self._session = self._session, None
        if session is not None:
            with suppress(pkcs11.PKCS11Error):
                session.close()


def _said(error: Exception) -> str:
    known = {
        pkcs11.NoSuchToken: "there is none of that label: check the slot, and the label",
        pkcs11.PinIncorrect: "the PIN is wrong: check the file, and mind that tokens lock themselves",
        pkcs11.PinLocked: "its PIN is locked: its security officer unlocks it",
        FileNotFoundError: "the file of the PIN is not there",
    }
    return next((text for kind, text in known.items() if isinstance(error, kind)), type(error).__qualname__)
