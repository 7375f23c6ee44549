"""The heartbeat and the end of one engine socket, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import StreamReader, web
from engineio import exceptions, packet

from roundtrip.sockets.engineio.connection import JOIN_TIMEOUT, EngineConnection
from roundtrip.sockets.engineio.socket import CLOSE_TIMEOUT, LATE_TIMER, LATE_TIMER_GRACE
from tests.support.stepped_loop import SteppedLoop

INTERVAL, TIMEOUT = 25.0, 20.0


class Wire:
    """A websocket's transport that remembers what was written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.unread = 0
        self.end: str | None = None

    def write(self, data: bytes) -> None:
        assert not self.is_closing(), "uvloop raises for a transport that is closed"
        self.written.append(data)

    def get_write_buffer_size(self) -> int:
        return self.unread

    def is_closing(self) -> bool:
        return self.end is not None

    def abort(self) -> None:
        self.end = "aborted"

    def close(self) -> None:
        self.end = "closed"


class Server:
    """As much of python-engineio's server as a socket looks at."""

    ping_interval = INTERVAL
    ping_timeout = TIMEOUT
    async_handlers = False
    max_http_buffer_size = 65_536
    reason = SimpleNamespace(PING_TIMEOUT="ping timeout", TRANSPORT_ERROR="transport error", SERVER_DISCONNECT="server")
    logger = SimpleNamespace(info=lambda *_: None)

    def __init__(self) -> None:
        self.sockets: dict[str, Any] = {}
        self.ended: list[str] = []
        self.refused: list[str] = []
        self.on_refused = self.refused.append

    def create_queue(self) -> asyncio.Queue[Any]:
        return asyncio.Queue()

    async def _trigger_event(self, event: str, _sid: str, reason: str, **_: Any) -> None:
        if event == "disconnect":
            self.ended.append(reason)


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    loop = SteppedLoop()
    asyncio.set_event_loop(loop)
    yield loop
    loop.close()
    asyncio.set_event_loop(None)


class Client:
    """Whoever joined; nothing was written to it yet."""

    def acked(self, _seq: int) -> bool:
        return False

    def received(self, _marker: object) -> None:
        raise AssertionError("nothing was sent")

    def closing(self) -> None:
        pass


async def made(server: Server, wire: Wire | None, *, joined: bool = True) -> EngineConnection:
    connection = server.sockets["sid"] = EngineConnection(server, "sid", 10_000)
    connection.listener = Client() if joined else None
    if wire is not None:
        connection.upgraded = True
        connection._transport = wire  # type: ignore[assignment]  # as much of one as is looked at
    connection.schedule_ping()
    return connection


def pings(connection: EngineConnection, wire: Wire | None) -> int:
    if wire is not None:
        return wire.written.count(b"\x81\x012")
    return sum(it is not None and it.packet_type == packet.PING for it in list(connection.queue._queue))


@pytest.mark.parametrize("wire", [Wire, lambda: None], ids=["websocket", "polling"])
def test_whoever_answers_stays_for_hours(loop: SteppedLoop, wire: Any) -> None:
    server, wire = Server(), wire()
    connection = loop.run(made(server, wire))
    for number in range(1, 500):
        loop.advance(INTERVAL)
        written = wire.written if wire else [connection.queue.get_nowait().encode()]
        assert written[-1] in (b"\x81\x012", "2")
        loop.run(connection.receive(packet.Packet(packet.PONG)))
        if wire:
            assert len(wire.written) == number
    assert not connection.gone
    assert server.ended == []
    connection._disarm()


@pytest.mark.parametrize("wire", [Wire, lambda: None], ids=["websocket", "polling"])
def test_whoever_does_not_answer_is_closed_after_the_timeout_and_not_before(loop: SteppedLoop, wire: Any) -> None:
    server, wire = Server(), wire()
    connection = loop.run(made(server, wire))
    loop.advance(INTERVAL)
    assert pings(connection, wire) == 1
    loop.advance(TIMEOUT - 0.01)
    assert not connection.gone
    loop.clock.step(-86_400)  # what the wall clock does is nothing to it
    loop.advance(0.02)
    assert server.ended == ["ping timeout"]
    assert connection.closed
    assert "sid" not in server.sockets
    if wire:
        assert wire.written[-2:] == [b"\x81\x011", b"\x88\x02\x03\xe8"]
        loop.advance(CLOSE_TIMEOUT)
        assert wire.end == "aborted"


