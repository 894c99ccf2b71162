"""The invented people."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.local import demo_clients


@dataclass(frozen=True)
class Person:
    """Somebody who does not exist."""

    name: str
    code: str
    """Personal identity code, of the range 900 to 999 that the Finnish register gives to nobody."""
    told: str
    """What there is to try with this person."""


PEOPLE = (
    Person("Aino Esimerkki", demo_clients.PERSON["value"], "a resident; has the mailbox of the demo"),
    Person("Eino Esimerkki", "080485-902D", "a resident, father of Oiva"),
    Person("Oiva Esimerkki", "230712A904R", "a child"),
    Person("Helmi Malli", "010352-906P", "an elderly parent of Aino"),
    Person("Toivo Malli", "170978-908M", "an accountant; may sign for a company with Lempi"),
    Person("Lempi Malli", "300665-910A", "may sign for a company with Toivo"),
    Person("Impi Kokeilu", "121199-912K", "an officer of the city"),
    Person("Urho Kokeilu", "290208A914V", "an officer of the city, born on a leap day"),
)
