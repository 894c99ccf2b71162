"""The node on one machine without Docker: real engines and the services under one supervisor. Linux only.

`python -m deploy.local up | down | status`; from Python, `deploy.local.node.running`.
"""

import os

# Before anything loads gRPC: the supervisor forks to start a process while its probes call others, and gRPC's own
# handlers around a fork end the child. A child of ours runs another program at once and never touches gRPC.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
