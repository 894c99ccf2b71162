"""Envoy's configuration, rendered from a `Plan` by pure functions.

`render` gives the files that depend on the contracts and the settings;
`filters.authentication` and `secrets` those that change while the edge runs.
"""

from __future__ import annotations

from gateway.envoy import bootstrap, clusters, listener, routes, xds
from gateway.envoy.plan import Json, Plan


def render(plan: Plan) -> dict[str, Json]:
    """The files that depend on the plan alone, by name: each after those that it refers to."""
    return {
        xds.CLUSTERS: clusters.render(plan),
        **{xds.route_file(door.value): routes.render(plan, door) for door in plan.doors},
        xds.LISTENERS: listener.render(plan),
        xds.BOOTSTRAP: bootstrap.render(plan),
    }
