// Bare Node socket.io, doing only the emit and the acknowledgement; speaks as tests.bench.peers.bare does.
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { Server } from "socket.io";

const seconds = Number(process.argv[3]);
const payload = {
  id: "0190b0f0-5f64-7b1a-9c59-5f2b8f1f9c3e",
  seq: 1,
  type: "whatsapp_connected",
  userId: "user-1",
  botId: "bot",
  linkId: "0190b0f05f647b1a9c595f2b8f1f9c3e",
  timestamp: "2026-01-01T00:00:00.000Z",
  replayed: false,
  phoneNumber: "+15550100",
  displayName: "Ada Lovelace",
  first: false,
  attempt: 1,
  traceparent: "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
};
const http = createServer();
const io = new Server(http, { perMessageDeflate: false });
let acked = 0;
let running = true;
const emit = (socket) =>
  socket.emit("whatsapp_connection_event", payload, () => {
    acked += 1;
    if (running) emit(socket);
  });

http.listen(0, "127.0.0.1", () => process.stdout.write(`${http.address().port}\n`));
createInterface({ input: process.stdin })
  .once("line", () => {
    for (const socket of io.sockets.sockets.values()) emit(socket);
    setTimeout(() => {
      const start = performance.now();
      acked = 0;
      setTimeout(() => {
        running = false;
        process.stdout.write(JSON.stringify({ rate: acked / ((performance.now() - start) / 1000) }) + "\n");
      }, seconds * 1000);
    }, 500);
  })
  .on("close", () => process.exit(0));
