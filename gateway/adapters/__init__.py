"""Foreign protocols, translated to the node's services.

Each adapter is a module with `ENDPOINTS`, from which the edge gets its routes,
and a class whose `routes()` the server takes. It decides nothing: it checks
the form of a call, calls a service, and gives the answer the form of its
protocol.
"""

from __future__ import annotations

from gateway.adapters import authzen, documentation, log_in, oauth, server, suomifi, xroad

ENDPOINTS = (
    *authzen.ENDPOINTS,
    *documentation.ENDPOINTS,
    *log_in.ENDPOINTS,
    *oauth.ENDPOINTS,
    *server.ENDPOINTS,
    *suomifi.ENDPOINTS,
    *xroad.ENDPOINTS,
)
"""Every path of every adapter."""
