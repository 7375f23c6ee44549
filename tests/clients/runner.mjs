// Runs the built client and says, one JSON object a line, each state and each event that it handles.
// argv[2]: {module, url, botId, userId, tokens, pause, fail}. `tokens`: what `getToken` gives one after the other, the last
// for ever; null rejects. `pause`: ms that a handler takes. `fail`: how many times the handler fails first.
import { createInterface } from "node:readline";

const { module, tokens, pause = 0, fail = 0, ...options } = JSON.parse(process.argv[2]);
const { RoundtripClient } = await import(module);
const say = (what) => process.stdout.write(JSON.stringify(what) + "\n");
let failures = fail;

const client = new RoundtripClient({
  retry: { first: 50, last: 400 },
  ...options,
  ...(tokens && {
    getToken: async (ask) => {
      const token = tokens.length > 1 ? tokens.shift() : tokens[0];
      say({ on: "asked", ...ask, rejected: token === null });
      if (token === null) throw new Error("the session is being restored");
      return token;
    },
  }),
  onEvent: async (event) => {
    say({ on: "began", id: event.id });
    await new Promise((done) => setTimeout(done, pause * Math.random()));
    if (failures-- > 0) throw new Error("the handler failed");
    say({ on: "event", event });
  },
});
client.subscribe(() => {
  const { status, snapshot, events, error, heardAt } = client.getState();
  say({ on: "state", status, snapshot, events: events.map(({ seq }) => seq), error: error?.code ?? null, heardAt });
});
client.start();
for await (const line of createInterface({ input: process.stdin })) {
  const { call, args = [] } = JSON.parse(line);
  try {
    say({ on: "answer", answer: (await client[call](...args)) ?? null });
  } catch (error) {
    say({ on: "answer", error: error.code });
  }
}
process.exit();
