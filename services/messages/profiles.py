"""The rules of service of each country, as data.

A profile is never edited once a release has carried it: a change of law is a new
one, and units are moved to it. What the rules cannot decide, such as proof that
a message came later than presumed, is for people to weigh.
"""

from __future__ import annotations

from zoneinfo import ZoneInfo

from services.messages import calendars
from services.messages.legal import Basis, Fact, Profile, Rule

_PROFILES = (
    Profile(
        name="fi-2010",
        source="Act on Electronic Services 13/2003, sections 18 and 19, as amended by 924/2010; "
        "Administrative Procedure Act 434/2003, sections 59 and 60",
        zone=ZoneInfo("Europe/Helsinki"),
        calendar=calendars.FINLAND,
        # Opening does not bring the third day forward: nobody's time for appeal gets shorter by reading early.
        ordinary=(
            Rule(Fact.AVAILABLE, Basis.THIRD_DAY, days=3),
            Rule(Fact.POSTED, Basis.PAPER_DEEMED, days=7),
            Rule(Fact.PAPER_RECEIPT, Basis.PAPER_RECEIPT),
        ),
        # A letter that replaces a receipt is served against a receipt too: posting alone serves nothing.
        verifiable=(Rule(Fact.RECEIPT, Basis.RECEIPT), Rule(Fact.PAPER_RECEIPT, Basis.PAPER_RECEIPT)),
        verifiable_lapse_days=7,
    ),
    Profile(
        name="no-2014",
        source="eForvaltningsforskriften (2004-06-25-988), section 8, as amended 2014; forvaltningsloven, section 29",
        zone=ZoneInfo("Europe/Oslo"),
        calendar=calendars.NORWAY,
        ordinary=(Rule(Fact.AVAILABLE, Basis.AVAILABLE), Rule(Fact.PAPER_RECEIPT, Basis.PAPER_RECEIPT)),
        verifiable=(Rule(Fact.RECEIPT, Basis.RECEIPT), Rule(Fact.PAPER_RECEIPT, Basis.PAPER_RECEIPT)),
    ),
    Profile(
        name="dk-2012",
        source="Lov om Digital Post fra offentlige afsendere, section 10: a message has arrived when it is available "
        "to its addressee, read or not",
        zone=ZoneInfo("Europe/Copenhagen"),
        calendar=calendars.DENMARK,
        ordinary=(Rule(Fact.AVAILABLE, Basis.AVAILABLE), Rule(Fact.PAPER_RECEIPT, Basis.PAPER_RECEIPT)),
        verifiable=(Rule(Fact.AVAILABLE, Basis.AVAILABLE), Rule(Fact.PAPER_RECEIPT, Basis.PAPER_RECEIPT)),
    ),
    Profile(
        name="it-2020",
        source="Decreto-legge 76/2020, article 26: at the view; else seven days after the digital delivery, ten days "
        "after that of the letter",
        zone=ZoneInfo("Europe/Rome"),
        calendar=calendars.ITALY,
        ordinary=(
            Rule(Fact.VIEWED, Basis.VIEWED),
            Rule(Fact.AVAILABLE, Basis.TERM, days=7),
            Rule(Fact.PAPER_RECEIPT, Basis.TERM, days=10),
        ),
        verifiable=(
            Rule(Fact.VIEWED, Basis.VIEWED),
            Rule(Fact.RECEIPT, Basis.RECEIPT),
            Rule(Fact.AVAILABLE, Basis.TERM, days=7),
            Rule(Fact.PAPER_RECEIPT, Basis.TERM, days=10),
        ),
    ),
)

PROFILES = {profile.name: profile for profile in _PROFILES}

DEFAULT = "fi-2010"
"""For units that do not say."""
