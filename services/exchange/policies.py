"""What goes for exchanges, with the contract's defaults filled in (policies.proto). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from solmu.exchange.v1 import policies_pb2

from services.exchange import names
from services.exchange.directory import Directory
from services.runtime.errors import InvalidArgument, Unavailable

DEFAULT = "default"
MAX_BODY_BYTES = 100 << 20
MAX_WAITING = 100_000
"""Envelopes that wait for one recipient where the policy does not say: some 200 MB of statements, and their bodies."""

ATTEMPTS = 3
CIRCUIT_FAILURES = 5


@dataclass(frozen=True, eq=False)
class Policy:
    """A revision of a policy."""

    policy_id: str
    revision: int
    content: policies_pb2.ExchangePolicy

    @property
    def line(self) -> str:
        """How statements name it."""
        return f"{self.policy_id}/{self.revision}"

    @property
    def streamed(self) -> bool:
        """Whether bodies are passed on while they come."""
        return self.content.body_release == policies_pb2.ExchangePolicy.BODY_RELEASE_STREAMED

    @cached_property
    def max_request_bytes(self) -> int:
        """Largest request body."""
        return self.content.limits.max_request_bytes or MAX_BODY_BYTES

    @cached_property
    def max_waiting(self) -> int:
        """Envelopes that may wait for one recipient."""
        return self.content.limits.max_waiting_envelopes or MAX_WAITING

    @cached_property
    def max_response_bytes(self) -> int:
        """Largest answer body."""
        return self.content.limits.max_response_bytes or MAX_BODY_BYTES

    @cached_property
    def response_timeout(self) -> float:
        """Seconds until an answer begins."""
        return _seconds(self.content.limits, "response_timeout", 60.0)

    @cached_property
    def idle_timeout(self) -> float:
        """Seconds of the longest pause within a body."""
        return _seconds(self.content.limits, "idle_timeout", 30.0)

    @cached_property
    def total_timeout(self) -> float:
        """Seconds for an exchange as a whole."""
        return _seconds(self.content.limits, "total_timeout", 3600.0)

    @cached_property
    def attempts(self) -> int:
        """Tries in all of a call that is safe to repeat."""
        return self.content.retries.max_attempts or ATTEMPTS

    @cached_property
    def circuit_failures(self) -> int:
        """Failures in a row after which a peer is passed over."""
        return self.content.retries.circuit_failures or CIRCUIT_FAILURES

    @cached_property
    def circuit_pause(self) -> float:
        """Seconds for which it is passed over."""
        return _seconds(self.content.retries, "circuit_pause", 10.0)

    def takes_mandates(self, member: str, theme_uri: str) -> bool:
        """Whether mandates in a theme count that are registered with a member."""
        return any(
            source.member == names.resource("members", member)
            and (not source.theme_uris or theme_uri in source.theme_uris)
            for source in self.content.mandate_sources
        )

    def check_directory(self, directory: Directory, *, now: datetime) -> None:
        """Goes on with a directory whose time is over for as long as the policy says.

        Raises Unavailable, DIRECTORY_EXPIRED.
        """
        if directory.expires > now:
            return
        grace = timedelta(seconds=_seconds(self.content, "directory_grace", 72 * 3600.0))
        stops = self.content.when_directory_expired == policies_pb2.WHEN_AWAY_STOP
        if stops or directory.expires + grace <= now:
            raise Unavailable(
                "DIRECTORY_EXPIRED",
                "the directory's time is over, and the policy does not go on without",
                expire_time=directory.expires.isoformat(),
            )


def check(content: policies_pb2.ExchangePolicy) -> None:
    """Raises InvalidArgument, POLICY_INVALID, for a policy that contradicts itself."""
    synchronous = policies_pb2.ExchangePolicy.TimeStamping.MODE_SYNCHRONOUS
    if content.body_release == policies_pb2.ExchangePolicy.BODY_RELEASE_STREAMED and (
        content.time_stamping.mode == synchronous and content.time_stamping.when_away == policies_pb2.WHEN_AWAY_STOP
    ):
        raise InvalidArgument(
            "POLICY_INVALID",
            "a body that streams cannot wait for its time stamp",
            field="exchange_policy.time_stamping",
        )
    for limits, name in (
        (content.limits, "response_timeout"),
        (content.limits, "idle_timeout"),
        (content.limits, "total_timeout"),
        (content.retries, "circuit_pause"),
        (content, "directory_grace"),
    ):
        if _seconds(limits, name, 1.0) <= 0:
            raise InvalidArgument("POLICY_INVALID", "a time is not positive", field=name)


def _seconds(message: Message, name: str, default: float) -> float:
    value: Duration = getattr(message, name)
    return value.ToTimedelta().total_seconds() if message.HasField(name) else default