def test_a_late_loop_reads_before_it_calls_a_client_silent(loop: SteppedLoop) -> None:
    server, wire = Server(), Wire()
    connection = loop.run(made(server, wire))
    loop.advance(INTERVAL)
    loop.advance(TIMEOUT + LATE_TIMER + 60)  # the process stood still
    assert not connection.gone
    loop.advance(LATE_TIMER_GRACE / 2)
    loop.run(connection.receive(packet.Packet(packet.PONG)))  # it had waited in the kernel
    loop.advance(LATE_TIMER_GRACE)
    assert not connection.gone
    connection._disarm()


def test_a_late_loop_closes_who_is_silent_all_the_same(loop: SteppedLoop) -> None:
    server, wire = Server(), Wire()
    loop.run(made(server, wire))
    loop.advance(INTERVAL)
    loop.advance(TIMEOUT + LATE_TIMER + 60)
    loop.advance(LATE_TIMER_GRACE)
    assert server.ended == ["ping timeout"]


def test_a_pong_that_nobody_asked_for_puts_nothing_off(loop: SteppedLoop) -> None:
    server, wire = Server(), Wire()
    connection = loop.run(made(server, wire))
    for _ in range(9):
        loop.advance(INTERVAL / 10)
        assert connection.intercept("3")
    loop.advance(INTERVAL / 10)
    assert pings(connection, wire) == 1
    connection.intercept("431[]")
    loop.advance(TIMEOUT)
    assert server.ended == ["ping timeout"], "only the PONG counts as one"


def test_the_end_of_a_client_that_does_not_read_is_not_waited_for(loop: SteppedLoop) -> None:
    server, wire = Server(), Wire()
    connection = loop.run(made(server, wire))
    wire.unread = 5_000
    loop.run(connection.end("draining"))
    assert wire.end == "aborted"
    assert connection._timer is None


@pytest.mark.parametrize(
    ("reason", "code"), [("draining", 1001), ("token_expired", 1000), ("ping timeout", 1000)], ids=lambda it: str(it)
)
def test_a_close_frame_says_why(loop: SteppedLoop, reason: str, code: int) -> None:
    server, wire = Server(), Wire()
    connection = loop.run(made(server, wire))
    loop.run(connection.end(reason))
    assert wire.written[-1] == b"\x88\x02" + code.to_bytes(2, "big")
    assert wire.end is None, "the client has a moment to answer"
    loop.run(connection.end("again"))
    assert server.ended == [reason]
    connection._disarm()


def test_a_client_with_too_much_unread_is_dropped_whoever_writes(loop: SteppedLoop) -> None:
    server, wire = Server(), Wire()
    connection = loop.run(made(server, wire))
    wire.unread = 10_001
    connection.write(packet.Packet(packet.MESSAGE, "0"))
    assert wire.end == "aborted"
    assert wire.written == []
    assert connection.close_reason == "queue_full"
    connection._disarm()


def test_a_queue_that_nobody_polls_is_bounded_by_what_it_takes_not_by_its_text(loop: SteppedLoop) -> None:
    server = Server()
    connection = loop.run(made(server, None))
    for _ in range(10_000):
        connection.write(packet.Packet(packet.NOOP))
    loop.settle()
    assert connection.queue.qsize() < 60
    assert server.ended == ["queue_full"]


