"""Two-way messages between authorities and residents or companies.

Holds units, mailboxes, messages, deliveries and attachments, and the feed of
each unit. Knows people by party name only; content is sealed under the key of
the mailbox it lies in. Called by clients through the edge.
"""
