"""Everything about evidence, put together: what keeps it, what works on it, what shows it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
import grpc
from solmu.exchange.v1 import directory_pb2, peer_pb2

from services.exchange import evidence_rules, names
from services.exchange.authorities import TimeStamps
from services.exchange.configuration import Configuration
from services.exchange.evidence.signatures import PinnedKey
from services.exchange.evidence_batches import Batches
from services.exchange.evidence_rules import Rules
from services.exchange.housekeeping import Housekeeping
from services.exchange.keeping import Keeping
from services.exchange.keys import KeyRing, OrganisationKey
from services.exchange.leading import Leading
from services.exchange.log_keeper import LogKeeper
from services.exchange.meshes import Meshes
from services.exchange.peer_heads import PeerHeads
from services.exchange.peers import Peers
from services.exchange.policies import Policy
from services.exchange.requesters import Requesters
from services.exchange.servicers.evidence import Evidence
from services.exchange.servicers.evidence_log import EvidenceLog
from services.exchange.servicers.peer_heads import PeerHeadServicer
from services.exchange.stamping import Stamper, StampPolicy
from services.exchange.statuses import Statuses
from services.exchange.trusted import Trusted
from services.runtime.database import Database
from services.runtime.errors import Fault, Unavailable
from services.runtime.outbox import Outbox
from services.runtime.sealing import Vault
from services.runtime.status import fault_of

SHOW_INTERVAL = 60.0
"""Seconds between two rounds through the peers: for so long a head may be without their word."""

SHOW_WITHIN = 10.0
"""Seconds for a peer to countersign a head."""


class EvidenceParts:
    """The parts of a process. In test mode time stamps of test authorities are taken."""

    def __init__(
        self,
        *,
        database: Database,
        outbox: Outbox | None,
        vault: Vault,
        ring: KeyRing,
        meshes: Meshes,
        configuration: Configuration,
        peers: Peers,
        test_mode: bool,
    ) -> None:
        self._ring = ring
        self._meshes = meshes
        self._configuration = configuration
        self._peers = peers
        self._session = aiohttp.ClientSession()
        self.trusted = Trusted(meshes)
        requesters = Requesters(configuration=configuration, meshes=meshes)
        time_stamps = TimeStamps(self._session, test_mode=test_mode)
        batches = Batches(database)
        authorities = self.trusted.time_stamp_authorities

        self.keeping = Keeping(vault=vault, rules_of=self.rules_of, certificate=self.trusted.certificate)
        self.log_keeper = LogKeeper(database=database, key=self._log_key)
        self.stamper = Stamper(
            database=database,
            outbox=outbox,
            time_stamps=time_stamps,
            authorities=authorities,
            interval=self.trusted.time_stamp_interval,
        )
        self.stamp_policy = StampPolicy(database=database, time_stamps=time_stamps, authorities=authorities)
        self.statuses = Statuses(
            database=database,
            session=self._session,
            issuer=self.trusted.issuer,
            own=lambda: ring.certificates(directory_pb2.KEY_USE_STATEMENTS),
            max_age=self.trusted.status_max_age,
        )
        self.heads = PeerHeads(
            database=database, outbox=outbox, key=self._log_key, pinned=self.trusted.log_key, node=self._node
        )
        self.leading = Leading(
            database=database,
            name="evidence",
            works={
                "log": self.log_keeper.turn,
                "time stamps": self.stamper.turn,
                "certificate status": self.statuses.turn,
                "peer heads": self._show_heads,
                "housekeeping": Housekeeping(database=database).turn,
            },
        )
        self.evidence = Evidence(database=database, keeping=self.keeping, batches=batches, seen=requesters.seen)
        self.log = EvidenceLog(database=database, batches=batches, node=self._node)
        self.peer_servicer = PeerHeadServicer(heads=self.heads)

    def rules_of(self, line: str) -> Rules:
        """What a policy, id "/" revision, says of evidence. A revision that is no longer there goes by the current."""
        policies = self._configuration.current.policies
        policy = policies.get(line.partition("/")[0]) or policies["default"]
        return _rules(policy)

    def admit(self, policy: Policy) -> None:
        """Raises where evidence would wait for its time stamp for longer than a policy allows (`proving.Status`)."""
        self.stamp_policy.admit(_rules(policy))

    def staple(self, pinned: PinnedKey, policy: Policy) -> bytes:
        """The status that goes with a statement signed now (`proving.Status`).

        Raises what `StampPolicy.admit` and `Statuses.staple` raise: where the policy does not go on, nothing is signed.
        """
        rules = _rules(policy)
        self.stamp_policy.admit(rules)
        return self.statuses.staple(pinned, rules)

    def accept(self, pinned: PinnedKey, stapled: bytes, policy: Policy) -> bytes:
        """The status by which a statement of another node is taken (`proving.Status`). Raises as `Statuses.accept`."""
        return self.statuses.accept(pinned, stapled, _rules(policy))

    async def stamp(self, value: bytes, policy: Policy) -> bytes:
        """A time stamp of its own for a signature, where the policy asks for one (`proving.Status`)."""
        return await self.stamp_policy.token(_rules(policy), value)

    def accept_stamp(self, value: bytes, token: bytes) -> bytes:
        """The time stamp that came with a signature value of another node (`proving.Status`)."""
        return self.stamp_policy.accept(value, token)

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What runs for as long as the process does."""
        return [self.stamp_policy.follow(), self.statuses.follow(), self.leading.run()]

    async def close(self) -> None:
        """Closes connections."""
        await self._session.close()

    def _node(self) -> str:
        return self._meshes.node if self._meshes.joined else ""

    def _log_key(self) -> OrganisationKey | None:
        if not self._meshes.joined:
            return None
        return self._ring.active(directory_pb2.KEY_USE_LOG, names.member_of(self._meshes.node))

    async def _show_heads(self) -> float:
        await self.heads.round(self.trusted.peers(), self._show)
        return SHOW_INTERVAL

    async def _show(self, peer: str, request: peer_pb2.ExchangeTreeHeadsRequest) -> peer_pb2.ExchangeTreeHeadsResponse:
        failure: Fault = Unavailable("PEER_UNAVAILABLE", "the peer has no address")
        for stub in self._peers.stubs(peer):
            try:
                return await stub.ExchangeTreeHeads(request, timeout=SHOW_WITHIN)
            except grpc.RpcError as error:
                failure = fault_of(error)
                if not isinstance(failure, Unavailable):
                    raise failure from None
        raise failure


_RULES: WeakKeyDictionary[Policy, Rules] = WeakKeyDictionary()


def _rules(policy: Policy) -> Rules:
    """What a policy says of evidence: read once, and asked several times in each exchange."""
    found = _RULES.get(policy)
    if found is None:
        found = _RULES[policy] = evidence_rules.rules(policy.content)
    return found
