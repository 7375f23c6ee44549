"""Phone numbers: parsed and validated against the world's numbering plans (`phonenumbers`), and compared by account.

An account that was registered under an older plan keeps its old number in WhatsApp. Such numbers are accepted, and
`canonical` maps them and their new form to one value.
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
"""E.164 digits, without the `+`, of numbers that are valid only under an older plan."""

_CANONICAL_FORMS: Final = (
    (re.compile(r"\+55([1-9]\d)9([6-9]\d{7})"), r"+55\1\2"),
    (re.compile(r"\+521(\d{10})"), r"+52\1"),
    (re.compile(r"\+549(\d{10})"), r"+54\1"),
    (re.compile(r"\+22901([4-9]\d{7})"), r"+229\1"),
)
"""Pattern of one of an account's two numbers → the other one, which stands for both."""


def parse_phone_number(text: str) -> str:
    """Return the number as E.164 (`+` and digits). Raises `LinkError` with `phone_number_invalid`.

    The message never repeats the number.
    """
    # 40 characters hold any number with its separators; bounds the parser's work.
    text = text.strip() if len(text) <= 40 else ""
    if text and not text.startswith("+") and any(c.isdigit() for c in text):
        raise _invalid(
            "phoneNumber lacks the + and the country's code at its beginning: +55 11 98765-4321, not 11 98765-4321."
        )
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        number = None
    if number is None or number.extension or not _is_assigned(number):
        raise _invalid(
            "phoneNumber must be a valid number in international form, with a leading + and the country's code."
        )
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def canonical(number: str) -> str:
    """The form of a number that is the same for all numbers of one account: to compare by, not to show or dial."""
    for pattern, form in _CANONICAL_FORMS:
        if (match := pattern.fullmatch(number)) is not None:
            return match.expand(form)
    return number


def _is_assigned(number: phonenumbers.PhoneNumber) -> bool:
    if phonenumbers.is_valid_number(number):
        return True
    digits = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164).removeprefix("+")
    return _OLD_PLANS.fullmatch(digits) is not None


def _invalid(message: str) -> LinkError:
    return LinkError("phone_number_invalid", message)
