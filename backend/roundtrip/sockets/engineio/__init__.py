"""Everything that replaces a part of python-engineio 4.15.1, python-socketio 5.18.1 or aiohttp 3.14.5, and only that.

All of it is subclassing: of `AsyncSocket`, of the two `AsyncServer`s, of `WebSocketResponse`. No method of an object is
replaced. One class is handed over where python-engineio looks it up by name (`AsyncServer._async["websocket"]`).

| module       | replaces                                            | until upstream has                              |
|--------------|-----------------------------------------------------|-------------------------------------------------|
| `socket`     | `engineio.AsyncSocket`: heartbeat, queue, close     | a monotonic heartbeat, a bounded queue, a close |
|              |                                                     | that does not wait for the client               |
| `transports` | `engineio.AsyncSocket`: polls, POSTs, websockets;   | one poll at a time, whole bodies, a time limit  |
|              | its driver's `WebSocket`; the close of aiohttp's    | for upgrades, no task for each message          |
|              | `WebSocketResponse`                                 |                                                 |
| `connection` | `engineio.AsyncSocket`: send and receive, for       | encoded frames to send, a hook for PONGs and    |
|              | events, acknowledgements and PONGs                  | acknowledgements                                |
| `server`     | `engineio.AsyncServer`: opening a session, JSONP,   | a setting for the class of its sockets          |
|              | disconnect                                          |                                                 |
|              | `socketio.AsyncServer`: connect, disconnect, limits | hooks after CONNECT and for each disconnect,    |
|              | of messages                                         | limits on attachments and sockets a connection  |

Why each part is replaced stands at the head of its module. The private names that a module uses are listed in
tests/sockets/test_engineio_contract.py, which fails when another version of a library is installed, or a name changed.
"""
