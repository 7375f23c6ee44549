// A stock socket.io-client, driven over standard input and output: one JSON object a line.
// argv[2]: {url, auth, query, transports, ack: "yes"|"no"|"manual", delay, reconnection}
import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const options = JSON.parse(process.argv[2]);
const say = (what) => process.stdout.write(JSON.stringify({ at: Date.now(), ...what }) + "\n");
const acks = new Map();

const socket = io(options.url, {
  auth: options.auth,
  query: options.query,
  transports: options.transports ?? ["polling", "websocket"],
  reconnection: options.reconnection ?? true,
  reconnectionDelay: 50,
  reconnectionDelayMax: 500,
  forceNew: true,
});

socket.on("connect", () => {
  say({ on: "connect", id: socket.id, transport: socket.io.engine.transport.name });
});
socket.io.on("open", () =>
  socket.io.engine.once("upgrade", (transport) => say({ on: "upgrade", transport: transport.name })),
);
socket.on("connect_error", (error) =>
  say({ on: "connect_error", message: error.message, data: error.data ?? null }),
);
socket.on("disconnect", (reason) => say({ on: "disconnect", reason }));
socket.on("whatsapp_connection_event", (payload, ack) => {
  say({ on: "event", payload });
  if (options.ack === "manual") acks.set(payload.id, ack);
  else if (options.ack !== "no") setTimeout(() => ack?.(), options.delay ?? 0);
});
socket.on("whatsapp_status_update", (payload) => say({ on: "status", payload }));
socket.onAny((name, payload) => {
  if (!name.startsWith("whatsapp_")) say({ on: "other", name, payload });
});

createInterface({ input: process.stdin })
  .on("line", (line) => {
    const command = JSON.parse(line);
    if (command.do === "ack") acks.get(command.id)?.();
    else if (command.do === "emit") socket.emit(command.name, ...(command.args ?? []));
    else if (command.do === "disconnect") socket.disconnect();
    else if (command.do === "connect") socket.connect();
    else if (command.do === "drop") socket.io.engine.close();
  })
  .on("close", () => process.exit(0));
