"""Addresses in the window of an envelope.

Measures are those of DIN 5008, form B: the address field of 85 mm by 45 mm
begins 20 mm from the left and 45 mm from the upper edge of the sheet. Its upper
17.7 mm are for the return address, the 27.3 mm below for six lines of address. It shows
through the windows of DIN 680, on the envelopes C6/5 (folded twice), C5 (folded
once) and C4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

from services.messages import fonts
from services.runtime.errors import InvalidArgument

MM = 72 / 25.4
"""Points of a millimetre."""

ADDRESS_SIZE = 10.0
"""Points; what machines that sort letters read."""

RETURN_SIZE = 7.0
"""Points of the return address above it."""

WIDTH = 80 * MM
"""Of a line: the field without the 5 mm that a letter may slip in its envelope."""

NAMES = {"GB": "United Kingdom"}
"""Where the post's name of a country is another than that of the table."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """A postal address; fields as in the contract."""

    recipient_name: str
    additional_name: str = ""
    street_address: str
    postal_code: str
    locality: str
    country_code: str

    def lines(self, *, home: str) -> list[str]:
        """The lines in the window. `home`: the country where the letter is posted; its name is left out."""
        return [line for _, line in self._lines(home)]

    def return_lines(self, *, home: str) -> list[str]:
        """The two small lines above the window's address."""
        name, *rest = self.lines(home=home)
        if self.additional_name:
            name, rest = f"{name} · {rest[0]}", rest[1:]
        return [name, " · ".join(rest)]

    def _lines(self, home: str) -> Iterator[tuple[str, str]]:
        yield "recipient_name", self.recipient_name
        if self.additional_name:
            yield "additional_name", self.additional_name
        yield "street_address", self.street_address
        yield "locality", f"{self.postal_code} {self.locality}"
        if self.country_code != home:
            yield "country_code", _countries().get(self.country_code, "").upper()


def check(address: Address, *, home: str, field: str) -> None:
    """Raises InvalidArgument, ADDRESS_DOES_NOT_FIT, for a line that is too wide for the window or cannot be printed."""
    for part, line in address._lines(home):  # noqa: SLF001  # of this module
        if not _fits(line, ADDRESS_SIZE):
            raise _refused(f"{field}.{part}")


def check_return(address: Address, *, home: str, field: str) -> None:
    """Raises InvalidArgument, ADDRESS_DOES_NOT_FIT, for a return address that is too wide or cannot be printed."""
    if address.country_code not in _countries():
        raise _refused(f"{field}.country_code")
    for part, line in zip(("recipient_name", "street_address"), address.return_lines(home=home), strict=True):
        if not _fits(line, RETURN_SIZE):
            raise _refused(f"{field}.{part}")


def _fits(line: str, size: float) -> bool:
    plain = fonts.printable(line)
    if not plain.strip() or any(character in plain for character in "\n\r\t") or fonts.lacks(plain):
        return False
    return fonts.width(plain, size) <= WIDTH


@cache
def _countries() -> dict[str, str]:
    """English names of countries by ISO 3166-1 code, from the table that time zones come with."""
    table = resources.files("tzdata").joinpath("zoneinfo/iso3166.tab").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in table.splitlines() if line and not line.startswith("#"))
    return {code: NAMES.get(code, name) for code, name, *_ in rows}


def _refused(field: str) -> InvalidArgument:
    what = "does not fit the window of the envelope, or cannot be printed"
    return InvalidArgument("ADDRESS_DOES_NOT_FIT", f"{field} {what}", violations=[(field, what)], field=field)
