"""Who may use the admin listener: who has the key, or a browser's session that began with it.

A session is a random cookie (HttpOnly, SameSite=Strict) of limited life, known here by its hash. A change that a
browser asks for needs the page's own origin and a token besides: the cookie alone is sent by whatever page it shows.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from roundtrip.api.problems import Problem

COOKIE: Final = "roundtrip_admin"
TOKEN_HEADER: Final = "X-Console-Token"  # noqa: S105  # a name

LIFE: Final = 8 * 3600.0
"""Seconds of a session, whatever is done in it."""

MOST_SESSIONS: Final = 100

ATTEMPTS: Final = 10
ALL_ATTEMPTS: Final = 60
"""Wrong keys within `ATTEMPTS_WINDOW`, of one address and of all."""

ATTEMPTS_WINDOW: Final = 60.0

LOGIN: Final = "/debug/console/login"
LOGOUT: Final = "/debug/console/logout"

FREE_PREFIXES: Final = ("/console/", "/static/", "/vendor/")
"""The page itself holds nothing."""

_READS: Final = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS})


class Sessions:
    """Sessions of browsers, in memory: a restart ends them."""

    def __init__(
        self, key: str | None, on_login: Callable[[str], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Without a `key` no session is needed. `on_login(result)` counts: accepted, refused, limited. Raises
        `ValueError` for an empty key, which any request would match."""
        if key == "":
            raise ValueError("an empty key opens to everybody")
        self._key = None if key is None else _digest(key)
        self._on_login = on_login
        self._monotonic = monotonic
        self._sessions: OrderedDict[bytes, float] = OrderedDict()
        self._wrong: deque[tuple[float, str]] = deque(maxlen=ALL_ATTEMPTS)
        self._secret = secrets.token_bytes(32)

    @property
    def key_needed(self) -> bool:
        return self._key is not None

    def accepts_key(self, key: str | None) -> bool:
        return self._key is None or (key is not None and hmac.compare_digest(_digest(key), self._key))

    def login(self, key: str, address: str) -> str:
        """The value of a new session's cookie. Raises `Problem`: `unauthorized`, `rate_limited`."""
        now = self._monotonic()
        while self._wrong and now - self._wrong[0][0] > ATTEMPTS_WINDOW:
            self._wrong.popleft()
        own = sum(1 for _, other in self._wrong if other == address)
        if own >= ATTEMPTS or len(self._wrong) >= ALL_ATTEMPTS:
            self._on_login("limited")
            raise Problem("rate_limited", "Too many wrong keys; wait a minute.", 429, retry_after=ATTEMPTS_WINDOW)
        if not self.accepts_key(key):
            self._wrong.append((now, address))
            self._on_login("refused")
            raise Problem("unauthorized", "This is not the admin key.", 401)
        self._on_login("accepted")
        cookie = secrets.token_urlsafe(32)
        self._sessions[_digest(cookie)] = now + LIFE
        while len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return cookie

    def logout(self, cookie: str | None) -> None:
        if cookie is not None:
            self._sessions.pop(_digest(cookie), None)

    def knows(self, cookie: str | None) -> bool:
        """Whether a cookie is that of a session that has not ended."""
        if cookie is None:
            return False
        ends = self._sessions.get(_digest(cookie))
        if ends is not None and ends <= self._monotonic():
            self.logout(cookie)
            return False
        return ends is not None

    def token(self, cookie: str | None) -> str:
        """What changes must carry: bound to the session, or to this process where none is needed."""
        return hmac.digest(self._secret, (cookie or "").encode(errors="surrogatepass"), "sha256").hex()

    def check_change(self, request: web.Request) -> None:
        """A change that a browser asks for must come from this very page. Raises `Problem` with `forbidden`."""
        origin = request.headers.get(hdrs.ORIGIN)
        cookie = request.cookies.get(COOKIE)
        by_browser = origin is not None or "Sec-Fetch-Site" in request.headers or self.knows(cookie)
        if request.method in _READS or not by_browser:
            return
        if origin is None or urlsplit(origin).netloc.lower() != request.host.lower():
            raise Problem("forbidden", "A change must come from the console's own page.", 403)
        if request.path == LOGIN:
            return
        given = request.headers.get(TOKEN_HEADER, "")
        known = cookie if self.knows(cookie) else None
        if not hmac.compare_digest(given.encode(errors="surrogatepass"), self.token(known).encode()):
            raise Problem("forbidden", "The console's token is missing or expired; reload the page.", 403)


class AdminAccess:
    """Middleware: demands the key or a session, and guards changes. Bearer token (Prometheus), password of basic auth,
    or cookie."""

    def __init__(self, sessions: Sessions, free: Collection[str]) -> None:
        """`free` are paths that need no key: probes have none."""
        self._sessions = sessions
        self._free = frozenset(free)

    def install(self, app: web.Application) -> None:
        app.middlewares.append(self._middleware())

    def _middleware(self) -> Middleware:
        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not self._is_free(request) and not self._is_allowed(request):
                navigates = request.headers.get("Sec-Fetch-Mode", "navigate") == "navigate"
                challenge = 'Basic realm="roundtrip admin", charset="UTF-8"' if navigates else "Bearer"
                headers = {"WWW-Authenticate": challenge}  # a browser opens a window of its own for Basic
                raise Problem("unauthorized", "The admin key is needed.", 401, headers=headers)
            self._sessions.check_change(request)
            return await handler(request)

        return check

    def _is_free(self, request: web.Request) -> bool:
        path = request.path
        return path in self._free or path == LOGIN or (path == "/" or path.startswith(FREE_PREFIXES))

    def _is_allowed(self, request: web.Request) -> bool:
        if not self._sessions.key_needed or self._sessions.knows(request.cookies.get(COOKIE)):
            return True
        key = _key_in(request.headers.get(hdrs.AUTHORIZATION, ""))
        return key is not None and self._sessions.accepts_key(key)


def set_cookie(response: web.Response, cookie: str, *, secure: bool) -> None:
    response.set_cookie(
        COOKIE, cookie, max_age=int(LIFE), path="/", httponly=True, samesite="Strict", secure=secure or None
    )


def _key_in(authorization: str) -> str | None:
    """The bearer token or the basic password of an `Authorization` header, None without one."""
    scheme, _, rest = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return rest.strip()
        case "basic":
            try:
                decoded = base64.b64decode(rest.strip(), validate=True).decode()
            except (binascii.Error, UnicodeDecodeError, ValueError):
                return None
            return decoded.partition(":")[2]
        case _:
            return None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
