"""What a letter looks like: its typeface, the window of its envelope, its pages."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pikepdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pikepdf import Array, Dictionary, Name, Pdf, String

from services.messages import composing, envelopes, fonts, printing, typesetting
from services.messages.envelopes import Address
from services.messages.typesetting import Head, Text
from services.runtime.errors import InvalidArgument
from tests.unit.messages.test_printing import document

HOME = Address(
    recipient_name="Áile Ŋalbmi",
    additional_name="c/o Åsa Öberg",
    street_address="Sámediggi 12",
    postal_code="99980",
    locality="UTSJOKI",
    country_code="FI",
)
HEAD = Head(HOME.lines(home="FI"), "Building Control", ["City", "PO Box 1"], ["2.3.2026", "BP-1"])


def words(content: bytes) -> list[tuple[float, float, str]]:
    """Where text begins on the first page, in points from the left and the upper edge, and which."""
    with pikepdf.open(io.BytesIO(content)) as pdf:
        page, found, font = pdf.pages[0], [], ""
        known = {str(name): _characters(font) for name, font in page.Resources.Font.items()}
        moved, kept, place = (0.0, 0.0), [], (0.0, 0.0)
        for instruction in pikepdf.parse_content_stream(page):
            assert isinstance(instruction, pikepdf.ContentStreamInstruction)
            operands = instruction.operands
            match str(instruction.operator):
                case "q":
                    kept.append(moved)
                case "Q":
                    moved = kept.pop()
                case "cm":
                    moved = (moved[0] + float(operands[4]), moved[1] + float(operands[5]))
                case "Tm":
                    place = (moved[0] + float(operands[4]), moved[1] + float(operands[5]))
                case "Tf":
                    font = str(operands[0])
                case "Tj":
                    text = "".join(known[font][code] for code in bytes(operands[0]))
                    found.append((place[0], float(page.mediabox[3]) - place[1], text))
        return found


def _characters(font) -> dict[int, str]:
    """What the codes of a font stand for, by its ToUnicode map."""
    pairs = re.findall(rb"<([0-9A-F]{2})> <([0-9A-F]{4})>", font.ToUnicode.read_bytes())
    return {int(code, 16): chr(int(character, 16)) for code, character in pairs}


# Typeface


@pytest.mark.parametrize(
    "text", ["ÄÖÅ äöå éü ß", "ČčĐđŊŋŠšŦŧŽž Áá", "Ʒʒ Ǧǧ Õõ", "Здравствуйте Ђ Ї", "Καλημέρα", "“ ” • € § №"]
)
def test_letters_of_europe_can_be_set(text):
    assert not fonts.lacks(text)


@pytest.mark.parametrize("text", ["שלום", "سلام", "你好", "😀", "a\u0000b", "q\u0301"])
def test_what_cannot_be_set_is_known(text):
    assert fonts.lacks(text)


def test_letters_are_composed_and_signs_without_form_left_out():
    assert fonts.printable("A\u030a so\u00adfort\u200b") == "Å sofort"
    assert not fonts.lacks("A\u030a so\u00adfort\u200b")


# The window


def test_the_address_stands_in_the_window_and_nothing_else():
    content, _ = typesetting.pages(HEAD, [Text("Decision", "Granted.")])
    mm = envelopes.MM
    inside = [text for left, top, text in words(content) if 20 * mm <= left <= 105 * mm and 45 * mm <= top <= 90 * mm]
    assert inside == [*HEAD.return_address, *HEAD.address]
    address = [(left, top) for left, top, text in words(content) if text in HEAD.address]
    assert all(62.7 * mm <= top for _, top in address), "the upper part is for the return address"


def test_abroad_the_country_stands_under_the_address():
    assert HOME.lines(home="FI")[-1] == "99980 UTSJOKI"
    assert HOME.lines(home="NO")[-1] == "FINLAND"
    assert replace(HOME, country_code="GB").lines(home="FI")[-1] == "UNITED KINGDOM"


@given(st.text("WMÄil .", min_size=1, max_size=80))
def test_an_address_that_is_let_pass_is_printed_whole(name):
    address = replace(HOME, recipient_name=name)
    try:
        envelopes.check(address, home="FI", field="address")
    except InvalidArgument as refused:
        assert refused.metadata == {"field": "address.recipient_name"}
        assert not name.strip() or fonts.width(name, envelopes.ADDRESS_SIZE) > envelopes.WIDTH
    else:
        assert fonts.width(name, envelopes.ADDRESS_SIZE) <= envelopes.WIDTH


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"recipient_name": "W" * 40}, "recipient_name"),
        ({"additional_name": "x\ny"}, "additional_name"),
        ({"street_address": "улица 北"}, "street_address"),
        ({"locality": "L" * 60}, "locality"),
        ({"country_code": "XX"}, "country_code"),
    ],
)
def test_an_address_that_does_not_fit_is_refused_by_its_field(change, field):
    with pytest.raises(InvalidArgument) as refused:
        envelopes.check(replace(HOME, **change), home="FI", field="to")
    assert (refused.value.reason, refused.value.metadata) == ("ADDRESS_DOES_NOT_FIT", {"field": f"to.{field}"})


def test_a_return_address_has_two_small_lines():
    assert HOME.return_lines(home="FI") == ["Áile Ŋalbmi · c/o Åsa Öberg", "Sámediggi 12 · 99980 UTSJOKI"]
    envelopes.check_return(HOME, home="FI", field="from")
    with pytest.raises(InvalidArgument) as refused:
        envelopes.check_return(replace(HOME, street_address="W" * 40), home="FI", field="from")
    assert refused.value.metadata == {"field": "from.street_address"}


# Pages


def test_every_font_is_embedded():
    content, _ = typesetting.pages(HEAD, [Text("Decision", "**a** *b* ***c***\n\n- d", markdown=True)])
    with pikepdf.open(io.BytesIO(content)) as pdf:
        fonts_used = [font for page in pdf.pages for font in page.Resources.Font.values()]
        assert fonts_used
        assert all("/FontFile2" in font.FontDescriptor for font in fonts_used)


def test_all_languages_are_printed_and_markdown_is_set():
    text = "# Heading\n\nSee **this** [page](https://example.org).\n\n3. one\n4. two\n   - below\n\n> quoted\n\n```\ncode\n```\n\n---\n"
    content, count = typesetting.pages(
        HEAD, [Text("Päätös", "Myönnetty.\n\nTerveisin"), Text("Decision", text, markdown=True)]
    )
    said = "".join(text for *_, text in words(content))
    for expected in (
        "Päätös",
        "Myönnetty.",
        "Decision",
        "Heading",
        "this",
        "(https://example.org)",
        "3.",
        "4.",
        "two",
        "•",
        "quoted",
        "code",
    ):
        assert expected in said
    assert "**" not in said
    assert count == 1


def test_markup_in_a_plain_text_is_text():
    content, _ = typesetting.pages(HEAD, [Text("<b>a</b> & co", "5 < 6 <para> &amp;\ttab")])
    said = "".join(text for *_, text in words(content))
    assert "<b>a</b> & co" in said
    assert "5 < 6 <para> &amp;" in said


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.text("W i\n#-*>1.", max_size=3000), st.integers(1, 4), st.booleans()), min_size=1, max_size=3
    ),
)
def test_a_text_has_never_more_pages_than_was_foreseen(drawn):
    texts = [Text("W" * 30, text * times, markdown=marked) for text, times, marked in drawn]
    _, count = typesetting.pages(HEAD, texts)
    assert count <= typesetting.at_most(texts)


def test_the_same_letter_is_the_same_pdf():
    def made() -> bytes:
        texts = [Text("Decision", "Granted.\n" * 100)]
        return composing.letter(HEAD, texts, [io.BytesIO(ATTACHMENT)], single_sided=False)[0]

    assert made() == made()


ATTACHMENT = document(pages=3)


@pytest.mark.parametrize(("single_sided", "count"), [(True, 1 + 3 + 3), (False, 1 + 1 + 3 + 1 + 3)])
def test_each_document_begins_on_a_sheet_of_its_own(single_sided, count):
    files = [io.BytesIO(ATTACHMENT), io.BytesIO(ATTACHMENT)]
    content, pages = composing.letter(HEAD, [Text("Decision", "Granted.")], files, single_sided=single_sided)
    assert pages == count
    assert printing.pages(io.BytesIO(content), attachment="letter") == count, "what comes out can be printed"


def test_without_a_head_the_attachments_are_all():
    content, pages = composing.letter(None, [Text("unseen", "unseen")], [io.BytesIO(ATTACHMENT)], single_sided=True)
    assert pages == 3
    assert b"unseen" not in content


def test_what_was_filled_into_a_form_is_printed_and_the_form_is_gone():
    def fill(pdf: Pdf) -> None:
        field = pdf.make_indirect(
            Dictionary(
                Type=Name.Annot,
                Subtype=Name.Widget,
                FT=Name.Tx,
                T=String("name"),
                V=String("FILLED"),
                DA=String("/Helv 12 Tf 0 g"),
                F=4,
                Rect=Array([100, 100, 300, 120]),
            )
        )
        helvetica = Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica)
        pdf.pages[0].Annots = Array([field])
        pdf.Root.AcroForm = Dictionary(
            Fields=Array([field]), NeedAppearances=True, DR=Dictionary(Font=Dictionary(Helv=helvetica))
        )

    content, _ = composing.letter(None, [], [io.BytesIO(document(change=fill))], single_sided=True)
    with pikepdf.open(io.BytesIO(content)) as pdf:
        assert "/Annots" not in pdf.pages[0]
        assert "/AcroForm" not in pdf.Root
        forms = [form.read_bytes() for form in pdf.pages[0].Resources.XObject.values()]
        assert any(b"FILLED" in form for form in forms)
