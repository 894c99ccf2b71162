"""The node on one machine without Docker: real engines and the services under one supervisor. Linux only.

`python -m deploy.local up | down | status`; from Python, `deploy.local.node.running`.
"""
