"""The rules of service of each country, as data.

A profile is never edited once a release has carried it: a change of law is a new
one, and units are moved to it. What the rules cannot decide, such as proof that
a message came later than presumed, is for people to weigh.
"""

from __future__ import annotations

from zoneinfo import ZoneInfo

from services.messages import calendars
from services.messages.legal import Basis, Fact, Kind, Profile, Rule

# Finland

SERVICES_18 = (
    "Act on Electronic Services and Communication in the Public Sector 13/2003, section 18, as amended by 924/2010:"
    " when it is retrieved; by other means where that has not happened within seven days of the authority's notice"
)
SERVICES_19 = (
    "Act on Electronic Services and Communication in the Public Sector 13/2003, section 19(2), as amended by 924/2010:"
    " on the third day after it was sent, unless shown otherwise"
)
ADMINISTRATION_59 = (
    "Administrative Procedure Act 434/2003, section 59(2): on the seventh day after the letter was sent, unless shown"
    " otherwise"
)
ADMINISTRATION_60 = (
    "Administrative Procedure Act 434/2003, section 60: at the time that the certificate of receipt shows"
)

# Norway. Neither act presumes when an ordinary letter arrives.

EFORVALTNING_8 = (
    "eForvaltningsforskriften (2004-06-25-988), section 8, as amended 2014, with forvaltningsloven (1967-02-10),"
    " section 29: when it has been made available in the information system and notice of it has been sent"
)
FORVALTNING_29 = "Forvaltningsloven (1967-02-10), section 29: when the notification has reached its party"

# Denmark. The act does not say when a letter arrives.

DIGITAL_POST_10 = (
    "Lov om Digital Post fra offentlige afsendere (lov nr. 528 of 2012), section 10, no. 1: when it is available to its"
    " addressee in the solution, read or not"
)
DANISH_LETTER = "General principles of Danish administrative law: when the letter has reached its addressee"

# Italy. That a mailbox is full (fifteen days) cannot happen here.

NOTIFICATIONS_VIEW = (
    "Decreto-legge 76/2020, article 26, paragraph 9: in any case when the recipient or its delegate has access to it"
)
NOTIFICATIONS_DIGITAL = (
    "Decreto-legge 76/2020, article 26, paragraph 9: on the seventh day after the delivery of the notice; after 21:00"
    " the days are counted from the next one"
)
NOTIFICATIONS_PAPER = (
    "Decreto-legge 76/2020, article 26, paragraph 9: on the tenth day after the notice on paper was served"
)

NOTIFICATIONS_UNCLAIMED = (
    "Decreto-legge 76/2020, article 26, paragraph 9, with legge 890/1982, article 8, as in force since 2019: a notice"
    " on paper that waits to be collected is served once ten days have passed since the registered letter that says so"
    " was sent, or when it is collected if that is before; and the message on the tenth day after that"
)

_ITALIAN_VIEW_AND_TERMS = (
    Rule(Fact.VIEWED, Basis.VIEWED, source=NOTIFICATIONS_VIEW),
    Rule(Fact.AVAILABLE, Basis.TERM, days=7, day_ends=21, source=NOTIFICATIONS_DIGITAL),
    Rule(Fact.PAPER_RECEIPT, Basis.TERM, days=10, source=NOTIFICATIONS_PAPER),
    Rule(Fact.PAPER_DEPOSITED, Basis.TERM, days=10 + 10, source=NOTIFICATIONS_UNCLAIMED),
)

_PROFILES = (
    Profile(
        name="fi-2010",
        zone=ZoneInfo("Europe/Helsinki"),
        calendar=calendars.FINLAND,
        # Opening does not bring the third day forward: nobody's time for appeal gets shorter by reading early.
        ordinary=(
            Rule(Fact.AVAILABLE, Basis.THIRD_DAY, days=3, source=SERVICES_19),
            Rule(Fact.POSTED, Basis.PAPER_DEEMED, days=7, source=ADMINISTRATION_59),
            Rule(Fact.PAPER_RECEIPT, Basis.PAPER_RECEIPT, source=ADMINISTRATION_60),
        ),
        # A letter that replaces a receipt is served against a receipt too: posting alone serves nothing.
        verifiable=(
            Rule(Fact.RECEIPT, Basis.RECEIPT, source=SERVICES_18),
            Rule(Fact.PAPER_RECEIPT, Basis.PAPER_RECEIPT, source=ADMINISTRATION_60),
        ),
        verifiable_lapse_days=7,
    ),
    Profile(
        name="no-2014",
        zone=ZoneInfo("Europe/Oslo"),
        calendar=calendars.NORWAY,
        ordinary=(
            Rule(Fact.AVAILABLE, Basis.AVAILABLE, source=EFORVALTNING_8),
            Rule(Fact.PAPER_RECEIPT, Basis.PAPER_RECEIPT, source=FORVALTNING_29),
        ),
        verifiable=(
            Rule(Fact.RECEIPT, Basis.RECEIPT, source=FORVALTNING_29),
            Rule(Fact.PAPER_RECEIPT, Basis.PAPER_RECEIPT, source=FORVALTNING_29),
        ),
        # Section 9: one may reserve oneself against what section 8 is about, decisions and what bears on rights.
        information_despite_opt_out=True,
        # Section 8, fifth paragraph: told once more where it has not been accessed within a week of being available.
        reminder_days={Kind.ORDINARY: 7, Kind.VERIFIABLE: 7},
    ),
    Profile(
        name="dk-2012",
        zone=ZoneInfo("Europe/Copenhagen"),
        calendar=calendars.DENMARK,
        ordinary=(
            Rule(Fact.AVAILABLE, Basis.AVAILABLE, source=DIGITAL_POST_10),
            Rule(Fact.PAPER_RECEIPT, Basis.PAPER_RECEIPT, source=DANISH_LETTER),
        ),
        verifiable=(
            Rule(Fact.AVAILABLE, Basis.AVAILABLE, source=DIGITAL_POST_10),
            Rule(Fact.PAPER_RECEIPT, Basis.PAPER_RECEIPT, source=DANISH_LETTER),
        ),
    ),
    Profile(
        name="it-2020",
        zone=ZoneInfo("Europe/Rome"),
        calendar=calendars.ITALY,
        ordinary=_ITALIAN_VIEW_AND_TERMS,
        verifiable=(*_ITALIAN_VIEW_AND_TERMS, Rule(Fact.RECEIPT, Basis.RECEIPT, source=NOTIFICATIONS_VIEW)),
    ),
)

PROFILES = {profile.name: profile for profile in _PROFILES}

DEFAULT = "fi-2010"
"""For units that do not say."""
