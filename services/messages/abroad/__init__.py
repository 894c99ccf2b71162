"""Mailboxes on other nodes: what goes to them, and what comes from there."""
