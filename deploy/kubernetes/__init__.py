"""Manifests of a node in Kubernetes, and what of them follows from the code."""
