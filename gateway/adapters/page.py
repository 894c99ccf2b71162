"""A plain page for people: one style, no script, nothing from elsewhere, and nothing kept."""

from __future__ import annotations

import base64
import hashlib
from html import escape

from aiohttp import hdrs, web

_STYLE = """
:root { color-scheme: light dark; }
body { font: 1.1rem/1.5 system-ui, "DejaVu Sans", sans-serif; max-width: 38rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; }
.notice { border: 2px solid; border-radius: .3rem; padding: .6rem .8rem; }
fieldset { border: 0; padding: 0; margin: 1.2rem 0; }
legend { font-weight: 600; padding: 0; }
fieldset label { display: inline-block; margin: .3rem 1.2rem .3rem 0; padding: .2rem 0; }
ul { list-style: none; padding: 0; }
li { margin: .5rem 0; }
button { font: inherit; color: inherit; padding: .6rem .8rem; cursor: pointer; background: transparent;
  border: 1px solid; border-radius: .3rem; }
li button { text-align: left; width: 100%; }
li button span { display: block; font-size: .95rem; }
button:hover { background: color-mix(in srgb, currentColor 10%, transparent); }
button:focus-visible, input:focus-visible { outline: 3px solid #06c; outline-offset: 2px; }
"""

SECURITY_HEADERS = {
    hdrs.CACHE_CONTROL: "no-store",
    # No form-action: browsers hold it against every redirect that follows a form, and clients are anywhere.
    "Content-Security-Policy": (
        "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; style-src 'sha256-"
        + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
        + "'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer to a person's browser in a log-in, redirects included: addresses hold codes."""


def page(title: str, content: str, *, language: str = "en", status: int = 200) -> web.Response:
    """A page. `content` is HTML; the title is text."""
    text = f"""<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{content}
</main>
</body>
</html>
"""
    return web.Response(status=status, text=text, content_type="text/html", headers=SECURITY_HEADERS)
