/** Following a real engine: history, then live; the end, errors, abortion; what is shared and what is closed. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { rm } from "node:fs/promises";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type Client, CursorInvalid, connect, type Event, NoReply, SessionNotFound } from "../src/index.js";
import { EventProxy } from "./between.js";
import { type Engine, freePort, startEngine, temporaryDirectory, waitUntil, within } from "./engine.js";
import { complete, DONE_MS, Following, texts, upTo } from "./following.js";

interface Bench {
  readonly engine: Engine;
  readonly client: Client;
  /** One more client. */
  connect(directory?: string): Client;
}

/** A running engine with one session, and clients of it; all ended with the test. */
async function bench(t: TestContext): Promise<Bench> {
  const engine = await startEngine();
  t.after(() => engine.remove());
  const open = (directory = engine.directory): Client => {
    const client = connect(directory, { timeoutMs: 60_000 });
    t.after(() => client.close());
    return client;
  };
  const client = open();
  await client.createSession();
  return { engine, client, connect: open };
}

async function write(client: Client, count: number): Promise<void> {
  for (const seq of upTo(count)) {
    await client.append(1, "user", `text ${seq}`);
  }
  await client.closeSession(1);
}

async function take<T>(items: AsyncIterable<T>, count: number): Promise<T[]> {
  const taken: T[] = [];
  for await (const item of items) {
    taken.push(item);
    if (taken.length === count) {
      break;
    }
  }
  return taken;
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  return take(items, Number.POSITIVE_INFINITY);
}

// --- history and live -------------------------------------------------------------------------------

test("followers that start during 2,000 appends miss none, several of them on one client", async (t) => {
  const { client, connect } = await bench(t);
  const [one, other] = [connect(), connect()];
  const writing = write(client, 2000);
  const followers: Following[] = [];
  for (const begin of [0, 1, 500, 1500, 1990]) {
    await waitUntil(async () => (await other.session(1)).seq >= begin);
    followers.push(new Following(one), new Following(other));
  }
  await writing;
  for (const follower of followers) {
    complete(await follower.end(), 2000);
  }
});

test("a follower starts behind its cursor", async (t) => {
  const { client } = await bench(t);
  await client.appendMany(1, texts(2500));
  await client.closeSession(1);
  complete(await all(client.follow(1)), 2500);
  complete(await all(client.follow(1n, { after: 1234n })), 2500, 1234);
  assert.deepEqual(await all(client.follow(1, { after: 2500 })), []);
});

test("a live message is the message that a read gives, however large", async (t) => {
  const { client } = await bench(t);
  const follower = new Following(client);
  await follower.isLive();
  await client.append(1, "assistant", "äöü\ufeff", { meta: { tool: { calls: [1, null] } } });
  await client.append(1, "user", `\ufeff${"x".repeat(300_000)}`, { meta: { large: true } });
  await client.appendMany(1, [
    { role: "tool", content: "y".repeat(65_536) },
    { role: "system", content: "" },
  ]);
  await client.closeSession(1);
  assert.deepEqual(await follower.end(), await all(client.messages(1)));
  assert.equal((await client.stats())["heals"], 0); // what is too large for an event was not lost
});

test("one session's follower sees nothing of another", async (t) => {
  const { client } = await bench(t);
  for (let id = 2; id <= 11; id++) {
    await client.createSession(); // 1 and 11 share the beginning of their topics' text
  }
  const follower = new Following(client);
  await follower.isLive();
  for (const seq of upTo(50)) {
    await client.append(11, "user", "other");
    await client.append(1, "user", `text ${seq}`);
  }
  await client.closeSession(11);
  await client.closeSession(1);
  complete(await follower.end(), 50);
});

test("a session that is closed ends its followers, empty or not, before or while they follow", async (t) => {
  const { client } = await bench(t);
  const waiting = new Following(client);
  await waiting.isLive();
  await client.closeSession(1);
  assert.deepEqual(await waiting.end(), []);
  assert.deepEqual(await all(client.follow(1)), []);
});

test("a follower that stands still for longer than heartbeats may be missing finds no silence but a backlog", async (t) => {
  const { client, connect } = await bench(t);
  const states: string[] = [];
  const messages = connect().follow(1, { onState: (state) => states.push(state) });
  await client.append(1, "user", "text 1");
  const first = await messages.next();
  const coming = messages.next();
  await client.append(1, "user", "text 2");
  const second = await coming;
  for (const seq of upTo(50, 2)) {
    await client.append(1, "user", `text ${seq}`);
  }
  await sleep(3500); // what this test is about; nothing is awaited by it
  await client.closeSession(1);
  const rest = await all(messages);
  complete(
    [first.value, second.value, ...rest].filter((message) => message !== undefined),
    50,
  );
  assert.deepEqual(states, ["catching up", "live"]);
});

