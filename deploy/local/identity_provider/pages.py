"""The page of people, and the page for when it cannot be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from aiohttp import web

from deploy.local.identity_provider.people import Person
from gateway.adapters.page import page


def people(
    reference: str, client_id: str, everybody: Sequence[Person], levels: Mapping[str, str], *, chosen: str
) -> web.Response:
    """The page on which somebody chooses who to be."""
    radios = "".join(
        f'<label><input type="radio" name="acr" value="{escape(acr)}"{" checked" if acr == chosen else ""}>'
        f" {escape(level)}</label>"
        for acr, level in levels.items()
    )
    buttons = "".join(
        f'<li><button name="person" value="{number}"><strong>{escape(person.name)}</strong>'
        f" <span>{escape(person.told)} ({escape(person.code)})</span></button></li>"
        for number, person in enumerate(everybody)
    )
    return page(
        "Log in as an invented person",
        f"""<p class="notice">This is a test. None of these people exist, and anybody can be any of them.</p>
<form method="post" action="/authorize">
<input type="hidden" name="request_uri" value="{escape(reference)}">
<input type="hidden" name="client_id" value="{escape(client_id)}">
<fieldset><legend>How surely you are known (level of assurance)</legend>{radios}</fieldset>
<h2>Who are you?</h2>
<ul>{buttons}</ul>
<p><button name="cancel" value="yes">Do not log in</button></p>
</form>""",
    )


def refusal(text: str) -> web.Response:
    """The page for somebody whose request cannot be gone on with."""
    return page("The log-in cannot go on", f"<p>{escape(text)}</p>", status=400)