def test_polls_and_the_end(loop: SteppedLoop) -> None:
    async def run() -> None:
        server = Server()
        connection = await made(server, None)
        waiting = asyncio.ensure_future(connection.poll())
        await asyncio.sleep(0)
        with pytest.raises(exceptions.QueueEmpty):
            await connection.poll()
        await connection.end("server disconnect")
        assert [it.packet_type for it in await waiting] == [packet.CLOSE]
        assert [it.packet_type for it in await connection.poll()] == [packet.NOOP], "and nobody waits at a closed one"

    loop.run(run())


@pytest.mark.parametrize("kind", [packet.OPEN, packet.PING, packet.UPGRADE, packet.NOOP])
def test_what_a_client_may_not_send_is_refused_and_counted_once(loop: SteppedLoop, kind: int) -> None:
    server = Server()
    connection = loop.run(made(server, Wire()))
    for _ in range(2):
        with pytest.raises(exceptions.UnknownPacketError):
            loop.run(connection.receive(packet.Packet(kind)))
    assert server.refused == ["packet_type"]
    connection._disarm()


@pytest.mark.parametrize("wire", [Wire, lambda: None], ids=["websocket", "polling"])
def test_a_connection_without_a_socket_is_closed_though_it_answers(loop: SteppedLoop, wire: Any) -> None:
    server, wire = Server(), wire()
    server.ping_interval = 1.0
    connection = loop.run(made(server, wire, joined=False))
    for _ in range(int(JOIN_TIMEOUT) - 1):
        loop.advance(1.0)
        loop.run(connection.receive(packet.Packet(packet.PONG)))
    assert not connection.gone
    loop.advance(1.0)
    assert server.ended == ["transport error"]
    assert server.refused == ["not_joined"]


def test_nothing_is_written_to_a_connection_that_is_gone(loop: SteppedLoop) -> None:
    """Its end is seen by whoever reads, perhaps a turn of the loop later."""
    server, wire = Server(), Wire()
    connection = loop.run(made(server, wire))
    wire.end = "reset by the client"
    connection.write_control(b"\x8a\x00")
    connection.ping(object())
    connection.write(packet.Packet(packet.MESSAGE, data="2[]"))
    loop.advance(INTERVAL)
    assert wire.written == []
    connection._disarm()


# figures that clients and operators may count on, in seconds and bytes


def test_who_does_not_answer_a_close_frame_is_cut_after_two_seconds(loop: SteppedLoop) -> None:
    server, wire = Server(), Wire()
    connection = loop.run(made(server, wire))
    loop.run(connection.end("server"))
    loop.advance(1.9)
    assert wire.end is None
    loop.advance(0.2)
    assert wire.end == "aborted"


def test_a_connection_without_a_socket_may_stay_for_twenty_seconds(loop: SteppedLoop) -> None:
    server = Server()
    server.ping_interval = 19.9
    connection = loop.run(made(server, Wire(), joined=False))
    loop.advance(19.9)
    assert not connection.gone
    loop.run(connection.receive(packet.Packet(packet.PONG)))
    server.ping_interval = 0.1
    loop.run(connection.receive(packet.Packet(packet.PONG)))  # unasked: puts nothing off
    loop.advance(19.9)
    assert server.refused == ["not_joined"]


def test_a_timer_that_is_a_little_late_is_no_sleep(loop: SteppedLoop) -> None:
    server = Server()
    loop.run(made(server, Wire()))
    loop.advance(INTERVAL)
    loop.advance(TIMEOUT + 0.09)
    assert server.ended == ["ping timeout"]
    woken = Server()
    connection = loop.run(made(woken, Wire()))
    loop.advance(INTERVAL)
    loop.advance(TIMEOUT + 0.11)
    assert woken.ended == []
    loop.advance(0.9)
    assert woken.ended == []
    loop.advance(0.11)
    assert woken.ended == ["ping timeout"]
    assert connection.close_reason == "ping timeout"


def test_a_client_that_broke_the_protocol_is_closed_with_1002_and_read_no_more(loop: SteppedLoop) -> None:
    server, wire = Server(), Wire()
    connection = loop.run(made(server, wire))
    connection.refuse("malformed")
    loop.run(connection.end("whatever"))
    assert wire.written[-1] == b"\x88\x02\x03\xea"
    assert (wire.end, connection.dropped) == ("closed", True)
    assert server.ended == ["transport error"], "the first reason holds"


