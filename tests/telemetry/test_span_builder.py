"""Whole traces: the tree of a link from the request to the acknowledgement, of a miss with its replay, of a retry, and
of a crash with its replay. Ids and clock are fixed, so each is compared as a whole."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.trace import SpanKind

from roundtrip.events import Connected
from roundtrip.identity import BotKey
from roundtrip.telemetry.redaction import key_hash, user_hash
from tests.support.py_client import eventually
from tests.support.traces import Scene, render
from tests.telemetry.helpers import tree

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", True)
LINK_ID = "roundtrip.link.id"


async def test_a_link_from_the_request_to_the_acknowledgement(new_scene: Callable[..., Scene]) -> None:
    s = new_scene()
    peer = await s.connect(KEY, "sid")
    tracer = s.tracing.tracer
    with tracer.span("PUT /api/bots/{bot_id}/link", kind=SpanKind.SERVER) as request:
        s.clock.pass_ms(1)
        with tracer.span("link start", request.traceparent, attributes={LINK_ID: "link-1"}) as start:
            s.clock.pass_ms(1)
            await s.courier.publish(KEY, "link-1", CONNECTED, traceparent=start.traceparent)
    s.receipt(peer, 3)
    s.ack(peer, 1, 2)
    assert render(await s.spans()) == tree(
        """
        trace
          socket connect [SERVER] 0 to 0 ms
              roundtrip.socket.mapped=True
              roundtrip.socket.replayed=0
        trace
          PUT /api/bots/{bot_id}/link [SERVER] 0 to 2 ms
            link start [INTERNAL] 1 to 2 ms
                roundtrip.link.id=link-1
              create whatsapp_connected [PRODUCER] 2 to 2 ms
                  messaging.message.id=event 1
                  messaging.operation.name=create
                  messaging.operation.type=create
                  roundtrip.event.seq=1
                  roundtrip.link.id=link-1
                emit whatsapp_connected [CLIENT] 2 to 7 ms → create whatsapp_connected
                    messaging.message.id=event 1
                    messaging.operation.name=emit
                    messaging.operation.type=send
                    roundtrip.attempt.mode=live
                    roundtrip.attempt.number=1
                    roundtrip.event.outcome=acked
                    roundtrip.link.id=link-1
                    roundtrip.sockets.found=1
                  receipt whatsapp_connected [CLIENT] 2 to 5 ms → create whatsapp_connected
                      messaging.message.id=event 1
                      messaging.operation.name=receipt
                      messaging.operation.type=settle
                      roundtrip.link.id=link-1
                  ack whatsapp_connected [CLIENT] 2 to 7 ms → create whatsapp_connected
                      messaging.message.id=event 1
                      messaging.operation.name=ack
                      messaging.operation.type=settle
                      roundtrip.link.id=link-1
        """
    )


async def test_a_miss_and_its_replay(new_scene: Callable[..., Scene]) -> None:
    s = new_scene()
    await s.courier.publish(KEY, "link-1", CONNECTED)
    s.clock.pass_ms(1000)
    peer = await s.connect(KEY, "sid")
    s.ack(peer, 1, 4)
    assert render(await s.spans()) == tree(
        """
        trace
          create whatsapp_connected [PRODUCER] 0 to 0 ms
              messaging.message.id=event 1
              messaging.operation.name=create
              messaging.operation.type=create
              roundtrip.event.seq=1
              roundtrip.link.id=link-1
            emit whatsapp_connected [CLIENT] 0 to 0 ms → create whatsapp_connected !never_connected
                error.type=never_connected
                messaging.message.id=event 1
                messaging.operation.name=emit
                messaging.operation.type=send
                roundtrip.attempt.mode=live
                roundtrip.attempt.number=1
                roundtrip.link.id=link-1
                roundtrip.miss.reason=never_connected
                roundtrip.sockets.found=0
        trace
          socket connect [SERVER] 1000 to 1000 ms
              roundtrip.socket.mapped=True
              roundtrip.socket.replayed=1
            replay [INTERNAL] 1000 to 1000 ms
                messaging.batch.message_count=1
              emit whatsapp_connected [CLIENT] 1000 to 1004 ms → create whatsapp_connected
                  messaging.message.id=event 1
                  messaging.operation.name=emit
                  messaging.operation.type=send
                  roundtrip.attempt.mode=replay
                  roundtrip.attempt.number=2
                  roundtrip.event.outcome=acked
                  roundtrip.link.id=link-1
                  roundtrip.sockets.found=1
                ack whatsapp_connected [CLIENT] 1000 to 1004 ms → create whatsapp_connected
                    messaging.message.id=event 1
                    messaging.operation.name=ack
                    messaging.operation.type=settle
                    roundtrip.link.id=link-1
        """
    )


async def test_a_retry(new_scene: Callable[..., Scene]) -> None:
    s = new_scene()
    peer = await s.connect(KEY, "sid", must_ack=True)
    await s.courier.publish(KEY, "link-1", CONNECTED)
    s.receipt(peer, 3)
    await eventually(lambda: len(peer.sent) == 1)
    s.ack(peer, 1, 4)
    assert render(await s.spans()) == tree(
        """
        trace
          create whatsapp_connected [PRODUCER] 0 to 0 ms
              messaging.message.id=event 1
              messaging.operation.name=create
              messaging.operation.type=create
              roundtrip.event.seq=1
              roundtrip.link.id=link-1
            emit whatsapp_connected [CLIENT] 0 to 3 ms → create whatsapp_connected !ack_timeout
                error.type=ack_timeout
                messaging.message.id=event 1
                messaging.operation.name=emit
                messaging.operation.type=send
                roundtrip.attempt.mode=live
                roundtrip.attempt.number=1
                roundtrip.link.id=link-1
                roundtrip.miss.reason=ack_timeout
                roundtrip.sockets.found=1
              receipt whatsapp_connected [CLIENT] 0 to 3 ms → create whatsapp_connected
                  messaging.message.id=event 1
                  messaging.operation.name=receipt
                  messaging.operation.type=settle
                  roundtrip.link.id=link-1
            emit whatsapp_connected [CLIENT] 3 to 7 ms → create whatsapp_connected
                messaging.message.id=event 1
                messaging.operation.name=emit
                messaging.operation.type=send
                roundtrip.attempt.mode=live
                roundtrip.attempt.number=2
                roundtrip.event.outcome=acked
                roundtrip.link.id=link-1
                roundtrip.sockets.found=1
              ack whatsapp_connected [CLIENT] 3 to 7 ms → create whatsapp_connected
                  messaging.message.id=event 1
                  messaging.operation.name=ack
                  messaging.operation.type=settle
                  roundtrip.link.id=link-1
        trace
          socket connect [SERVER] 0 to 0 ms
              roundtrip.socket.mapped=True
              roundtrip.socket.replayed=0
        """
    )


async def test_a_crash_between_commit_and_acknowledgement(new_scene: Callable[..., Scene]) -> None:
    before = new_scene()
    await before.connect(KEY, "old")
    await before.courier.publish(KEY, "link-1", CONNECTED)
    exported = [span for span in await before.spans() if span.name != "socket connect"]
    assert exported == [], "nothing was known of the event when the process died"
    after = new_scene()
    after.clock.pass_ms(5000)
    peer = await after.connect(KEY, "new")
    after.receipt(peer, 2)
    after.ack(peer, 1, 2)
    assert render(await after.spans()) == tree(
        """
        trace
          create whatsapp_connected [PRODUCER] 0 to 0 ms
              messaging.message.id=event 1
              messaging.operation.name=create
              messaging.operation.type=create
              roundtrip.event.seq=1
              roundtrip.link.id=link-1
        trace
          socket connect [SERVER] 5000 to 5000 ms
              roundtrip.socket.mapped=True
              roundtrip.socket.replayed=1
            replay [INTERNAL] 5000 to 5000 ms
                messaging.batch.message_count=1
              emit whatsapp_connected [CLIENT] 5000 to 5004 ms → create whatsapp_connected
                  messaging.message.id=event 1
                  messaging.operation.name=emit
                  messaging.operation.type=send
                  roundtrip.attempt.mode=replay
                  roundtrip.attempt.number=1
                  roundtrip.event.outcome=acked
                  roundtrip.link.id=link-1
                  roundtrip.sockets.found=1
                receipt whatsapp_connected [CLIENT] 5000 to 5002 ms → create whatsapp_connected
                    messaging.message.id=event 1
                    messaging.operation.name=receipt
                    messaging.operation.type=settle
                    roundtrip.link.id=link-1
                ack whatsapp_connected [CLIENT] 5000 to 5004 ms → create whatsapp_connected
                    messaging.message.id=event 1
                    messaging.operation.name=ack
                    messaging.operation.type=settle
                    roundtrip.link.id=link-1
        """
    )


async def test_every_span_of_an_event_can_be_found_by_it(new_scene: Callable[..., Scene]) -> None:
    s = new_scene()
    await s.courier.publish(KEY, "link-1", CONNECTED)
    s.ack(await s.connect(KEY, "sid"), 1)
    of_event = [span for span in await s.spans() if span.name.endswith("whatsapp_connected")]
    assert len(of_event) == 4
    for span in of_event:
        attributes = span.attributes or {}
        assert attributes["messaging.system"] == "socketio"
        assert attributes["messaging.destination.template"] == "whatsapp_connected"
        assert attributes["messaging.message.id"] == "00000000-0000-0000-0000-000000000001"
        assert attributes["user.hash"] == user_hash("user")
        assert attributes["roundtrip.key.hash"] == key_hash("user", "bot")


async def test_what_the_frontend_carries_joins_its_socket_to_its_own_trace(new_scene: Callable[..., Scene]) -> None:
    s = new_scene()
    await s.connect(KEY, "sid", parent=f"00-{7:032x}-{8:016x}-01")
    await s.connect(KEY, "other", parent="not a traceparent, and long enough to be mistaken for one: 0000")
    joined, alone = await s.spans()
    assert joined.context is not None
    assert joined.parent is not None
    assert (joined.context.trace_id, joined.parent.span_id, alone.parent) == (7, 8, None)
