"""A node in containers: what compose and Kubernetes run beside the services themselves."""
