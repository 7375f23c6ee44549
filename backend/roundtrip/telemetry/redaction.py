"""Redaction: which personal data may leave the process, and in which form. The one file that decides.

Three means, from strong to weak: a *hash* stands for an id so that its events can be followed; a *drop* leaves out a
field whose name says that it is private; a *scrub* looks for private shapes in free text, as the last defence.
"""

from __future__ import annotations

import functools
import hmac
import re
import secrets
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

HIDDEN: Final = "[hidden]"

_HASH_CHARS: Final = 16
"""64 bits in hex: no two users of one deployment are mistaken for each other."""

_LONGEST: Final = 8192
"""Characters of one text that are let out at most: nobody reads more, and looking costs time."""

_CACHED: Final = 8192

_key = secrets.token_bytes(32)


def configure(key: str | bytes | None) -> None:
    """Set the key of all hashes. None: one of this process, so that hashes of two runs do not match."""
    global _key
    _key = secrets.token_bytes(32) if key is None else key.encode() if isinstance(key, str) else key
    user_hash.cache_clear()
    key_hash.cache_clear()


@functools.lru_cache(_CACHED)
def user_hash(user_id: str) -> str:
    """What stands for a user: 16 hex characters of a keyed HMAC-SHA256."""
    return _hash(b"user", user_id)


@functools.lru_cache(_CACHED)
def key_hash(user_id: str, bot_id: str) -> str:
    """What stands for a user's bot: 16 hex characters of a keyed HMAC-SHA256."""
    return _hash(b"key", user_id, bot_id)


def bot_hash(bot_id: str) -> str:
    """What stands for a bot's id where its user is not known."""
    return _hash(b"bot", bot_id)


def address_hash(address: str) -> str:
    """What stands for the address of a client."""
    return _hash(b"address", address)


class LookUp(NamedTuple):
    """What an attempt looked for, and what of the same user was connected: hashes of keys, as `key_hash` makes them."""

    looked_for: str
    connected: tuple[str, ...]
    looked_for_is_user: bool
    """Whether the bot id that was looked for is the user's id, as is a bot id of `connected` with `connected_is_user`:
    somebody took one for the other."""
    connected_is_user: bool


def look_up(user_id: str, bot_id: str, connected: Iterable[str]) -> LookUp:
    """`bot_id` was looked for; `connected` are the bot ids of the same user that had sockets."""
    bots = tuple(connected)
    hashes = tuple(key_hash(user_id, bot) for bot in bots)
    return LookUp(key_hash(user_id, bot_id), hashes, bot_id == user_id, user_id in bots)


def _hash(kind: bytes, *parts: str) -> str:
    message = kind
    for part in parts:
        encoded = part.encode(errors="surrogatepass")
        message += b"\0%d\0%b" % (len(encoded), encoded)
    return hmac.digest(_key, message, "sha256").hex()[:_HASH_CHARS]


def mask_phone(number: str) -> str:
    """A phone number's last two digits, enough for users to tell two of their own apart."""
    digits = [c for c in number if c.isdigit()]
    return f"[phone …{''.join(digits[-2:])}]" if len(digits) > 6 else "[phone]"


PRIVATE_FIELDS: Final = frozenset(
    {
        "access_token",
        "api_key",
        "apikey",
        "authorization",
        "body",
        "cookie",
        "display_name",
        "displayname",
        "environ",
        "headers",
        "jid",
        "packet",
        "pairing_code",
        "pairingcode",
        "password",
        "payload",
        "phone",
        "phone_number",
        "phonenumber",
        "push_name",
        "pushname",
        "qr",
        "query",
        "query_string",
        "secret",
        "token",
    }
)
"""Names of fields, in lower case, whose value is never let out."""

_HASHED_FIELDS: Final[dict[str, Callable[[str], str]]] = {
    "user_id": user_hash,
    "userid": user_hash,
    "bot_id": bot_hash,
    "botid": bot_hash,
}


def field(name: str, value: object) -> object:
    """What may leave of one named value: itself, a hash of it, its scrubbed text, or `[hidden]`."""
    lowered = name.lower()
    if lowered in PRIVATE_FIELDS:
        return HIDDEN
    if lowered in _HASHED_FIELDS:
        return _HASHED_FIELDS[lowered](str(value))
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {str(key): field(str(key), part) for key, part in value.items()}
    if isinstance(value, tuple) and (names := getattr(value, "_fields", None)):  # a key is such a tuple
        return {str(name): field(str(name), part) for name, part in zip(names, value, strict=True)}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [field("", part) for part in value]
    if isinstance(value, BaseException):
        return message_of(value)
    return scrub(mask_quoted(str(value)))


