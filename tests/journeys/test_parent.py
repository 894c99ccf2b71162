"""A parent acts for a child, until the birthday that ends it."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import jwt
from solmu.authorisations.v1 import rights_pb2
from solmu.authorisations.v1.checks_pb2_grpc import CheckServiceStub
from solmu.authorisations.v1.parties_pb2 import TERMS_ALONE, ValidityPeriod
from solmu.authorisations.v1.register_records_pb2 import Custody, RegisterRecord
from solmu.authorisations.v1.themes_pb2 import Theme
from solmu.types.v1.types_pb2 import NationalIdentifier

from deploy.local.node import Node
from gateway.client import Client
from tests.integration.node.people import client_of, organisation, person
from tests.journeys.mandates import ALLOWED, DENIED, HELSINKI, Keeper, check, known_as, make_theme, on_behalf

AGE = 15


def born(today: date, *, days_to_birthday: int) -> date:
    """A day of birth whose fifteenth return comes in so many days."""
    birthday = today + timedelta(days=days_to_birthday)
    return birthday.replace(year=birthday.year - AGE, day=min(birthday.day, 28))


def custody(parent: NationalIdentifier, child: NationalIdentifier, birth_day: date) -> RegisterRecord:
    content = Custody(
        custodian=known_as(parent), child=known_as(child), child_birth_day=birth_day.isoformat(), terms=TERMS_ALONE
    )
    since = ValidityPeriod(first_day=birth_day.isoformat())
    return RegisterRecord(record_id=f"custody {child.value}", custody=content, validity=since)


async def for_whom(mother: Client, theme: str, **fields: Any) -> list[rights_pb2.Right]:
    """For whom a parent may act, by her own question."""
    request = rights_pb2.ListPrincipalsRequest(theme=theme, **fields)
    return list((await mother.call(mother.stub(CheckServiceStub).ListPrincipals, request)).rights)


async def test_a_parent_for_a_child_until_the_birthday_that_ends_it(node: Node):
    today = datetime.now(HELSINKI).date()
    younger_born, older_born = born(today, days_to_birthday=60), born(today, days_to_birthday=-60)
    parent, younger, older = person(), person(younger_born), person(older_born)
    async with (
        client_of(node, organisation(2345678), "themes.manage", "mandates.check") as office,
        client_of(node, organisation(3456789), "registers.manage", "registers.import") as register,
        client_of(node, parent, "mandates.check", "messages.read") as mother,
    ):
        rights = [Theme.RegisterRight(role="custodian", until_age=AGE)]
        theme = await make_theme(office, register_rights=rights)
        keeper = Keeper(register)
        await keeper.open("custody")
        assert (await check(office, theme, parent, younger)).decision == DENIED, "nobody knows of them yet"
        await keeper.says(custody(parent, younger, younger_born), custody(parent, older, older_born))

        # The office asks, and hears until when at the latest: the first moment of the fifteenth birthday.
        answer = await check(office, theme, parent, younger)
        assert (answer.decision, answer.basis) == (ALLOWED, rights_pb2.RIGHT_BASIS_REGISTER)
        ends = answer.expire_time.ToDatetime(UTC)
        birthday = younger_born.replace(year=younger_born.year + AGE)
        assert ends == datetime.combine(birthday, time(), tzinfo=HELSINKI)
        for at, decision in ((ends - timedelta(microseconds=1), ALLOWED), (ends, DENIED)):
            assert (await check(office, theme, parent, younger, at=at)).decision == decision
        assert (await check(office, theme, parent, older)).decision == DENIED, "that birthday is over"
        assert (await check(office, theme, younger, parent)).decision == DENIED, "it goes one way"

        # The parent finds whom she may act for, and gets a token for it; for the older child she gets none.
        [right] = await for_whom(mother, theme)
        assert (right.role, right.expire_time) == ("custodian", answer.expire_time)
        status, granted = await on_behalf(mother, principal=right.principal.name, theme=theme)
        assert status == 200
        claims = jwt.decode(granted["access_token"], options={"verify_signature": False})
        assert (claims["sub"], claims["act"]) == (right.principal.name, {"sub": right.delegate.name})
        assert claims["exp"] - claims["iat"] <= 300
        earlier = await for_whom(mother, theme, at=ends - timedelta(days=180))
        [grown] = [one.principal.name for one in earlier if one.principal.name != right.principal.name]
        status, refused = await on_behalf(mother, principal=grown, theme=theme)
        assert (status, refused["error"]) == (400, "invalid_authorization_details")

        # The custody is taken away: at once, for the child whose birthday is still to come as well.
        await keeper.says(custody(parent, older, older_born))
        assert (await check(office, theme, parent, younger)).decision == DENIED
        status, refused = await on_behalf(mother, principal=right.principal.name, theme=theme)
        assert (status, refused["error"]) == (400, "invalid_authorization_details")
