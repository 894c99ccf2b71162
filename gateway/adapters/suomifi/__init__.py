"""The Suomi.fi Messages REST API, in front of the node's own messages.

    POST /v1/token                      an access token
    POST /v1/change-password            refused: there are no passwords
    POST /v1/mailboxes/active           which of many ids have a mailbox
    POST /v2/attachments                an attachment, as multipart/form-data
    GET  /v1/attachments/{id}           the content of one that a resident sent
    POST /v2/messages                   a message that goes to the mailbox, or on paper
    POST /v2/messages/electronic        a message that goes to the mailbox
    POST /v2/paper-mail-without-id      a letter
    GET  /v2/messages/{id}              a message that a resident sent
    GET  /v2/events                     what happened, of all of an organisation's units

A system that was made for Suomi.fi works against a node as it is, with another
address: its user name is the name of a client, its service id that of a unit.
The certificate of the connection proves the client, as everywhere; the password
does not matter. A system without a certificate goes through `solmu connect`.

The adapter translates. It calls the service with the client's own token and
certificate, and the service checks both, the scopes and the rules, as if the
call had come through Envoy.
"""

from __future__ import annotations

from gateway.adapters.suomifi.api import ENDPOINTS, SuomiFi

__all__ = ["ENDPOINTS", "SuomiFi"]