def test_a_close_that_says_nothing_more_writes_a_close_frame_only(loop: SteppedLoop) -> None:
    server, wire = Server(), Wire()
    connection = loop.run(made(server, wire))
    connection.close_code = 1009
    loop.run(connection.close(abort=True))
    assert wire.written == [b"\x88\x02\x03\xf1"]
    assert server.ended == ["server"]
    connection._disarm()
    polled = loop.run(made(server, None))
    loop.run(polled.close(abort=True))
    assert [it.packet_type for it in loop.run(polled.poll())] == [packet.NOOP]


def test_the_websockets_own_answers_are_not_piled_up(loop: SteppedLoop) -> None:
    server, wire = Server(), Wire()
    connection = loop.run(made(server, wire))
    wire.unread = 10_000
    connection.write_control(b"pong")
    assert wire.written == [b"pong"], "the limit itself is allowed"
    wire.unread = 10_001
    connection.write_control(b"pong")
    assert wire.written == [b"pong"]
    assert wire.end is None
    polling = loop.run(made(server, None))
    polling.write_control(b"pong")
    assert polling.queue.empty()
    connection._disarm()
    polling._disarm()


def test_who_is_hung_up_on_is_closed_on_either_transport(loop: SteppedLoop) -> None:
    for wire in (Wire(), None):
        server = Server()
        connection = loop.run(made(server, wire))

        async def twice(connection: EngineConnection = connection) -> None:
            connection.drop("queue_full")
            connection.drop("another")

        loop.run(twice())
        loop.settle()
        assert connection.dropped
        assert connection.close_reason == "queue_full"
        if wire is not None:
            assert wire.end == "aborted", "the reader sees it, and closes"
        else:
            assert server.ended == ["queue_full"]
        connection._disarm()


# upgrades


class Upgrade:
    """The websocket of an upgrade: what the client says on it comes when the test wants."""

    def __init__(self) -> None:
        self.transport = Wire()
        self.said: asyncio.Queue[str | None] = asyncio.Queue()

    async def receive(self) -> str:
        said = await self.said.get()
        if said is None:
            raise OSError("closed")
        return said


def upgrading(loop: SteppedLoop) -> tuple[EngineConnection, Upgrade, asyncio.Task[bool]]:
    async def make() -> tuple[EngineConnection, Upgrade, asyncio.Task[bool]]:
        connection = await made(Server(), None)
        connection._disarm()
        websocket = Upgrade()
        return connection, websocket, asyncio.ensure_future(connection._upgrade_confirmed(websocket))

    return loop.run(make())


def test_an_upgrade_is_proven_by_a_probe_and_then_wanted(loop: SteppedLoop) -> None:
    connection, websocket, proving = upgrading(loop)
    websocket.said.put_nowait("2probe")
    loop.settle()
    assert websocket.transport.written == [b"\x81\x063probe"]
    assert [it.packet_type for it in loop.run(connection.poll())] == [packet.NOOP], "the poll that waits is let go"
    loop.advance(9.9)
    assert not proving.done()
    websocket.said.put_nowait("5")
    loop.settle()
    assert proving.result() is True


@pytest.mark.parametrize("said", [["5"], ["2"], ["2probe", "2probe"], ["2probe", None], [None]], ids=str)
def test_an_upgrade_that_proves_nothing_is_given_up(loop: SteppedLoop, said: list[str | None]) -> None:
    _, websocket, proving = upgrading(loop)
    for it in said:
        websocket.said.put_nowait(it)
    loop.settle()
    assert proving.result() is False
    assert bool(websocket.transport.written) is (said[0] == "2probe")


@pytest.mark.parametrize("said", [[], ["2probe"]], ids=str)
def test_an_upgrade_has_ten_seconds(loop: SteppedLoop, said: list[str]) -> None:
    _, websocket, proving = upgrading(loop)
    for it in said:
        websocket.said.put_nowait(it)
    loop.settle()
    loop.advance(9.9)
    assert not proving.done()
    loop.advance(0.2)
    assert proving.result() is False


