// Node with the promises that Roundtrip makes, as a Node developer would write it well: each event is in a durable
// SQLite commit before it is emitted (better-sqlite3, WAL, synchronous=FULL, one commit for all events of a turn of the
// event loop), its acknowledgement is stored the same way, and it is counted (prom-client) and traced (OpenTelemetry's
// SDK with its batch processor). Speaks as tests.bench.peers.bare does; the environment decides on telemetry.
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { SpanKind, context, trace } from "@opentelemetry/api";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-proto";
import {
  BatchSpanProcessor,
  NodeTracerProvider,
  ParentBasedSampler,
  TraceIdRatioBasedSampler,
} from "@opentelemetry/sdk-trace-node";
import Database from "better-sqlite3";
import client from "prom-client";
import { Server } from "socket.io";

const seconds = Number(process.argv[3]);
const folder = mkdtempSync(join(tmpdir(), "roundtrip-bench-node-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));

// telemetry
const traced = Boolean(process.env.OTEL_EXPORTER_OTLP_ENDPOINT);
const kept = Number(process.env.OTEL_TRACES_SAMPLER_ARG ?? 1);
const provider = new NodeTracerProvider({
  sampler: new ParentBasedSampler({ root: new TraceIdRatioBasedSampler(kept) }),
  spanProcessors: traced
    ? [new BatchSpanProcessor(new OTLPTraceExporter(), { maxQueueSize: 65536, maxExportBatchSize: 4096, scheduledDelayMillis: 200 })]
    : [],
});
if (traced) provider.register();
const tracer = trace.getTracer("bench");
const created = new client.Counter({ name: "events_created_total", help: "Events stored", labelNames: ["type"] }).labels("whatsapp_connected");
const resolved = new client.Counter({ name: "events_resolved_total", help: "Events ended", labelNames: ["type", "outcome"] }).labels("whatsapp_connected", "acked");
const attempts = new client.Counter({ name: "emit_attempts_total", help: "Emits", labelNames: ["type", "mode", "result"] }).labels("whatsapp_connected", "live", "sent");
const delivery = new client.Histogram({
  name: "delivery_seconds",
  help: "From creation to confirmation",
  labelNames: ["mode", "grade"],
  buckets: [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10],
}).labels("live", "acked");

// the outbox: one durable commit for all that came in a turn of the event loop
const db = new Database(join(folder, "outbox.db"));
db.pragma("journal_mode = WAL");
db.pragma("synchronous = FULL");
db.exec(`CREATE TABLE events (
  key TEXT NOT NULL, seq INTEGER NOT NULL, id TEXT NOT NULL UNIQUE, body TEXT NOT NULL, created INTEGER NOT NULL,
  expires INTEGER NOT NULL, outcome TEXT, resolved INTEGER, PRIMARY KEY (key, seq)) WITHOUT ROWID`);
const insert = db.prepare("INSERT INTO events (key, seq, id, body, created, expires) VALUES (?, ?, ?, ?, ?, ?)");
const resolve = db.prepare("UPDATE events SET outcome = 'acked', resolved = ? WHERE key = ? AND seq = ?");
let appends = [];
let ends = [];
let scheduled = false;
const commit = db.transaction((events, acked) => {
  for (const e of events) insert.run(e.key, e.payload.seq, e.payload.id, JSON.stringify(e.payload), e.at, e.at + 86400000);
  for (const e of acked) resolve.run(e.ackedAt, e.key, e.payload.seq);
});
const flush = () => {
  scheduled = false;
  const events = appends;
  const acked = ends;
  appends = [];
  ends = [];
  commit(events, acked);
  for (const e of acked) resolved.inc();
  for (const e of events) {
    created.inc();
    emit(e);
  }
};
const wake = () => {
  if (!scheduled) {
    scheduled = true;
    setImmediate(flush);
  }
};

// one event
let acked = 0;
let running = true;
const seqs = new Map();
const publish = (socket) => {
  const key = socket.data.key;
  const seq = (seqs.get(key) ?? 0) + 1;
  seqs.set(key, seq);
  const span = traced ? tracer.startSpan("create whatsapp_connected", { kind: SpanKind.PRODUCER, attributes: { "messaging.system": "roundtrip" } }) : undefined;
  const where = span?.spanContext();
  const payload = {
    id: randomUUID(),
    seq,
    type: "whatsapp_connected",
    userId: key,
    botId: "bot",
    linkId: "0190b0f05f647b1a9c595f2b8f1f9c3e",
    timestamp: new Date().toISOString(),
    replayed: false,
    phoneNumber: "+15550100",
    displayName: "Ada Lovelace",
    first: false,
    attempt: 1,
    traceparent: where && `00-${where.traceId}-${where.spanId}-0${where.traceFlags}`,
  };
  appends.push({ socket, key, payload, span, at: Date.now() });
  wake();
};
const emit = (e) => {
  let sent;
  if (traced) {
    e.span.end();
    sent = tracer.startSpan(
      "emit whatsapp_connected",
      { kind: SpanKind.CLIENT, links: [{ context: e.span.spanContext() }], attributes: { "messaging.message.id": e.payload.id, "roundtrip.sockets.found": 1 } },
      trace.setSpan(context.active(), e.span),
    );
  }
  attempts.inc();
  e.socket.timeout(5000).emit("whatsapp_connection_event", e.payload, (error) => {
    if (error) return;
    if (traced) {
      tracer.startSpan("ack whatsapp_connected", { kind: SpanKind.CLIENT, attributes: { "messaging.message.id": e.payload.id } }, trace.setSpan(context.active(), e.span)).end();
      sent.end();
    }
    e.ackedAt = Date.now();
    delivery.observe((e.ackedAt - e.at) / 1000);
    ends.push(e);
    wake();
    acked += 1;
    if (running) publish(e.socket);
  });
};

const http = createServer();
const io = new Server(http, { perMessageDeflate: false });
io.on("connection", (socket) => {
  socket.data.key = socket.handshake.auth.userId;
});
http.listen(0, "127.0.0.1", () => process.stdout.write(`${http.address().port}\n`));
createInterface({ input: process.stdin })
  .once("line", () => {
    for (const socket of io.sockets.sockets.values()) publish(socket);
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
