"""What notifications say, in which language."""

from __future__ import annotations

import string

import pytest

from services.messages.notifications import texts
from services.messages.notifications.rules import Kind

SENDER = {"fi": "Lupapalvelut", "sv": "Tillståndstjänsten", "en": "Permits office"}


def of_message(wanted: str = "en", kind: Kind = Kind.NEW, **changes) -> texts.Notice:
    values = {"usual": "en", "sender": SENDER, "own": {}, "portal": ""} | changes
    return texts.of_message(kind, wanted, **values)


def test_the_words_are_there_in_every_language_and_take_the_same_values():
    assert set(texts.TEXTS) == {"fi", "sv", "en", "nb", "da", "it"}

    def fields(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    for language, words in texts.TEXTS.items():
        assert fields(words["link"]) == {"portal"}, language
        for name in ("new", "reminder"):
            for part in ("subject", "text"):
                assert fields(words[name][part]) == {"sender"}, (language, name, part)
                assert not fields(words[f"{name}_hidden"][part]), (language, name, part)
        assert fields(words["code"]["text"]) == {"code"}
        assert not fields(words["code"]["subject"]), "a subject shows on locked screens"


@pytest.mark.parametrize(
    ("wanted", "language"),
    [
        ("fi", "fi"),
        ("sv-FI", "sv"),
        ("no", "nb"),
        ("nn", "nb"),
        ("nb-NO", "nb"),
        ("IT", "it"),
        ("de", "en"),
        ("", "en"),
    ],
)
def test_the_language_is_the_residents_or_the_usual_one(wanted: str, language: str):
    assert of_message(wanted).language == language


def test_the_sender_is_named_in_the_language_of_the_notification():
    assert "Tillståndstjänsten" in of_message("sv").text
    assert "Tillståndstjänsten" in of_message("sv").subject
    assert "Permits office" in of_message("da").text
    assert "Only" in of_message("da", sender={"fi": "Only"}).text


def test_a_hidden_sender_is_nowhere():
    for kind in (Kind.NEW, Kind.REMINDER):
        for language in texts.TEXTS:
            hidden = of_message(language, kind, sender=None)
            assert hidden.subject
            assert hidden.text
            assert not any(name in hidden.subject + hidden.text for name in SENDER.values())


def test_the_senders_own_text_takes_the_place_of_the_usual_one_where_it_has_the_language():
    own = {"fi": "Uusi kirje kaupungilta.", "sv": "Nytt brev från staden."}
    assert of_message("sv-SE", own=own).text == own["sv"]
    assert of_message("en", own=own).text == of_message("en").text


def test_where_to_read_is_added_where_it_is_known():
    assert "https://" not in of_message("fi").text
    assert of_message("fi", portal="https://oma.kaupunki.example").text.endswith("https://oma.kaupunki.example")


def test_a_name_stays_on_one_line():
    assert of_message(sender={"en": "Permits\r\nBcc: all@example.org"}).subject.endswith("Permits Bcc: all@example.org")


def test_a_name_or_text_with_braces_is_taken_as_it_is():
    assert "{sender}{0}" in of_message(sender={"en": "{sender}{0}"}).text
    assert of_message("fi", own={"fi": "{code}"}).text == "{code}"


def test_a_code_is_in_the_text_alone():
    notice = texts.of_code("fi", usual="en", code="012345")
    assert "012345" in notice.text
    assert "012345" not in notice.subject