def test_an_upgrade_whose_connection_went_is_not_written_to(loop: SteppedLoop) -> None:
    _, websocket, proving = upgrading(loop)
    websocket.transport.end = "reset by the client"
    websocket.said.put_nowait("2probe")
    loop.settle()
    assert proving.result() is False


# bodies


def posted(loop: SteppedLoop, body: bytes, *, length: int | None, broken: BaseException | None = None) -> Any:
    """What becomes of a request's body: the connection, and the error."""

    async def run() -> Any:
        connection = await made(Server(), None)
        connection._disarm()
        connection.server.reason.CLIENT_DISCONNECT = "client disconnect"
        content = StreamReader(
            cast("Any", SimpleNamespace(_reading_paused=False, connected=True, resume_reading=lambda **_: None)),
            1 << 20,
            loop=loop,
        )
        content.feed_data(body)
        content.feed_eof() if broken is None else content.set_exception(broken)
        environ = {"wsgi.input": content} | ({} if length is None else {"CONTENT_LENGTH": str(length)})
        try:
            await connection.handle_post_request(environ)
        except exceptions.EngineIOError as error:
            return connection, type(error)
        finally:
            assert not connection._posting
        return connection, None

    return loop.run(run())


LIMIT = Server.max_http_buffer_size


@pytest.mark.parametrize("length", [LIMIT, None])
def test_a_body_may_be_as_large_as_a_packet(loop: SteppedLoop, length: int | None) -> None:
    connection, error = posted(loop, b"4" + b"x" * (LIMIT - 1), length=length)
    assert error is None
    assert connection.close_reason is None


@pytest.mark.parametrize("length", [LIMIT + 1, None])
def test_a_body_may_be_no_larger(loop: SteppedLoop, length: int | None) -> None:
    connection, error = posted(loop, b"4" + b"x" * LIMIT, length=length)
    assert error in {exceptions.ContentTooLongError, exceptions.EngineIOError}
    assert connection.close_reason == "transport error"


@pytest.mark.parametrize("length", [6, None])
@pytest.mark.parametrize("broken", [ConnectionResetError(), web.RequestPayloadError()], ids=repr)
def test_a_body_that_breaks_is_an_error_of_the_transport(
    loop: SteppedLoop, length: int | None, broken: BaseException
) -> None:
    connection, error = posted(loop, b"3", length=length, broken=broken)
    assert error is exceptions.EngineIOError
    assert connection.close_reason == "transport error"
    assert connection.server.refused == [], "it broke no protocol"


def test_an_empty_body_says_nothing(loop: SteppedLoop) -> None:
    connection, error = posted(loop, b"", length=None)
    assert error is None
    assert not connection.gone


def test_a_body_is_read_to_the_goodbye_in_it_and_no_further(loop: SteppedLoop) -> None:
    connection, error = posted(loop, b"1\x1e6\x1e2", length=5)
    assert error is None
    assert connection.server.refused == []
    assert connection.server.ended == ["client disconnect"]


def test_sixty_four_packets_are_taken_up_before_others_have_their_turn(loop: SteppedLoop) -> None:
    """A websocket's as well as a body's."""

    async def run() -> tuple[int, int]:
        connection = await made(Server(), None)
        connection._disarm()
        taken: list[str] = []
        connection.intercept = lambda text: taken.append(text) or True  # type: ignore[method-assign, func-returns-value]  # it counts
        posting = asyncio.ensure_future(connection._receive_payload("\x1e".join(["3"] * 200)))
        await asyncio.sleep(0)
        first = len(taken)
        await posting
        return first, len(taken)

    assert loop.run(run()) == (64, 200)