test("following what is not there is an error", async (t) => {
  const { client } = await bench(t);
  await assert.rejects(client.follow(2).next(), SessionNotFound);
  await assert.rejects(client.follow(2n ** 60n).next(), SessionNotFound);
  await assert.rejects(client.follow(1, { after: 5 }).next(), CursorInvalid);
  await assert.rejects(client.followAll({ after: 5 }).next(), CursorInvalid);
  assert.throws(() => client.followAll({ types: ["message"] }), { name: "BadRequest", field: "types" });
});

test("following without an engine is an error", async (t) => {
  const directory = await temporaryDirectory();
  const client = connect(directory, { timeoutMs: 200 });
  t.after(async () => {
    await client.close();
    await rm(directory, { recursive: true });
  });
  await assert.rejects(client.follow(1).next(), NoReply);
});

test("a follower over TCP is a follower", async (t) => {
  const port = await freePort();
  const engine = await startEngine("--tcp", `127.0.0.1:${port}`);
  t.after(() => engine.remove());
  const client = connect(`tcp://127.0.0.1:${port}`, { timeoutMs: 60_000 });
  t.after(() => client.close());
  await client.createSession();
  const follower = new Following(client);
  await write(client, 100);
  complete(await follower.end(), 100);
});

// --- the whole log ----------------------------------------------------------------------------------

test("the whole log is followed while it grows, from wherever it was left", async (t) => {
  const { client, connect } = await bench(t);
  const other = connect();
  const writing = write(client, 1000);
  const followers: Promise<Event[]>[] = [];
  for (const begin of [0, 300, 700]) {
    await waitUntil(async () => (await other.ping()) >= begin);
    followers.push(take(other.followAll(), 1002));
  }
  await writing;
  const log = await all(client.events());
  for (const follower of followers) {
    assert.deepEqual(await within(DONE_MS, follower), log);
  }
  assert.deepEqual(await take(client.followAll({ after: 990n }), 12), log.slice(990));
});

test("from now on means nothing before", async (t) => {
  const { client, connect } = await bench(t);
  await client.appendMany(1, texts(99));
  let live = false;
  const events = connect().followAll({ after: "now", onState: (state) => (live ||= state === "live") });
  const coming = events.next();
  await waitUntil(() => live);
  await client.append(1, "user", "x");
  assert.equal((await within(DONE_MS, coming)).value?.position, 101);
  await events.return();
});

test("facts of the types that are wanted are given, and the others passed over", async (t) => {
  const { client } = await bench(t);
  for (const id of [2, 3]) {
    await client.createSession();
    await client.appendMany(id, texts(40));
    await client.closeSession(id);
  }
  const types = ["session_created", "session_closed"];
  const wanted = (await all(client.events())).filter(({ type }) => types.includes(type));
  const events = client.followAll({ types: new Set(types) });
  for (const expected of wanted) {
    assert.deepEqual((await events.next()).value, expected);
  }
  const coming = events.next();
  await client.append(1, "user", "passed over");
  const { at } = await client.closeSession(1);
  assert.equal((await within(DONE_MS, coming)).value?.position, at);
  await events.return();
});

// --- the end of an iteration ------------------------------------------------------------------------

/** A proxy that knows which topics anybody is subscribed to. */
async function watched(
  t: TestContext,
  drops = (_topic: string) => false,
): Promise<Bench & { readonly proxy: EventProxy }> {
  const whole = await bench(t);
  const proxy = await EventProxy.open(whole.engine.directory, { drops });
  t.after(() => proxy.close());
  return { ...whole, proxy };
}

test("break closes the live socket", async (t) => {
  const { client, connect, proxy } = await watched(t);
  await client.appendMany(1, texts(3));
  for await (const { seq } of connect(proxy.directory).follow(1)) {
    if (seq === 2) {
      assert(proxy.topics.has("message/1/"));
      break;
    }
  }
  await waitUntil(() => proxy.topics.size === 0, "nobody is subscribed");
});

test("an aborted follow rejects with the signal's reason, while it waits, and closes the live socket", async (t) => {
  const { client, connect, proxy } = await watched(t, (topic) => topic === "heartbeat/");
  await client.append(1, "user", "text 1");
  const control = new AbortController();
  const follower = new Following(connect(proxy.directory), { signal: control.signal });
  await follower.isLive();
  control.abort(new RangeError("enough"));
  await assert.rejects(follower.end(), { name: "RangeError", message: "enough" });
  assert.equal(follower.states.at(-1), "live"); // it was not the silence that ended the wait
  complete(follower.messages, 1);
  await waitUntil(() => proxy.topics.size === 0, "nobody is subscribed");
  assert.equal(await client.ping(), 2);
});

