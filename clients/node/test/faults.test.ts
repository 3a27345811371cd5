/** Lost replies, cut connections, engines that are killed: each write once, and in order. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { type Client, connect, type Id, NoReply } from "../src/index.js";
import { startEngine, waitUntil, waitUntilAnswered } from "./engine.js";
import { LossyProxy } from "./proxy.js";
import { Chance } from "./seeded.js";

const SESSIONS = 4;

async function newSessions(client: Client): Promise<Id[]> {
  const made = await Promise.all(Array.from({ length: SESSIONS }, () => client.createSession()));
  return made.map((session) => session.id);
}

async function contents(client: Client, sessionId: Id): Promise<string[]> {
  const found: string[] = [];
  for await (const message of client.messages(sessionId)) {
    found.push(message.content);
  }
  return found;
}

/** Append `m0` to `mN` to the sessions in turn, all at once; then look whether each is there once, in order. */
async function assertWritten(client: Client, direct: Client, count: number, during?: () => Promise<void>) {
  const ids = await newSessions(direct);
  const asked = Array.from({ length: count }, (_, n) => client.append(ids[n % SESSIONS] as Id, "user", `m${n}`));
  await during?.();
  const answers = await Promise.all(asked);
  for (const [index, id] of ids.entries()) {
    const wanted = Array.from({ length: count }, (_, n) => `m${n}`).filter((_, n) => n % SESSIONS === index);
    assert.deepEqual(await contents(direct, id), wanted);
    const seqs = answers.filter((_, n) => n % SESSIONS === index).map((answer) => answer.seq);
    assert.deepEqual(
      seqs,
      wanted.map((_, n) => n + 1),
    );
  }
}

test("5,000 appends through a lossy proxy are made once, in order", async (t) => {
  const engine = await startEngine();
  t.after(() => engine.remove());
  const proxy = await LossyProxy.open(engine.endpoint("commands"), { drop: 0.01, cut: 0.0015, seed: 7 });
  t.after(() => proxy.close());
  await using direct = connect(engine.directory, { timeoutMs: 60_000 });
  await using client = connect(proxy.target, { timeoutMs: 60_000 });
  await assertWritten(client, direct, 5000);
  assert.ok(proxy.dropped > 20, `${proxy.dropped} were dropped`);
  assert.ok(proxy.cuts > 2, `${proxy.cuts} cuts`);
});

test("writers go on through kill -9 and restarts of the engine, each write once, in order", async (t) => {
  const engine = await startEngine();
  t.after(() => engine.remove());
  await using client = connect(engine.directory, { timeoutMs: 60_000 });
  await using other = connect(engine.directory, { timeoutMs: 60_000 });
  const chance = new Chance(9);
  await assertWritten(client, other, 20_000, async () => {
    for (let kills = 0; kills < 3; kills++) {
      const enough = (await other.ping()) + chance.between(100, 3000);
      await waitUntil(async () => (await other.ping()) >= enough, "writes go on");
      await engine.kill();
      await engine.start();
    }
    assert.ok((await other.ping()) < 20_000, "it was killed under load");
  });
});

test("a clean stop of the engine in the middle of writing loses and doubles nothing either", async (t) => {
  const engine = await startEngine();
  t.after(() => engine.remove());
  await using client = connect(engine.directory, { timeoutMs: 60_000 });
  await using other = connect(engine.directory, { timeoutMs: 60_000 });
  await assertWritten(client, other, 10_000, async () => {
    await waitUntil(async () => (await other.ping()) > 1000, "writes go on");
    assert.equal(await engine.stop(), 0);
    await engine.start();
    assert.ok((await other.ping()) < 10_000, "it was stopped under load");
  });
});

