"""The embedded node's own identity provider, for trying things: it offers a list of invented people.

Whoever comes may be any of them, so it is for an embedded node only and starts
nowhere else. Towards the node it is what a real one is: OpenID Connect by code,
with pushed requests, PKCE, and clients that prove themselves.
"""
