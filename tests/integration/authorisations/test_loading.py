"""What the bench lays is what the service would have made."""

from typing import Any

from solmu.authorisations.v1 import mandate_service_pb2

from services.authorisations.messages import instant
from services.runtime.facts.rules import Kind
from tests.bench.checks import loading
from tests.bench.checks.world import Given
from tests.integration.authorisations.people import company, give, make_theme, person
from tests.integration.authorisations.service import Service, calls_as
from tests.integration.authorisations.test_checks import ALLOWED, DENIED, check

_OWN = "mandate_id, group_id, theme_id"


async def rows(service: Service, principal: str) -> list[dict[str, Any]]:
    """All that is kept of a principal's mandates, but for what each has of its own."""
    mandates = await service.database.fetch("select * from mandate where principal = $1", principal)
    ids = [row["mandate_id"] for row in mandates]
    events = await service.database.fetch(
        "select * from mandate_event where mandate_id = any($1) order by mandate_id, number", ids
    )
    return [{key: value for key, value in row.items() if key not in _OWN.split(", ")} for row in (*mandates, *events)]


async def test_a_mandate_that_is_laid_has_the_rows_of_one_that_the_service_made(
    service: Service, monkeypatch: Any
) -> None:
    made_in, laid_in = await make_theme(service), await make_theme(service)
    for kind, revoked in ((1, False), (1, True), (2, False)):
        principal, delegate = company(), person()
        made = await give(service, made_in.name, principal, delegate, kind=kind, days=("", "2027-11-20"))
        if revoked:
            request = mandate_service_pb2.RevokeMandateRequest(name=made.name)
            calls_as(principal)
            ended = await service.mandates.RevokeMandate(request)
            monkeypatch.setattr(loading, "REVOKED", instant(ended.ending.end_time))
        expected = await rows(service, principal)
        await service.database.execute("delete from mandate_event where mandate_id = $1::uuid", made.name[9:])
        await service.database.execute("delete from mandate where mandate_id = $1::uuid", made.name[9:])
        async with service.database.transaction() as connection:
            given = Given(0, principal, delegate, kind=Kind(kind), revoked=revoked)
            at = instant(made.create_time)
            await loading.lay(connection, [given], theme_id=laid_in.name[7:], at=at, period=364)  # type: ignore[arg-type]
        assert await rows(service, principal) == expected
        assert len(expected) > 2


async def test_what_is_laid_and_announced_is_judged_by(service: Service) -> None:
    theme, principal, delegate, firm = await make_theme(service), company(), person(), company()
    clerk, was = person(), person()
    async with service.database.transaction() as connection:
        await loading.lay(
            connection,  # type: ignore[arg-type]
            [
                Given(0, principal, delegate),
                Given(1, principal, firm),
                Given(2, firm, clerk, kind=Kind.REPRESENT),
                Given(3, principal, was, revoked=True),
            ],
            theme_id=theme.name[7:],
        )
    async with service.database.transaction() as connection:
        await loading.announce(connection)  # type: ignore[arg-type]
    token = await service.revisions.head()
    for who, decision in ((delegate, ALLOWED), (clerk, ALLOWED), (was, DENIED), (principal, ALLOWED)):
        answer = await check(service, theme.name, who, principal, consistency_token=token)
        assert answer.decision == decision


async def test_the_theme_that_is_laid_is_one_that_the_service_reads(service: Service) -> None:
    async with service.database.transaction() as connection:
        await loading.lay_theme(connection, "laid-theme")  # type: ignore[arg-type]
        await loading.announce(connection)  # type: ignore[arg-type]
    mandate = await give(service, "themes/laid-theme", person(), person())
    assert mandate.theme == "themes/laid-theme"
