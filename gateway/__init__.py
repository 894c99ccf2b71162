"""The one door of a node: Envoy's configuration and its upkeep, foreign protocols, and the client."""
