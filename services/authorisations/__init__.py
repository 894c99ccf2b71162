"""Who may call the node, and who may act for whom.

Holds the clients (information systems) and issues their access tokens; will
hold mandates, themes and register facts, and judge them. Knows people by party
name only. Called by the edge for clients, by the gateway for the OAuth
endpoints, and by every service for the keys that verify tokens.
"""
