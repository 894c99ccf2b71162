"""What an edge reports of its revocation lists."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.revoked import BATCH, Reports
from services.runtime.errors import Unavailable


class Authorisations:
    """Takes reports, or is away."""

    def __init__(self) -> None:
        self.reports: list[list[str]] = []
        self.away = False

    async def report(self, serial_numbers: Sequence[str]) -> None:
        if self.away:
            raise Unavailable("UNAVAILABLE", "away")
        self.reports.append(list(serial_numbers))


async def test_what_is_on_the_lists_is_reported_once_and_then_what_is_new() -> None:
    authorisations, listed = Authorisations(), ["0a", "0b"]
    reports = Reports(listed=lambda: listed, report=authorisations.report)
    await reports.look()
    await reports.look()
    listed.append("0c")
    await reports.look()
    assert authorisations.reports == [["0a", "0b"], ["0c"]]


async def test_long_lists_are_reported_in_parts_that_the_contract_takes() -> None:
    authorisations, listed = Authorisations(), [f"{number:04x}" for number in range(BATCH + 1)]
    await Reports(listed=lambda: listed, report=authorisations.report).look()
    assert [len(report) for report in authorisations.reports] == [BATCH, 1]
    assert [serial for report in authorisations.reports for serial in report] == listed


async def test_what_could_not_be_reported_is_reported_later() -> None:
    authorisations = Authorisations()
    reports = Reports(listed=lambda: ["0a"], report=authorisations.report)
    authorisations.away = True
    await reports.look()
    assert authorisations.reports == []
    authorisations.away = False
    await reports.look()
    assert authorisations.reports == [["0a"]]
