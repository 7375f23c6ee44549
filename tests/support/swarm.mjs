// Many stock socket.io-clients in one process: each under its own key, acknowledging, dropping ids it has seen.
// argv[2]: {url, urls, clients, ack: "yes"|"no"}; with `urls` each reconnection goes to any of them. Each line on standard input is answered with a report of all clients.
import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const { url, urls, clients, ack, transports } = JSON.parse(process.argv[2]);
const swarm = Array.from({ length: clients }, (_, number) => {
  const client = { seqs: [], ids: new Set(), duplicates: 0, connects: 0, disorder: 0, changed: 0 };
  const bySeq = new Map();
  const any = () => (urls ? urls[Math.floor(Math.random() * urls.length)] : url);
  const socket = io(any(), {
    auth: { userId: `user-${number}`, botId: "bot", acks: ack !== "no" },
    transports: transports ?? ["websocket"],
    reconnectionDelay: 50,
    reconnectionDelayMax: 400,
    forceNew: true,
  });
  socket.on("connect", () => (client.connects += 1));
  socket.io.on("reconnect_attempt", () => (socket.io.uri = any()));
  socket.on("connect_error", (error) => {
    client.refused = error.data?.code ?? null;
    if (!socket.active) setTimeout(() => ((socket.io.uri = any()), socket.connect()), 200); // the server said no: try again
  });
  socket.on("whatsapp_connection_event", (payload, done) => {
    if (client.ids.has(payload.id)) client.duplicates += 1;
    else {
      if (bySeq.has(payload.seq)) client.changed += 1;
      bySeq.set(payload.seq, payload.id);
      client.ids.add(payload.id);
      if (client.seqs.length && payload.seq <= client.seqs.at(-1)) client.disorder += 1;
      client.seqs.push(payload.seq);
    }
    if (ack !== "no") done?.();
  });
  client.socket = socket;
  return client;
});

createInterface({ input: process.stdin })
  .on("line", () => {
    const report = swarm.map(({ ids, duplicates, connects, disorder, changed, refused, socket }) => ({
      ids: [...ids], duplicates, connects, disorder, changed, refused, connected: socket.connected,
    }));
    process.stdout.write(JSON.stringify(report) + "\n");
  })
  .on("close", () => process.exit(0));