_QR: Final = re.compile(r"(?:https?://wa\.me/[^\s#]{0,80}#)?\b\d@[A-Za-z0-9+/=_-]{8,}(?:,[A-Za-z0-9+/=_-]+)*")
_JID: Final = re.compile(
    r"[\w.+%-]{1,64}(?::\d{1,5})?@(?:s\.whatsapp\.net|c\.us|g\.us|lid|hosted(?:\.lid)?|broadcast|newsletter|msgr|bot)\b"
)
_TOKEN: Final = re.compile(r"\beyJ[\w-]{5,}\.[\w-]+(?:\.[\w-]*)?|\b(?:[Bb]earer|BEARER|[Bb]asic)\s+[\w.~+/=-]{6,}")
_NAMED: Final = re.compile(
    r"""(?ix)
    \b(?P<name> api[_-]?key | authorization | access[_-]?token | id[_-]?token | refresh[_-]?token | token | password
      | secret | cookie | pairing[_ -]?code | display[_ ]?name | push[_ ]?name | phone(?:[_ ]?number)? | jid | qr
      | user[_ ]?id | bot[_ ]?id )
    (?P<between> ["']? \s* [=:] \s* )
    (?: b?'(?:[^'\\]|\\.)*' | b?"(?:[^"\\]|\\.)*" | [^\s,;)&}\]]+ )
    """
)
_CODE: Final = re.compile(r"(?<![\w-])[1-9A-HJ-NP-TV-Z]{4}-[1-9A-HJ-NP-TV-Z]{4}(?![\w-])")
_CODE_AFTER: Final = re.compile(r"(?i)(pairing[_ -]?code\W{1,3})[1-9A-Z]{8}\b")
_PHONE: Final = re.compile(
    r"""(?x)
    (?: \+ \s? \d [\d\ ()./-]{5,20} \d              # +49 170 1234567, however it is grouped
      | (?<![0-9A-Za-z.\-]) \d{8,15} (?![0-9A-Za-z\-]|\.\d)            # 491701234567
      | (?<![0-9A-Za-z.:\-]) \(? \d{2,5} \)? [ /-] \d{2,5} (?: [ /-] \d{2,8} ){1,4} (?![0-9A-Za-z:\-]) )
    """
)


def _phone(match: re.Match[str]) -> str:
    text = match[0]
    digits = sum(c.isdigit() for c in text)
    if digits < (7 if text[0] == "+" else 8 if text.isdigit() else 9):
        return text
    return mask_phone(text)


def scrub(text: str) -> str:
    """Free text without phone numbers, JIDs, tokens, QR and pairing codes, and values named as private.

    It may hide a harmless number and cuts what is very long; it lets no known shape through. Names of persons have
    no shape: see `field`.
    """
    if len(text) < 4:
        return text
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}… [{len(text) - _LONGEST} more]"
    text = _QR.sub("[qr]", text)
    text = _JID.sub("[jid]", text)
    text = _TOKEN.sub("[token]", text)
    text = _NAMED.sub(rf"\g<name>\g<between>{HIDDEN}", text)
    text = _CODE_AFTER.sub(rf"\1{HIDDEN}", text)
    text = _CODE.sub("[code]", text)
    return _PHONE.sub(_phone, text)


_QUOTED: Final = re.compile(r"'(?:[^'\\]|\\.)*'?|\"(?:[^\"\\]|\\.)*\"?")
_CODE_ERRORS: Final = (TypeError, AttributeError, NameError, ImportError, NotImplementedError)
"""Their messages quote the program's own names; those of other errors quote the data that was wrong."""


def mask_quoted(text: str) -> str:
    """Free text of others, without what it quotes: that is where they put data."""
    return _QUOTED.sub("'…'", text)


def message_of(error: BaseException) -> str:
    """An error for a log or a reply: its type and its message, without the data that the message quotes.

    An `OSError` is its number's text, without the path. A message of the program's own errors holds no data.
    """
    name = type(error).__qualname__
    if isinstance(error, OSError):
        text = error.strerror or "" if error.errno is not None else mask_quoted(str(error))
    elif isinstance(error, _CODE_ERRORS) or type(error).__module__.startswith("roundtrip."):
        text = str(error)
    elif isinstance(error, KeyError):
        text = "'…'"
    elif isinstance(error, UnicodeError):
        text = ""
    else:
        text = mask_quoted(str(error))
    return f"{name}: {scrub(text)}" if text else name
