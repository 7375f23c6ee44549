"""Phone numbers: checked by the numbering plans of the world, not by a pattern."""

from __future__ import annotations

import phonenumbers

from backend.links.errors import LinkError


def parse_phone_number(text: str) -> str:
    """Return the number as E.164 (`+` and digits). Raises `LinkError` with `phone_number_invalid`.

    The message never repeats the number.
    """
    try:
        # Forty characters hold any number with its separators; the parser is not asked to chew on more.
        number = phonenumbers.parse(text if len(text) <= 40 else "", None)
    except phonenumbers.NumberParseException:
        number = None
    if number is None or not phonenumbers.is_valid_number(number) or number.extension:
        raise LinkError(
            "phone_number_invalid",
            "phoneNumber must be a valid number in international form, with a leading + and the country's code.",
            400,
        )
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
