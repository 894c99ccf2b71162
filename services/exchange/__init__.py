"""Signed data exchange between organisations, and evidence that strangers can check.

Will hold what this node knows of its mesh, the services, topics and access
rights of the subsystems that it serves, envelopes on their way, and the log of
evidence. Called by clients through the edge, by the gateway for X-Road's
consumers, by messages and authorisations for what crosses nodes, and by other
nodes on a listener of its own.
"""