test("a write that was given up is made at most once, and sending it again with its key says which", async (t) => {
  const engine = await startEngine();
  t.after(() => engine.remove());
  await using client = connect(engine.directory, { timeoutMs: 400 });
  await using patient = connect(engine.directory, { timeoutMs: 60_000 });
  await waitUntilAnswered(client); // it is connected, so that what it asks for next is sent
  const { id } = await patient.createSession();
  engine.pause();
  const errors = await Promise.all(["a", "b"].map((text) => client.append(id, "user", text).catch((error) => error)));
  engine.resume();
  assert.ok(errors.every((error) => error instanceof NoReply && error.sent && error.key !== null));
  const keys = errors.map((error) => (error as NoReply).key as string);
  await waitUntilAnswered(client); // behind what it has sent before
  const again = await Promise.all(["a", "b"].map((text, n) => patient.append(id, "user", text, { key: keys[n] })));
  assert.deepEqual(
    again.map(({ seq }) => seq),
    [1, 2],
  );
  assert.deepEqual(await contents(patient, id), ["a", "b"]);
});

test("a reply that comes too late is not taken for another", async (t) => {
  const engine = await startEngine();
  t.after(() => engine.remove());
  await using client = connect(engine.directory, { timeoutMs: 3000 });
  await using patient = connect(engine.directory, { timeoutMs: 60_000 });
  await waitUntilAnswered(client); // it is connected, so that what it asks for next is sent
  const { id } = await patient.createSession();
  engine.pause();
  for (let number = 0; number < 3; number++) {
    await assert.rejects(client.append(id, "user", "x"), NoReply);
  }
  engine.resume();
  await waitUntilAnswered(client);
  assert.equal((await patient.session(id)).seq, 3); // it was sent, and done
  assert.equal((await client.append(id, "user", "y")).seq, 4);
});

test("what was given up unsent is not done later", async (t) => {
  const engine = await startEngine();
  t.after(() => engine.remove());
  await engine.stop();
  await using client = connect(engine.directory, { timeoutMs: 200 });
  await using patient = connect(engine.directory, { timeoutMs: 60_000 });
  const error = await client.createSession({ name: "given up" }).catch((caught: unknown) => caught);
  assert.ok(error instanceof NoReply && !error.sent);
  await engine.start();
  await waitUntilAnswered(client);
  assert.equal(await patient.ping(), 0);
});

test("what was given up and never taken is not done by the next engine", async (t) => {
  const engine = await startEngine();
  t.after(() => engine.remove());
  await using client = connect(engine.directory, { timeoutMs: 500 });
  await using other = connect(engine.directory, { timeoutMs: 60_000 });
  await waitUntilAnswered(client);
  engine.pause();
  // More than the system takes for an engine that stands still, so that some stay in this process.
  const meta = { large: "x".repeat(60_000) };
  const given = await Promise.allSettled(Array.from({ length: 200 }, () => client.createSession({ meta })));
  assert.ok(given.every((result) => result.status === "rejected" && result.reason instanceof NoReply));
  await engine.kill();
  await engine.start();
  await waitUntilAnswered(client); // whatever waited before this would be done by now
  assert.equal(await other.ping(), 0);
});

test("a client may be made before its engine", async (t) => {
  const engine = await startEngine();
  t.after(() => engine.remove());
  await engine.stop();
  await using client = connect(engine.directory, { timeoutMs: 60_000 });
  const made = client.createSession();
  await engine.start();
  assert.equal((await made).id, 1);
});

test("a process that was busy for longer than the timeout still takes the replies that wait", async (t) => {
  const engine = await startEngine();
  t.after(() => engine.remove());
  await using client = connect(engine.directory, { timeoutMs: 4000 });
  await using patient = connect(engine.directory, { timeoutMs: 60_000 });
  await waitUntilAnswered(client); // it is connected
  const { id } = await patient.createSession();
  const asked = Array.from({ length: 200 }, (_, n) => client.append(id, "user", String(n)));
  await new Promise((resolve) => setImmediate(resolve)); // they are on their way
  block(6000);
  const answers = await Promise.all(asked);
  assert.deepEqual(
    answers.map(({ seq }) => seq),
    asked.map((_, n) => n + 1),
  );
});

/** Hold up the whole process. */
function block(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}
