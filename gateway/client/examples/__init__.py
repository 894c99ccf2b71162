"""The eleven most usual jobs, each a program of its own that runs as it stands.

    python -m gateway.client.examples.send_decision .solmu/clients/permits

The first argument is a profile. On the embedded node (`make up`) the others
have values that work.
"""
