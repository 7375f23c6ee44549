"""Phone numbers: checked by the numbering plans of the world, not by a pattern.

Accounts outlive numbering plans: whoever joined WhatsApp under an old plan keeps the old number there. Such forms pass,
and count as the same account as their new ones.
"""

from __future__ import annotations

import re
from typing import Final

import phonenumbers

from roundtrip.links.reasons import LinkError

_OLD_PLANS: Final = re.compile(
    r"55[1-9]\d[6-9]\d{7}"  # Brazil: mobiles of eight digits, before the ninth
    r"|521\d{10}"  # Mexico: a 1 before mobiles
    r"|229[4-9]\d{7}"  # Benin: eight digits, before the 01
    r"|225\d{8}"  # Ivory Coast: eight digits, before the operator's two
    r"|241\d{7}"  # Gabon: seven digits
)
"""E.164 digits that a plan of today no longer has."""

_SAME: Final = (
    (re.compile(r"\+55([1-9]\d)9([6-9]\d{7})"), r"+55\1\2"),
    (re.compile(r"\+521(\d{10})"), r"+52\1"),
    (re.compile(r"\+549(\d{10})"), r"+54\1"),
    (re.compile(r"\+22901([4-9]\d{7})"), r"+229\1"),
)
"""Two ways to write one account's number, and which of them stands for both."""


def parse_phone_number(text: str) -> str:
    """Return the number as E.164 (`+` and digits). Raises `LinkError` with `phone_number_invalid`.

    The message never repeats the number.
    """
    # Forty characters hold any number with its separators; the parser is not asked to chew on more.
    text = text.strip() if len(text) <= 40 else ""
    if text and not text.startswith("+") and any(c.isdigit() for c in text):
        raise _refused(
            "phoneNumber lacks the + and the country's code at its beginning: +55 11 98765-4321, not 11 98765-4321."
        )
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        number = None
    if number is None or number.extension or not _exists(number):
        raise _refused(
            "phoneNumber must be a valid number in international form, with a leading + and the country's code."
        )
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def canonical(number: str) -> str:
    """The one way to write an account's number that stands for all of them: to compare, not to show."""
    for pattern, form in _SAME:
        if (match := pattern.fullmatch(number)) is not None:
            return match.expand(form)
    return number


def _exists(number: phonenumbers.PhoneNumber) -> bool:
    if phonenumbers.is_valid_number(number):
        return True
    digits = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164).removeprefix("+")
    return _OLD_PLANS.fullmatch(digits) is not None


def _refused(message: str) -> LinkError:
    return LinkError("phone_number_invalid", message)
