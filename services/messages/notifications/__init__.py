"""Telling residents, by e-mail and SMS, that something has come to their mailbox; see README.md."""
