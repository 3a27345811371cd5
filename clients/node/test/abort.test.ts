/** Signals end waiting: with their reason, at once, and without a trace. */

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { after, before, test } from "node:test";
import { onAbort } from "../src/aborting.js";
import { type Client, connect, FollowState, type Id, NoReply } from "../src/index.js";
import { type Engine, startEngine, waitUntil, waitUntilAnswered, within } from "./engine.js";

const SOON_MS = 30_000; // sooner than a request would be given up
const PATIENCE_MS = 90_000;

let engine: Engine;
let client: Client;
let session: Id;

before(async () => {
  engine = await startEngine();
  client = connect(engine.directory, { timeoutMs: PATIENCE_MS });
  session = (await client.createSession()).id;
});

after(async () => {
  await client.close();
  await engine.remove();
});

class Reason extends Error {}

/** That this is rejected with the reason of a signal that is aborted once it has begun. */
async function assertAborted(begin: (signal: AbortSignal) => Promise<unknown>, whenReady?: Promise<unknown>) {
  const controller = new AbortController();
  const reason = new Reason("enough");
  const rejected = assert.rejects(begin(controller.signal), (error) => error === reason);
  await whenReady;
  controller.abort(reason);
  await within(SOON_MS, rejected, "the rejection");
  assert.deepEqual(getEventListeners(controller.signal, "abort"), []);
}

test("a request that is not answered ends with the reason", async (t) => {
  engine.pause();
  t.after(() => engine.resume());
  await assertAborted((signal) => client.ping({ signal }));
  await assertAborted((signal) => client.read(session, { signal }));
  await assertAborted((signal) => client.append(session, "user", "maybe", { signal }));
});

test("a signal that was aborted before keeps everything from being sent", async () => {
  const before = await client.ping();
  const signal = AbortSignal.abort(new Reason("before"));
  const asked = [
    () => client.append(session, "user", "never", { signal }),
    () => client.createSession({ signal }),
    () => client.lease("g", { waitMs: 10, signal }),
    () => client.verify({ signal }),
    () => client.messages(session, { signal }).next(),
    () => client.events({ signal }).next(),
    () => client.follow(session, { signal }).next(),
    () => client.followAll({ signal }).next(),
    () => client.effects({ signal }).next(),
    () => client.worker("g", () => {}, { signal }).run(),
  ];
  for (const ask of asked) {
    await assert.rejects(ask, Reason, String(ask));
  }
  assert.equal(await client.ping(), before);
});

test("a write that was sent keeps its place in line, whoever waits", async () => {
  const { id } = await client.createSession();
  engine.pause();
  const controller = new AbortController();
  const first = client.append(id, "user", "first", { signal: controller.signal });
  const second = client.append(id, "user", "second");
  await new Promise((resolve) => setImmediate(resolve)); // they are on their way
  const rejected = assert.rejects(first, { name: "AbortError" });
  controller.abort();
  await rejected;
  engine.resume();
  assert.equal((await second).seq, 2);
  const contents = (await client.read(id)).messages.map(({ content }) => content);
  assert.deepEqual(contents, ["first", "second"]);
});

test("a write that was not sent is not sent later", async (t) => {
  const other = await startEngine();
  t.after(() => other.remove());
  await other.stop();
  await using early = connect(other.directory, { timeoutMs: PATIENCE_MS });
  await assertAborted((signal) => early.createSession({ signal }));
  const kept = early.createSession({ name: "kept" });
  await other.start();
  assert.equal((await kept).id, 1);
});

test("a wait for leases ends with the reason, and its connection", async () => {
  await client.createGroup("idle", { start: "now" });
  const polled = waitUntil(async () => (await client.groups({ group: "idle" }))[0]?.pollers === 1, "it waits");
  await assertAborted((signal) => client.lease("idle", { waitMs: 60_000, signal }), polled);
  const seen = async (): Promise<boolean> => (await client.groups({ group: "idle" }))[0]?.pollers === 0;
  await waitUntil(async () => {
    await client.createSession(); // the engine notices who is gone when it has something for it
    return seen();
  }, "nobody waits");
});

test("iterators that wait end with the reason", async () => {
  let tell = (): void => {};
  const live = new Promise<void>((resolve) => {
    tell = resolve;
  });
  const onState = (state: FollowState): void => (state === FollowState.LIVE ? tell() : undefined);
  await assertAborted((signal) => drain(client.follow(session, { signal, onState })), live);
  await assertAborted((signal) => drain(client.followAll({ after: "now", signal })));
  await assertAborted((signal) => drain(client.effects({ signal })));
});

test("an iterator that is aborted between two items ends with the reason at the next", async () => {
  const { id } = await client.createSession();
  await client.appendMany(id, Array(3).fill({ role: "user", content: "x" }));
  for (const begin of [client.messages, client.follow]) {
    const controller = new AbortController();
    const iterator = begin.call(client, id, { signal: controller.signal });
    assert.equal((await iterator.next()).value?.seq, 1);
    controller.abort(new Reason("enough"));
    await assert.rejects(iterator.next(), Reason);
    assert.deepEqual(await iterator.next(), { value: undefined, done: true });
  }
});

test("a thousand requests with one signal end together, without a warning", async () => {
  const warned: Error[] = [];
  const note = (warning: Error) => warned.push(warning);
  process.on("warning", note);
  engine.pause();
  const controller = new AbortController();
  const asked = Array.from({ length: 1000 }, () => client.ping({ signal: controller.signal }));
  const settled = Promise.allSettled(asked);
  assert.equal(getEventListeners(controller.signal, "abort").length, 1);
  controller.abort(new Reason("enough"));
  const results = await within(SOON_MS, settled, "the end");
  engine.resume();
  await new Promise((resolve) => setImmediate(resolve)); // warnings come in a turn of their own
  process.off("warning", note);
  assert.ok(results.every((result) => result.status === "rejected" && result.reason instanceof Reason));
  assert.deepEqual(warned, []);
});

test("a signal that outlives its requests keeps nothing of them", async () => {
  const controller = new AbortController();
  await Promise.all(Array.from({ length: 20 }, () => client.ping({ signal: controller.signal })));
  assert.deepEqual(getEventListeners(controller.signal, "abort"), []);
});

test("AbortSignal.timeout ends a request before the client's own timeout", async (t) => {
  engine.pause();
  t.after(() => engine.resume());
  await assert.rejects(client.ping({ signal: AbortSignal.timeout(50) }), { name: "TimeoutError" });
});

test("a request that ends by itself takes no harm from a signal", async () => {
  await using impatient = connect(engine.directory, { timeoutMs: 200 });
  await waitUntilAnswered(impatient);
  engine.pause();
  const controller = new AbortController();
  await assert.rejects(impatient.ping({ signal: controller.signal }), NoReply);
  engine.resume();
  controller.abort();
});

test("each that waits on a signal is called once, but for those that left", () => {
  const controller = new AbortController();
  const called: string[] = [];
  const same = (): void => {
    called.push("same");
  };
  onAbort(controller.signal, same);
  const leave = onAbort(controller.signal, same);
  onAbort(controller.signal, () => called.push("other"));
  leave();
  leave();
  controller.abort();
  assert.deepEqual(called, ["same", "other"]);
  onAbort(undefined, same)();
});

async function drain(iterator: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of iterator) {
    // whatever it gives
  }
}
