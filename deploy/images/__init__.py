"""The image of the services, and what builds it."""
