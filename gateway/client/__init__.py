"""What integrators hold in their hands: the Python client and the command line.

    from gateway.client import Client, Profile

    async with Client(Profile.load("clients/permits")) as client:
        message = await client.call(client.messages.SendMessage, request)

A profile says where the edge is and with which certificate to call it. The
client gets tokens and renews them, repeats what may be called twice, streams
attachments from and to files, and follows feeds. `SyncClient` is the same for
programs without asyncio; `log_in` has people log in, and `Person` calls in their
names; `examples/` has the usual jobs.

Refusals are `Fault`s: catch the subclass that stands for what to do about it,
branch on `fault.reason`, which is documented and never changes, and show
`fault.message` to people only.
"""

from gateway.client.client import Client
from gateway.client.log_in import Person
from gateway.client.profile import Profile, ProfileError
from gateway.client.sync import SyncClient
from services.runtime.errors import (
    Aborted,
    AlreadyExists,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    Fault,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

__all__ = [
    "Aborted",
    "AlreadyExists",
    "Client",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Fault",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "PermissionDenied",
    "Person",
    "Profile",
    "ProfileError",
    "ResourceExhausted",
    "SyncClient",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
]
