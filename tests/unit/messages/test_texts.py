"""Markdown that messages may hold, and templates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from services.messages import markdown, templates
from services.runtime.errors import InvalidArgument


@pytest.mark.parametrize(
    "text",
    [
        "# Decision\n\nThe permit is **granted**.\n\n- one\n- two\n\n> quoted\n\n`1 < 2`",
        "[More](https://city.example/permits?id=1#top) and <https://city.example>",
        "[More][1]\n\n[1]: https://city.example",
        "2 < 3 > 1, fish & chips",
        "```\n<script>alert(1)</script>\n```",
    ],
)
def test_plain_commonmark_with_https_links_is_taken(text: str):
    markdown.check(text, language="en")


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a <b onclick=x>bold</b> word",
        "<!-- hidden -->",
        "<iframe src=https://evil.example>",
        "![tracker](https://evil.example/pixel.png)",
        "[![x](https://a.example/x)](https://a.example)",
        "[pay](http://city.example)",
        "[pay](javascript:alert(1))",
        "[pay](JaVaScRiPt:alert(1))",
        "[pay](java&#115;cript:alert(1))",
        "[pay](<javascript:alert(1)>)",
        "[pay](data:text/html;base64,PHNjcmlwdD4=)",
        "[pay](vbscript:x)",
        "[pay](//evil.example)",
        "[pay](/relative)",
        "[pay]()",
        "<javascript:alert(1)>",
        "<someone@city.example>",
        "[pay][1]\n\n[1]: file:///etc/passwd",
        "> - [deep](http://city.example)",
    ],
)
def test_html_images_and_other_links_are_refused(text: str):
    with pytest.raises(InvalidArgument) as refused:
        markdown.check(text, language="fi")
    assert refused.value.reason == "MARKDOWN_REFUSED"
    assert refused.value.metadata == {"language": "fi"}


@given(st.text(max_size=200))
def test_what_passes_has_no_html_whoever_renders_it(text: str):
    try:
        markdown.check(text, language="en")
    except InvalidArgument:
        return
    with_html, without = (MarkdownIt("commonmark", {"html": html}).render(text) for html in (True, False))
    assert with_html == without
    assert "<img" not in with_html


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), max_size=100))
def test_a_value_in_markdown_is_text_whatever_it_holds(value: str):
    text = templates.filled("Dear {{ name }}!", {"name": value}, write=markdown.escaped)
    markdown.check(text, language="en")
    (_, inline, _) = MarkdownIt("commonmark").parse(text)
    assert {child.type for child in inline.children or ()} <= {"text", "text_special"}


def test_variables_are_found_once_and_filled():
    text = "{{ case }} of {{applicant}}: {{ case}}"
    assert templates.variables([text]) == ["applicant", "case"]
    assert templates.filled(text, {"case": "BP-1", "applicant": "A", "other": "x"}) == "BP-1 of A: BP-1"


def test_values_are_not_templates():
    assert templates.filled("{{ a }}", {"a": "{{ b }}", "b": "x"}) == "{{ b }}"


def test_a_variable_without_a_value_is_named():
    with pytest.raises(InvalidArgument) as refused:
        templates.filled("{{ a }} {{ b }}", {"a": "1"})
    assert (refused.value.reason, refused.value.metadata) == ("TEMPLATE_INCOMPLETE", {"variable": "b"})


@pytest.mark.parametrize("text", ["{{ a.b }}", "{{ a", "a }}", "{{ 1a }}", "{{ a|safe }}", "{{}}", "{% if a %}{{"])
def test_braces_that_are_no_variable_are_refused(text: str):
    with pytest.raises(InvalidArgument) as refused:
        templates.variables([text])
    assert refused.value.reason == "FIELD_INVALID"
