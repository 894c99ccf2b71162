"""The documentation of the REST interface: the OpenAPI document, and a page to read and try it.

    GET /openapi.json       OpenAPI 3.1, as `gateway.openapi` made it
    GET /docs               the page; its script and its style beside it
    GET /                   leads a browser to it

Everybody may read it, at the port for browsers. Trying calls takes a client
certificate, and therefore the port for systems. The page needs nothing from
elsewhere, and its policy keeps it from reaching for anything but this node.
"""

from __future__ import annotations

import hashlib
from importlib import resources

from aiohttp import hdrs, web

from gateway import openapi
from gateway.routes import Door, Endpoint

DOCUMENT_PATH = "/openapi.json"
PAGE_PATH = "/docs"
FRONT_PATH = "/"

MAX_REQUEST_BYTES = 1024
"""A GET has no body."""

KEPT_SECONDS = 60
"""How long a browser may show what it has; it changes with a release only."""

_PAGES = resources.files(__package__).joinpath("pages")

_FILES = {
    PAGE_PATH: ("documentation.html", "text/html"),
    f"{PAGE_PATH}/page.js": ("documentation.js", "text/javascript"),
    f"{PAGE_PATH}/page.css": ("documentation.css", "text/css"),
}

ENDPOINTS = (
    Endpoint(FRONT_PATH, MAX_REQUEST_BYTES, frozenset({Door.BROWSERS})),
    *(Endpoint(path, MAX_REQUEST_BYTES, frozenset(Door)) for path in (DOCUMENT_PATH, *_FILES)),
)

_HEADERS = {
    hdrs.CACHE_CONTROL: f"max-age={KEPT_SECONDS}",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _File:
    """One file, held in memory, with an etag of its content."""

    def __init__(self, content: bytes, content_type: str) -> None:
        self._content = content
        self._content_type = content_type
        self._etag = hashlib.sha256(content).hexdigest()[:32]

    async def get(self, request: web.Request) -> web.Response:
        """Answers with the file, or with 304 to whoever has it."""
        headers = {**_HEADERS, hdrs.ETAG: f'"{self._etag}"'}
        if any(tag.value in (self._etag, "*") for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        response = web.Response(body=self._content, content_type=self._content_type, charset="utf-8", headers=headers)
        response.enable_compression()
        return response


def routes() -> list[web.RouteDef]:
    """For the application of the gateway."""
    files = {DOCUMENT_PATH: _File(openapi.committed(), "application/json")}
    for path, (name, content_type) in _FILES.items():
        files[path] = _File(_PAGES.joinpath(name).read_bytes(), content_type)
    return [web.get(FRONT_PATH, _front), *(web.get(path, file.get) for path, file in files.items())]


async def _front(_: web.Request) -> web.Response:
    return web.Response(status=303, headers={hdrs.LOCATION: PAGE_PATH, **_HEADERS})
