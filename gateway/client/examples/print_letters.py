"""Prints the letters that wait, as a print house does: once each, whatever dies in between."""

import asyncio
import sys
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp
from solmu.messages.v1 import letters_pb2, messages_pb2

from gateway.client import Client, Profile
from services.runtime import status

State = messages_pb2.Delivery.State


async def main(profile: str, folder: str) -> None:
    """A letter may be printed once its report as submitted was taken, and not before."""
    async with Client(Profile.load(profile)) as house:
        claimed = await house.call(house.letters.ClaimLetters, letters_pb2.ClaimLettersRequest(max_letters=50))
        for letter in claimed.letters:
            file = Path(folder, letter.name.removeprefix("letters/") + ".pdf")
            await house.download_file(letter.attachment, file, sha256=letter.sha256)
            if not await report(house, letter, "SUBMITTED"):
                continue
            print(f"{letter.name}: {letter.page_count} pages to {file.name}")  # here the machine prints it
            await report(house, letter, "PRINTED")
            await report(house, letter, "POSTED", cost="1.21", cost_currency="EUR")


async def report(house: Client, letter: letters_pb2.Letter, state: str, **cost: str) -> bool:
    """A report may be repeated, so that a break does no harm."""
    now = Timestamp()
    now.GetCurrentTime()
    one = letters_pb2.ReportLettersRequest.Report(
        letter=letter.name, claim=letter.claim, state=State.Value(f"STATE_{state}"), time=now, **cost
    )
    request = letters_pb2.ReportLettersRequest(reports=[one])
    answer = await house.call(house.letters.ReportLetters, request, attempts=5)
    for refusal in answer.refusals:
        print(f"{letter.name}: {status.from_status(refusal.status)}")
    return not answer.refusals


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
