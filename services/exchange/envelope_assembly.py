"""Everything about asynchronous exchange, put together."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from solmu.exchange.v1 import deliveries_pb2, envelopes_pb2, topics_pb2

from services.exchange.arriving import Arriving
from services.exchange.carrying import Carrier
from services.exchange.collecting import Collecting
from services.exchange.configuration import Configuration
from services.exchange.evidence_assembly import EvidenceParts
from services.exchange.journal import Journal
from services.exchange.leading import Leading
from services.exchange.mandates import Mandates
from services.exchange.meshes import Meshes
from services.exchange.peers import Peers
from services.exchange.proving import Proving
from services.exchange.recording import Recorder
from services.exchange.requesters import Requesters
from services.exchange.sending import Sending
from services.exchange.servicers.deliveries import Deliveries
from services.exchange.servicers.envelopes import Envelopes
from services.exchange.servicers.peer_deliveries import PeerDeliveries
from services.exchange.servicers.topics import Topics
from services.exchange.subscribing import Subscribing
from services.runtime.database import Database
from services.runtime.outbox import Outbox
from services.runtime.sealing import Vault


class EnvelopeParts:
    """The parts of a process."""

    def __init__(
        self,
        *,
        database: Database,
        outbox: Outbox | None,
        vault: Vault,
        meshes: Meshes,
        configuration: Configuration,
        peers: Peers,
        requesters: Requesters,
        evidence: EvidenceParts,
        proving: Proving,
        journal: Journal,
        mandates: Mandates,
        revoked: Callable[[str], bool],
    ) -> None:
        recorder = Recorder(
            meshes=meshes,
            configuration=configuration,
            proving=proving,
            status=evidence,
            keeping=evidence.keeping,
            outbox=outbox,
        )
        self.sending = Sending(
            database=database, vault=vault, meshes=meshes, configuration=configuration, recorder=recorder
        )
        arriving = Arriving(
            database=database,
            vault=vault,
            meshes=meshes,
            configuration=configuration,
            recorder=recorder,
            sending=self.sending,
            mandates=mandates,
        )
        subscribing = Subscribing(database=database, meshes=meshes, configuration=configuration, recorder=recorder)
        self.carrier = Carrier(
            database=database,
            vault=vault,
            meshes=meshes,
            peers=peers,
            recorder=recorder,
            sending=self.sending,
            arriving=arriving,
            subscribing=subscribing,
        )
        self.leading = Leading(
            database=database, name="envelopes", works={"carrier": self.carrier.turn, "expiry": self.carrier.expire}
        )
        self.envelopes = Envelopes(database=database, requesters=requesters, sending=self.sending, revoked=revoked)
        self.deliveries = Deliveries(
            database=database,
            vault=vault,
            requesters=requesters,
            recorder=recorder,
            collecting=Collecting(meshes=meshes, peers=peers, subscribing=subscribing),
            revoked=revoked,
        )
        self.topics = Topics(database=database, meshes=meshes, requesters=requesters)
        self.peer_servicer = PeerDeliveries(
            database=database, meshes=meshes, arriving=arriving, subscribing=subscribing, journal=journal
        )

    def servicers(self) -> dict[tuple[ModuleType, str], object]:
        """What is served inside the node."""
        return {
            (envelopes_pb2, "EnvelopeService"): self.envelopes,
            (deliveries_pb2, "DeliveryService"): self.deliveries,
            (topics_pb2, "TopicService"): self.topics,
        }
