from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundtrip.identity import MAX_ID_LENGTH, BotKey, IdentityError

# Control, format and separator characters are not printable; but for the space, which may stand inside
printable = st.characters(exclude_categories=("C", "Z")) | st.just(" ")
good_ids = st.text(printable, min_size=1, max_size=MAX_ID_LENGTH).filter(
    lambda text: text.isprintable() and text == text.strip()
)


@given(good_ids, good_ids, good_ids, good_ids)
def test_keys_are_equal_only_if_both_ids_are(user: str, bot: str, other_user: str, other_bot: str) -> None:
    one, other = BotKey.parse(user, bot), BotKey.parse(other_user, other_bot)
    assert (one == other) is ((user, bot) == (other_user, other_bot))
    assert (one.user_id, one.bot_id) == (user, bot)


def test_ids_that_join_to_the_same_text_make_different_keys() -> None:
    assert len({BotKey.parse("a_b", "c"), BotKey.parse("a", "b_c"), BotKey.parse("a_b_c", "c")}) == 3


@pytest.mark.parametrize(
    ("user", "bot", "code"),
    [
        ("user", None, "bot_id_missing"),
        ("user", "", "bot_id_missing"),
        ("user", 7, "bot_id_invalid"),
        ("user", {}, "bot_id_invalid"),
        ("user", "x" * (MAX_ID_LENGTH + 1), "bot_id_invalid"),
        ("user", " bot", "bot_id_invalid"),
        ("user", "bot\0", "bot_id_invalid"),
        ("user", "\ud800", "bot_id_invalid"),
        (None, "bot", "user_id_invalid"),
        ("", "bot", "user_id_invalid"),
        (["user"], "bot", "user_id_invalid"),
    ],
)
def test_what_cannot_be_a_key_is_refused_with_its_code(user: object, bot: object, code: str) -> None:
    with pytest.raises(IdentityError) as refused:
        BotKey.parse(user, bot)
    assert refused.value.code == code


@given(st.one_of(st.none(), st.integers(), st.text(), st.binary(), st.dictionaries(st.text(), st.text())))
def test_nothing_else_is_raised_whatever_comes(value: object) -> None:
    with suppress(IdentityError):
        assert BotKey.parse("user", value).bot_id == value
