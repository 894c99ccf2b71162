"""How a node is set up and run: its certificate authorities, and the ways to deploy it."""