def test_a_body_that_takes_too_long_ends_its_session_and_is_not_answered(loop: SteppedLoop) -> None:
    """Upstream would swallow the cancellation, and answer "OK"."""

    async def run() -> EngineConnection:
        connection = await made(Server(), None)
        connection._disarm()
        content = StreamReader(cast("Any", SimpleNamespace(_reading_paused=False, connected=True)), 1 << 20, loop=loop)
        posting = asyncio.ensure_future(connection.handle_post_request({"wsgi.input": content, "CONTENT_LENGTH": "5"}))
        await asyncio.sleep(0)
        with pytest.raises(exceptions.UnknownPacketError):
            await connection.handle_post_request({"wsgi.input": content, "CONTENT_LENGTH": "5"})
        assert connection._posting, "the second one takes nothing of the first"
        posting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await posting
        assert not connection._posting
        return connection

    connection = loop.run(run())
    loop.settle()
    assert connection.server.refused == ["second_request"], "counted once"
    assert connection.server.ended == ["transport error"]


class Stream(Upgrade):
    """A websocket that was opened, or proven."""

    wait = Upgrade.receive


@pytest.mark.parametrize("polled", [False, True], ids=["opened", "upgraded"])
def test_what_was_queued_goes_out_first_and_the_end_is_told(loop: SteppedLoop, polled: bool) -> None:
    async def run() -> tuple[EngineConnection, Stream]:
        connection, websocket = await made(Server(), None), Stream()
        connection.server.reason.TRANSPORT_CLOSE = "transport close"
        connection.connected = polled
        connection.write(packet.Packet(packet.MESSAGE, "one"))
        connection.write(packet.Packet(packet.MESSAGE, b"two"))
        for said in ("2probe", "5") if polled else ():
            websocket.said.put_nowait(said)
        reading = asyncio.ensure_future(connection._websocket_handler(websocket))
        for _ in range(5):
            await asyncio.sleep(0)
        assert (connection.transport, connection.connected) == ("websocket", True)
        connection.write(packet.Packet(packet.MESSAGE, "three"))
        websocket.said.put_nowait("7")  # a packet that is none
        for _ in range(5):
            await asyncio.sleep(0)
        websocket.said.put_nowait("6")  # read and dropped after the goodbye
        websocket.said.put_nowait(None)
        await reading
        return connection, websocket

    connection, websocket = loop.run(run())
    written = websocket.transport.written[1:] if polled else websocket.transport.written
    noop = [b"\x81\x016"] if polled else []
    expected = [b"\x81\x044one", b"\x82\x03two", *noop, b"\x81\x064three"]
    assert written[: len(expected)] == expected
    assert connection.server.ended == ["transport error"]
    assert connection._timer is None


def test_a_session_that_ended_while_its_upgrade_was_proven_takes_no_websocket(loop: SteppedLoop) -> None:
    async def run() -> tuple[EngineConnection, Stream]:
        connection, websocket = await made(Server(), None), Stream()
        connection.connected = True
        proving = asyncio.ensure_future(connection._websocket_handler(websocket))
        websocket.said.put_nowait("2probe")
        await asyncio.sleep(0)
        await connection.end("draining")
        websocket.said.put_nowait("5")
        await proving
        return connection, websocket

    connection, websocket = loop.run(run())
    assert connection.transport == "polling"
    assert len(websocket.transport.written) == 1, "the probe's answer"
    assert connection.server.ended == ["draining"]


def test_a_handler_that_fails_is_logged_and_the_reading_goes_on(loop: SteppedLoop) -> None:
    async def run() -> EngineConnection:
        connection, websocket = await made(Server(), None), Stream()
        connection.server.reason.TRANSPORT_CLOSE = "transport close"
        heard: list[Any] = []

        async def receive(pkt: Any) -> None:
            heard.append(pkt.data)
            if len(heard) == 1:
                raise RuntimeError("cannot")

        connection.receive = receive  # type: ignore[method-assign]  # as a handler of ours that is broken
        for said in ("4a", "4b", None):
            websocket.said.put_nowait(said)
        await connection._websocket_handler(websocket)
        assert heard == ["a", "b"]
        return connection

    assert loop.run(run()).server.ended == ["transport close"]
