"""Phone numbers: what is accepted, and which of them are one account."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundtrip.links.phone import canonical, parse_phone_number
from roundtrip.links.reasons import LinkError


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("+14155550142", "+14155550142"),
        (" +44 (0)20 7946 0958", "+442079460958"),
        ("+49-1512-3456789", "+4915123456789"),
        ("+55 11 8765-4321", "+551187654321"),
        ("+52 1 55 1234 5678", "+5215512345678"),
        ("+229 61 23 45 67", "+22961234567"),
    ],
)
def test_a_phone_number_is_normalized(text: str, number: str) -> None:
    assert parse_phone_number(text) == number


@given(st.text(max_size=200))
def test_no_text_breaks_the_phone_number_check(text: str) -> None:
    try:
        number = parse_phone_number(text)
    except LinkError as error:
        outcome = error.code
    else:
        outcome = "valid" if number.startswith("+") and number[1:].isdigit() and number.isascii() else number
    assert outcome in ("phone_number_invalid", "valid")


def test_a_missing_plus_has_an_error_of_its_own() -> None:
    with pytest.raises(LinkError, match=r"lacks the \+"):
        parse_phone_number("11 98765-4321")


@pytest.mark.parametrize(("old", "new"), [("+551187654321", "+5511987654321"), ("+5215512345678", "+525512345678")])
def test_two_ways_to_write_a_number_are_one_account(old: str, new: str) -> None:
    assert canonical(old) == canonical(new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("+551187654321", "+5511987654321"),
        ("+5215512345678", "+525512345678"),
        ("+541112345678", "+5491112345678"),
        ("+22961234567", "+2290161234567"),
    ],
)
def test_an_old_and_a_new_plan_are_one_account_and_adjacent_numbers_are_not(old: str, new: str) -> None:
    assert canonical(old) == canonical(new)
    neighbour = old[:-1] + str((int(old[-1]) + 1) % 10)
    assert canonical(neighbour) != canonical(new)
    assert canonical("+14155550142") == "+14155550142"