test("an abort in the middle of a page gives nothing more, and one beforehand nothing at all", async (t) => {
  const { client } = await bench(t);
  await client.appendMany(1, texts(100));
  const control = new AbortController();
  const seqs: number[] = [];
  const following = async (): Promise<void> => {
    for await (const { seq } of client.follow(1, { signal: control.signal })) {
      seqs.push(seq);
      if (seq === 7) {
        control.abort();
      }
    }
  };
  await assert.rejects(following(), { name: "AbortError" });
  assert.deepEqual(seqs, upTo(7));
  await assert.rejects(following(), { name: "AbortError" });
  assert.deepEqual(seqs, upTo(7));
});

test("an abort while the engine is away ends the wait for it", async (t) => {
  const { engine, client } = await bench(t);
  const control = new AbortController();
  const follower = new Following(client, { signal: control.signal });
  await follower.isLive();
  await engine.kill();
  await waitUntil(() => follower.states.at(-1) === "engine gone");
  control.abort();
  await assert.rejects(follower.end(), { name: "AbortError" });
});

test("what onState throws ends the follow, and the client goes on", async (t) => {
  const { client, connect, proxy } = await watched(t);
  const other = connect(proxy.directory);
  for (const wanted of ["catching up", "live"]) {
    const onState = (state: string): void => {
      if (state === wanted) {
        throw new TypeError(state);
      }
    };
    await assert.rejects(within(DONE_MS, other.follow(1, { onState }).next()), { name: "TypeError", message: wanted });
    await waitUntil(() => proxy.topics.size === 0, "nobody is subscribed");
  }
  assert.equal(await other.ping(), await client.ping());
});

test("a client that is closed ends its followers", async (t) => {
  const { connect } = await bench(t);
  const client = connect();
  const followers = [new Following(client), new Following(client)];
  const events = client.followAll({ after: "now" });
  const coming = events.next();
  coming.catch(() => {}); // until it is awaited
  await Promise.all(followers.map((follower) => follower.isLive()));
  await client.close();
  for (const follower of followers) {
    await assert.rejects(follower.end(), { name: "ClientClosed" });
  }
  await assert.rejects(within(DONE_MS, coming), { name: "ClientClosed" });
  await assert.rejects(client.follow(1).next(), { name: "ClientClosed" });
});

const LEAVING = `
import { connect } from ${JSON.stringify(new URL("../src/index.js", import.meta.url).href)};
const client = connect(process.argv[1], { timeoutMs: 60000 });
for await (const { seq } of client.follow(1)) {
  if (seq === 2) break;
}
const follower = client.follow(1, { after: 2 });
const coming = follower.next().catch((error) => console.warn(error.name));
await new Promise((resolve) => setTimeout(resolve, 200));
await client.close();
await coming;
console.warn("closed");
`;

test("after close nothing keeps the process alive", async (t) => {
  const { engine, client } = await bench(t);
  await client.appendMany(1, texts(2));
  const command = ["--input-type=module", "--eval", LEAVING, engine.directory];
  const child = spawn(process.execPath, command, { stdio: ["ignore", "inherit", "pipe"] });
  t.after(() => child.kill("SIGKILL"));
  let said = "";
  let closedAt = 0;
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    said += text;
    closedAt = performance.now();
  });
  const [code] = await within(DONE_MS, once(child, "exit"), "the process");
  assert.equal(said, "ClientClosed\nclosed\n");
  assert.equal(code, 0);
  assert(performance.now() - closedAt < 30_000); // sooner than a request would be given up
});

// --- many follows -----------------------------------------------------------------------------------

test("200 follows of one client ask together where their sessions end", async (t) => {
  const follows = 200;
  const { client, connect } = await bench(t);
  const other = connect();
  const sessions = await Promise.all(upTo(follows).map(() => client.createSession()));
  const followers = sessions.map(({ id }) => new Following(client, { sessionId: id }));
  await Promise.all(followers.map((follower) => follower.isLive()));
  const commands = async (): Promise<number> => Number((await other.stats())["commands"]);
  const before = await commands();
  const end = performance.now() + 3000;
  let own = 1; // the second question for the number
  for (; performance.now() < end; own++) {
    await other.append(1, "user", "x"); // which none of them follows
    await sleep(100);
  }
  const asked = (await commands()) - before - own;
  await Promise.all(sessions.map(({ id }) => client.closeSession(id)));
  for (const follower of followers) {
    assert.deepEqual(await follower.end(), []);
  }
  assert(asked > 0 && asked <= 30, `${asked} questions in 3 s`);
});
