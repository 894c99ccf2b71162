"""What integrators hold in their hands: the Python client and the command line.

    from gateway.client import Client, Profile

    async with Client(Profile.load("clients/permits")) as client:
        message = await client.call(client.messages.SendMessage, request)

A profile says where the edge is and with which certificate to call it. The
client gets tokens and renews them, and retries what may be called twice.
"""

from gateway.client.client import Client
from gateway.client.profile import Profile, ProfileError
from services.runtime.errors import Fault

__all__ = ["Client", "Fault", "Profile", "ProfileError"]
