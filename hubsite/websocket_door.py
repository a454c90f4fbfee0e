"""What daphne's WebSocket door leaves open: messages piling up for a client that does not read, and such that a client
sends faster than they are answered."""

from __future__ import annotations

import logging

from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol

from hubsite.door import Valve

logger = logging.getLogger(__name__)

# Messages that wait to be answered; of long ones fewer.
MOST_WAITING = 32
LONG_BYTES = 256 * 1024
MOST_LONG = 2
POLICY_VIOLATION = 1008


class BoundedWebSocket(WebSocketProtocol):  # type: ignore[misc]
    """Has a valve for HubServer to wait at, and cuts off who floods it."""

    valve: Valve | None = None

    def onOpen(self) -> None:
        super().onOpen()
        self.valve = Valve()
        self.transport.unregisterProducer()  # the HTTP channel's, which has nothing to say any more
        self.transport.registerProducer(self.valve, True)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        waiting = self.application_queue.qsize()
        if waiting >= (MOST_LONG if len(payload) > LONG_BYTES else MOST_WAITING):
            logger.info("a WebSocket's client sends faster than it is answered, and is cut off")
            self.muted = True
            self.application_queue.put_nowait({"type": "websocket.disconnect", "code": POLICY_VIOLATION})
            self.sendClose(code=POLICY_VIOLATION)
            return
        super().onMessage(payload, isBinary)

    def connectionLost(self, reason: object) -> None:
        super().connectionLost(reason)
        if self.valve is not None:
            self.valve.resumeProducing()

    def give_up(self) -> None:
        """Cut off a client that does not read."""
        if self.transport is not None:
            self.transport.abortConnection()


class BoundedWebSocketFactory(WebSocketFactory):  # type: ignore[misc]
    """Makes the above."""

    protocol = BoundedWebSocket
