"""Nothing private leaves: each shape is looked for inside arbitrary text."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundtrip.identity import BotKey, IdentityError
from roundtrip.telemetry import redaction
from roundtrip.telemetry.redaction import field, key_hash, mask_phone, message_of, scrub, user_hash

_PLAIN = st.text(st.characters(whitelist_categories=["Ll"], max_codepoint=0x17F), max_size=20)
_B64 = st.text(string.ascii_letters + string.digits + "+/", min_size=20, max_size=44)


def around(secret: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, str]]:
    """A secret, and a line that holds it between words and marks as logs have them."""
    mark = st.sampled_from([" ", ": ", "=", " (", ", ", '"', "'", "\n", "/", "["])
    end = st.sampled_from([" ", ". ", ", ", ") ", '"', "'", "\n", "]"])
    return st.tuples(secret, _PLAIN, mark, end, _PLAIN).map(lambda t: (t[0], t[1] + t[2] + t[0] + t[3] + t[4]))


phones = st.integers(10**7, 10**14).map(lambda number: f"+{number}")
bare = st.integers(10**9, 10**14).map(str)
jids = st.tuples(
    bare, st.sampled_from(["", ":3", ".0:12", "_1"]), st.sampled_from(["s.whatsapp.net", "lid", "g.us"])
).map(lambda t: f"{t[0]}{t[1]}@{t[2]}")
qrs = st.tuples(_B64, _B64, _B64).map(lambda t: f"2@{t[0]},{t[1]}=,{t[2]}=")
tokens = st.tuples(_B64, _B64, _B64).map(lambda t: "eyJ" + ".".join(t).replace("+", "-").replace("/", "_"))
codes = st.text("123456789ABCDEFGHJKLMNPQRSTVWXYZ", min_size=8, max_size=8).map(lambda c: f"{c[:4]}-{c[4:]}")


class TestScrub:
    @given(around(st.one_of(phones, bare, jids, qrs, tokens, codes)))
    def test_no_known_shape_comes_through(self, case: tuple[str, str]) -> None:
        secret, line = case
        clean = scrub(line)
        assert secret not in clean
        for part in secret.replace(",", " ").replace("@", " ").replace(":", " ").split():
            if len(part) >= 7 and "whatsapp" not in part:
                assert part not in clean

    @pytest.mark.parametrize(
        "written", ["+49 170 1234567", "+49-170-1234567", "+1 (555) 010-0199", "0170 123 4567", "49/170/1234567"]
    )
    def test_a_phone_number_however_it_is_grouped(self, written: str) -> None:
        clean = scrub(f"calling {written} failed")
        assert "123456" not in clean.replace(" ", "")
        assert "010" not in clean

    @pytest.mark.parametrize(
        "line",
        [
            "2026-11-22T10:00:00.123Z",
            "listening on http://127.0.0.1:8080",
            "event 0193a2b4-7c11-7abc-8def-0123456789ab",
            "trace 4bf92f3577b34da6a3ce929d0e0e4736",
            "worker 1234567 exited with -9 after 12.345678901 s",
            "whatsapp_connected",
        ],
    )
    def test_what_is_harmless_stays(self, line: str) -> None:
        assert scrub(line) == line

    @pytest.mark.parametrize(
        "line",
        [
            "{'userId': 'canary', 'botId': \"canary\"}",
            "BotKey(user_id='canary', bot_id='canary')",
            "/socket.io/?userId=canary&botId=canary&token=canary",
            'display_name="canary of the mine", x',
            "Authorization: canary",
            "pairing code: canary",
        ],
    )
    def test_values_that_are_named_as_private_go(self, line: str) -> None:
        assert "canary" not in scrub(line)

    @given(st.text(max_size=300))
    def test_it_takes_any_text_and_is_done_with_it(self, text: str) -> None:
        once = scrub(text)
        assert scrub(once) == scrub(scrub(once))

    def test_it_is_not_slow_on_hostile_text(self) -> None:
        for piece in (
            "1 ",
            "a",
            "1",
            "_",
            "phone=",
            "+1",
            "2@aaaaaaaaaa,",
            "a@",
            "eyJaaaaa.",
            "'\\",
            "user_id=",
            "(1) ",
            "+1()",
        ):
            scrub(piece * 5_000)  # the suite's timeout is the assertion


class TestField:
    @pytest.mark.parametrize(
        "name", ["qr", "phone_number", "phoneNumber", "displayName", "token", "Authorization", "jid"]
    )
    def test_a_private_name_hides_any_value(self, name: str) -> None:
        assert field(name, "anything") == "[hidden]"
        assert field("outer", {"deep": [{name: "anything"}]}) == {"deep": [{name: "[hidden]"}]}

    def test_ids_become_hashes(self) -> None:
        assert field("user_id", "ada") == field("userId", "ada") == user_hash("ada")
        assert "ada" not in str(field("bot_id", "ada"))

    def test_numbers_and_flags_stay(self) -> None:
        assert [field("n", value) for value in (1, 2.5, True, None)] == [1, 2.5, True, None]

    def test_an_object_is_not_trusted(self) -> None:
        assert "ada" not in str(field("key", BotKey("ada", "ada")))


class TestHashes:
    def test_one_key_gives_one_hash(self) -> None:
        redaction.configure("one")
        first = user_hash("ada")
        redaction.configure("other")
        assert user_hash("ada") != first
        redaction.configure("one")
        assert user_hash("ada") == first
        redaction.configure(None)
        assert user_hash("ada") != first

    def test_pairs_that_join_alike_differ(self) -> None:
        assert len({key_hash("a_b", "c"), key_hash("a", "b_c"), key_hash("a_bc", ""), user_hash("a")}) == 4

    @given(st.text(max_size=130), st.text(max_size=130))
    def test_any_id_can_be_hashed(self, user: str, bot: str) -> None:
        assert len(user_hash(user)) == len(key_hash(user, bot)) == 16


def test_a_masked_phone_number_keeps_two_digits() -> None:
    assert mask_phone("+49 170 1234567") == "[phone …67]"
    assert mask_phone("12345") == "[phone]"


class TestErrors:
    @pytest.mark.parametrize(
        "error",
        [
            KeyError("canary"),
            ValueError("invalid literal for int() with base 10: 'canary'"),
            LookupError('no "canary" here'),
            RuntimeError("call to +49 170 1234567 failed: 'canary'"),
            FileNotFoundError(2, "No such file", "/stores/canary"),
            UnicodeDecodeError("utf-8", b"canary", 0, 1, "canary"),
        ],
    )
    def test_the_data_that_was_wrong_is_not_said(self, error: Exception) -> None:
        message = message_of(error)
        assert message.startswith(type(error).__name__)
        assert "canary" not in message
        assert "1234567" not in message

    def test_the_programs_own_messages_are_whole(self) -> None:
        assert message_of(IdentityError("bot_id_missing", "A botId is needed.")) == "IdentityError: A botId is needed."
        quoting = IdentityError("bot_id_missing", "'botId' is missing.")
        assert message_of(quoting) == "IdentityError: 'botId' is missing.", "the program's own errors quote no data"
        assert message_of(TypeError("f() got an unexpected keyword 'x'")).endswith("'x'")
