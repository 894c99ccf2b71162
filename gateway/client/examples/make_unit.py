"""Makes a unit: an office in whose name messages are sent. For the profile of an operator."""

import asyncio
import sys

from solmu.messages.v1 import units_pb2
from solmu.types.v1.types_pb2 import LocalizedText

from gateway.client import AlreadyExists, Client, Profile


async def main(profile: str, unit_id: str = "library") -> None:
    """The unit belongs to the organisation of the operator."""
    names = [LocalizedText(language="en", text="Library"), LocalizedText(language="fi", text="Kirjasto")]
    request = units_pb2.CreateUnitRequest(unit_id=unit_id, unit=units_pb2.Unit(display_names=names))
    async with Client(Profile.load(profile)) as operator:
        try:
            unit = await operator.call(operator.units.CreateUnit, request)
        except AlreadyExists:
            print(f"units/{unit_id} is there already")
        else:
            print(f"{unit.name} of {unit.organisation}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
