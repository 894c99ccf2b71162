"""The X-Road message protocol for REST, at the edge: for information systems that were written for a security server.

    {METHOD} /r1/INSTANCE/CLASS/MEMBER/SUBSYSTEM/SERVICE[/path][?query]
    GET /r1/INSTANCE/CLASS/MEMBER/SUBSYSTEM/{listMethods|allowedMethods|getOpenAPI}
    GET /listClients[?xRoadInstance=]
    GET /asic?queryId=...

(X-Road 7: PR-REST 1.0, PR-MREST, PR-META.) A consumer is known by the
certificate of its connection, which its subsystem has among its consumers.
"""

from gateway.adapters.xroad.api import ENDPOINTS, XRoad

__all__ = ["ENDPOINTS", "XRoad"]
