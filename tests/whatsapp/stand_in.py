"""The stand-in: an HTTP CONNECT proxy that leads to a WhatsApp of the test's own, and the phones that use it.

It lives in the test's process; the backend (or its worker) may run in another. A client gets there with its proxy
set to `proxy_url`, `SSL_CERT_FILE` naming `ca_file`, and `noise_root` in place of the pinned key (patched_worker).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.measured import measured
from tests.whatsapp import history
from tests.whatsapp.accounts import Account, Line
from tests.whatsapp.certificates import server_context
from tests.whatsapp.channel import Channel, ClosedError
from tests.whatsapp.name_sync import COLLECTION
from tests.whatsapp.nodes import SERVER, Jid, Node
from tests.whatsapp.noise import Authority
from tests.whatsapp.phone import CodePairing, QrText, signed_identity
from tests.whatsapp.sealed import Bundle, first_message
from tests.whatsapp.tokens import tables
from tests.whatsapp.troubles import How, Stage, Trouble, Troubles

REFS = 6


def patched_worker(noise_root: str) -> tuple[str, ...]:
    """How the driver starts the worker that believes in this key, in hexadecimal, whatever the folder."""
    script = (
        f"import runpy; runpy.run_path({str(Path(__file__).with_name('patched_worker.py'))!r}, run_name='__main__')"
    )
    return measured((sys.executable, "-c", script, noise_root))


class StandIn:
    def __init__(self, context: ssl.SSLContext, ca_file: Path) -> None:
        self._context = context
        self.ca_file = ca_file
        self.authority = Authority()
        self._chain = self.authority.chain()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.lines: list[Line] = []
        self.accounts: dict[str, Account] = {}
        self.let_in: list[str] = []
        """The phone of each login, in their order."""
        self.turned_away = Counter[str]()
        self.troubles = Troubles()
        self.refs = REFS
        """Codes that a new device is given to show."""
        self.registrations: list[Line] = []
        """Every connection that asked for codes, the newest last."""
        self._channels: set[Channel] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # what a client needs to get here

    @property
    def proxy_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def noise_root(self) -> str:
        return self.authority.root.public.hex()

    @property
    def worker_command(self) -> Sequence[str]:
        """The worker that believes in this stand-in's key."""
        return patched_worker(self.noise_root)

    @property
    def backend_command(self) -> Sequence[str]:
        """The whole program, with such workers; it also needs ROUNDTRIP_WHATSAPP_PROXY."""
        return (sys.executable, "-m", "tests.whatsapp.backend_with_stand_in", self.noise_root, str(self.ca_file))

    @property
    def environment(self) -> dict[str, str]:
        return {"SSL_CERT_FILE": str(self.ca_file)}

    # the server

    async def start(self) -> None:
        tables()  # skips here, with the reason, rather than fail inside a connection
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for channel in self._channels:
            channel.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = Channel(reader, writer)
        self._channels.add(channel)
        self._run(self._serve(channel))

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, channel: Channel) -> None:
        self.troubles.arrived()
        try:
            host = await channel.proxy(self._context, self.troubles)
            if host == history.HOST:
                await channel.serve_file(self._fetch)
            line = Line(channel, await channel.open(self.authority, self._chain, self.troubles))
            self.lines.append(line)
            try:
                await self._talk(line)
            finally:
                self.lines.remove(line)
                if line.account is not None and line.account.line is line:
                    line.account.line = None
        except (ClosedError, OSError):
            self.turned_away["closed"] += 1
        finally:
            channel.abort()
            self._channels.discard(channel)

    def _fetch(self, path: str) -> bytes | None:
        pasts = (account.past for account in self.accounts.values() if account.past is not None)
        return next((found for past in pasts if (found := past.fetch(path)) is not None), None)

    async def _talk(self, line: Line) -> None:
        how = self.troubles.at(Stage.LOGIN, str(line.payload.username) or None)
        if how is not None:
            if (account := self.accounts.get(str(line.payload.username))) is not None:
                account.lines += 1
            if how is How.REFUSE:
                raise ClosedError
            while True:
                await line.channel.receive()
        if line.registering:
            self.registrations.append(line)
            self._offer_codes(line)
        else:
            self._log_in(line)
        while True:
            node = await line.channel.receive()
            self._received(line, node)

    def _received(self, line: Line, node: Node) -> None:
        if node.child("pair-device-sign") is not None:
            line.signed.set()
        delay = 0.0
        if line.account is not None:
            line.account.received[node.tag] += 1
            if line.account.silent:
                return
            delay = line.account.iq_delay.get(node.text("xmlns"), 0.0)
        if node.tag == "iq" and node.text("type") in ("get", "set"):
            asyncio.get_running_loop().call_later(delay, self._answer, line, node)

    def _offer_codes(self, line: Line) -> None:
        refs = [Node("ref", {}, f"2@{secrets.token_urlsafe(48)}".encode()) for _ in range(self.refs)]
        attrs: dict[str, str | Jid] = {"from": SERVER, "type": "set", "id": secrets.token_hex(4), "xmlns": "md"}
        line.channel.send(Node("iq", attrs, [Node("pair-device", {}, list(refs))]))

    def _log_in(self, line: Line) -> None:
        account = self.accounts.get(str(line.payload.username))
        if account is not None:
            account.lines += 1
        removed = account is None or account.device_key != line.channel.client_key
        refusal = {"reason": "401", "location": "stand-in"} if removed else account.refusal if account else None
        if account is None or refusal is not None:
            if account is not None:
                account.refused_at.append(time.monotonic())
            line.channel.send(Node("failure", dict(refusal or {})))
            line.channel.close()
            return
        account.logins += 1
        if account.line is not None and not account.line.channel.frozen:
            account.replaced += 1
            account.line.channel.send(Node("stream:error", {}, [Node("conflict", {"type": "replaced"})]))
            account.line.channel.close()
        self.let_in.append(account.phone)
        account.line, line.account = line, account
        if not account.silent:
            lid = Jid(f"9{account.phone}", "lid", account.device)
            line.channel.send(Node("success", {"t": str(int(time.time())), "lid": lid}))

    def _answer(self, line: Line, node: Node) -> None:
        content: list[Node] | None = None
        if line.account is not None and (error := line.account.iq_errors.get(node.text("xmlns"))) is not None:
            answer: dict[str, str | Jid] = {"from": SERVER, "type": "error", "id": node.text("id")}
            line.channel.send(Node("iq", answer, [Node("error", {"code": error, "text": "no"})]))
            return
        registration = node.child("link_code_companion_reg")
        share = False
        if node.text("xmlns") == "encrypt" and node.text("type") == "get":
            content = [Node("count", {"value": "812"})]
        elif node.text("xmlns") == "encrypt" and node.child("skey") is not None:
            share = True
        elif node.child("media_conn") is not None:
            hosts: list[Node] = [Node("host", {"hostname": history.HOST})]
            content = [Node("media_conn", {"auth": "a", "ttl": "300", "auth_ttl": "3600", "max_buckets": "12"}, hosts)]
        elif (sync := node.child("sync")) is not None and isinstance(sync.content, list):
            content = [Node("sync", {}, [self._collection(line, one.text("name")) for one in sync.content])]
        elif registration is not None and registration.text("stage") == "companion_hello":
            line.hello, line.ref = registration, secrets.token_hex(8).encode()
            content = [Node("link_code_companion_reg", {}, [Node("link_code_pairing_ref", {}, line.ref)])]
        elif node.child("remove-companion-device") is not None and line.account is not None:
            line.account.device_key = b""
        attrs: dict[str, str | Jid] = {"from": SERVER, "type": "result", "id": node.text("id")}
        line.channel.send(Node("iq", attrs, content))
        if share and line.account is not None:
            self._share_key(line, line.account, Bundle.read(node))
        if registration is not None and registration.text("stage") == "companion_finish":
            self._finish_code(line, registration)

    def _share_key(self, line: Line, account: Account, bundle: Bundle) -> None:
        """The phone's first messages to its new device."""
        account.bundle = bundle
        if account.business:
            return
        self._send_message(line, account, first_message(account.key, bundle, account.sync.key_share()))
        if account.past is not None:
            for text in account.past.notifications(account.phone):
                self._send_message(line, account, first_message(account.key, bundle, text, spend_key=False))

    def _send_message(self, line: Line, account: Account, sealed: bytes) -> None:
        attrs: dict[str, str | Jid] = {
            "from": Jid(account.phone),
            "type": "text",
            "category": "peer",
            "id": secrets.token_hex(8).upper(),
            "t": str(int(time.time())),
        }
        line.channel.send(Node("message", attrs, [Node("enc", {"v": "2", "type": "pkmsg"}, sealed)]))

    def _collection(self, line: Line, name: str) -> Node:
        """One collection of the account's settings: the name, and what an account with a past has besides."""
        account = line.account
        if account is None or account.business:
            return Node("collection", {"name": name})
        if account.past is not None and (changes := account.past.changes(name)):
            reference = account.past.reference(name, account.sync.snapshot(name, changes))
            return Node("collection", {"name": name, "version": "1"}, [Node("snapshot", {}, reference)])
        if name != COLLECTION:
            return Node("collection", {"name": name})
        patch = Node("patch", {}, account.sync.patch(account.name))
        return Node("collection", {"name": name, "version": "1"}, [Node("patches", {}, [patch])])

    # what a person does with the phone

    def account(self, phone: str, name: str = "Ada Lovelace") -> Account:
        """The phone's account; it is made on first use. `phone` is digits."""
        return self.accounts.setdefault(phone, Account(phone, name))

    async def scan(self, qr: str, phone: str = "447441395830", name: str = "Ada Lovelace") -> Account:
        """Scan a code that a client shows, with the phone of that number."""
        text = QrText.parse(qr)
        line = next(one for one in self.lines if one.channel.client_key == text.noise_key)
        account = self.account(phone, name)
        await self._pair(line, account, text.secret)
        return account

    def enter_code(self, code: str, phone: str, name: str = "Ada Lovelace") -> Account:
        """Type a pairing code into the phone of that number."""
        line = next(one for one in self.lines if one.hello is not None and one.hello.text("jid").startswith(phone))
        assert line.hello is not None
        wrapped = line.hello.child("link_code_pairing_wrapped_companion_ephemeral_pub")
        assert wrapped is not None
        assert isinstance(wrapped.content, bytes)
        account = self.account(phone, name)
        line.account = account
        line.code = CodePairing(code, wrapped.content, account.key)
        content = [
            Node("link_code_pairing_wrapped_primary_ephemeral_pub", {}, line.code.wrapped_key),
            Node("primary_identity_pub", {}, account.key.public),
            Node("link_code_pairing_ref", {}, line.ref),
        ]
        hello = Node("link_code_companion_reg", {"stage": "primary_hello"}, content)
        attrs: dict[str, str | Jid] = {"from": SERVER, "type": "link_code_companion_reg", "id": secrets.token_hex(4)}
        line.channel.send(Node("notification", attrs, [hello]))
        return account

    def _finish_code(self, line: Line, registration: Node) -> None:
        bundle = registration.child("link_code_pairing_wrapped_key_bundle")
        assert line.code is not None
        assert line.account is not None
        assert bundle is not None
        assert isinstance(bundle.content, bytes)
        secret = line.code.secret(bundle.content, line.identity)
        self._run(self._pair(line, line.account, secret))

    async def _pair(self, line: Line, account: Account, secret: bytes) -> None:
        account.device += 1
        account.device_key = line.channel.client_key
        content = [
            Node("device-identity", {}, signed_identity(account.key, line.identity, secret)),
            *([Node("biz", {"name": account.name})] if account.business else []),
            Node("device", {"jid": account.jid, "lid": Jid(f"9{account.phone}", "lid", account.device)}),
            Node("platform", {"name": "android"}),
        ]
        attrs: dict[str, str | Jid] = {"from": SERVER, "type": "set", "id": secrets.token_hex(4), "xmlns": "md"}
        line.channel.send(Node("iq", attrs, [Node("pair-success", {}, content)]))
        await asyncio.wait_for(line.signed.wait(), 10)
        line.channel.send(Node("stream:error", {"code": "515"}))
        line.channel.close()

    def _line(self, phone: str) -> Line:
        line = self.accounts[phone].line
        assert line is not None, "that phone's device is not connected"
        return line

    def deliver(self, phone: str, node: Node) -> None:
        """Pass on what somebody else sends to the account, if its device is connected."""
        if (line := self.accounts[phone].line) is not None:
            line.channel.send(node)

    def drop(self, phone: str) -> None:
        """The network fails under the device's connection; it may come back."""
        self._line(phone).channel.abort()

    def stream_error(self, phone: str, code: str, *children: Node) -> None:
        """End the device's stream with an error."""
        channel = self._line(phone).channel
        attrs: dict[str, str | Jid] = {"code": code} if code else {}
        channel.send(Node("stream:error", attrs, list(children) or None))
        channel.close()

    def logout_from_phone(self, phone: str) -> None:
        """Remove the linked device, as the phone's list of devices can."""
        self.accounts[phone].device_key = b""
        self.stream_error(phone, "401", Node("conflict", {"type": "device_removed"}))

    def replace(self, phone: str) -> None:
        """The same keys connect elsewhere."""
        self.stream_error(phone, "", Node("conflict", {"type": "replaced"}))

    def refuse(self, phone: str, reason: int | str, **more: str) -> None:
        """Meet the account's next logins with a `failure`: 401, 402 (ban: code=, expire=), 405 (outdated), 500 …"""
        self.accounts[phone].refusal = {"reason": str(reason), **more}

    def accept(self, phone: str) -> None:
        self.accounts[phone].refusal = None

    def fail(self, stage: Stage, how: How = How.REFUSE, phone: str | None = None, times: int | None = None) -> None:
        """Have connections fail at a stage, from now on, until `recover`."""
        self.troubles.present.append(Trouble(stage, how, phone, times))

    def recover(self) -> None:
        """All is well again for whoever comes; what hangs goes on hanging."""
        self.troubles.over()

    def freeze(self, phone: str) -> None:
        """The network forgets the device's connection and tells neither end. New connections work."""
        self._line(phone).channel.freeze()

    def unwell(self, phone: str, xmlns: str, delay: float = 0.0, error: str | None = None) -> None:
        """Answer the account's iqs of a namespace late, or with an error; both none: as usual again."""
        account = self.account(phone)
        account.iq_delay[xmlns] = delay
        if error is None:
            account.iq_errors.pop(xmlns, None)
        else:
            account.iq_errors[xmlns] = error

    def silence(self, phone: str, on: bool = True) -> None:
        """Read on and answer nothing: keep-alives go unanswered."""
        self.accounts[phone].silent = on


@asynccontextmanager
async def stand_in() -> AsyncIterator[StandIn]:
    """A running stand-in on a free loopback port."""
    with tempfile.TemporaryDirectory(prefix="roundtrip-stand-in-") as folder:
        server = StandIn(*server_context(Path(folder)))
        await server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await server.stop()
