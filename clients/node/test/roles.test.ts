/** Keys on TCP, with a real engine: who gets in, what each may do, and what the others are told. */

import assert from "node:assert/strict";
import { rm } from "node:fs/promises";
import { after, before, type TestContext, test } from "node:test";
import {
  type ArminError,
  type Client,
  connect,
  type FollowState,
  type Id,
  type KeyContent,
  NoReply,
  NotAuthorized,
} from "../src/index.js";
import { freePort, startEngine, temporaryDirectory, waitUntil, within } from "./engine.js";
import { keyContent, LockedEngine, makeKey } from "./locked.js";

const REFUSED_MS = 30_000; // sooner than a request would be given up, however busy the machine is

let engine: LockedEngine;

before(async () => {
  engine = await LockedEngine.open("reader", "writer", "worker", "admin");
});

after(() => engine.remove());

async function refusal(asked: Promise<unknown>): Promise<ArminError> {
  const reason: unknown = await asked.then(
    () => "it was done",
    (error: unknown) => error,
  );
  assert.ok(reason instanceof NotAuthorized || reason instanceof NoReply, String(reason));
  return reason;
}

/** That the key's role does not allow it. */
async function forbidden(asked: Promise<unknown>): Promise<void> {
  const error = await refusal(asked);
  assert.deepEqual([error.code, error.reason, error.field, error.retry], ["not_authorized", "role", "op", false]);
}

test("a reader reads and follows, and cannot write", async () => {
  await using writer = engine.connect("writer");
  await using reader = engine.connect("reader");
  const { id } = await writer.createSession();
  await writer.append(id, "user", "one");
  const seen: string[] = [];
  for await (const { content } of reader.follow(id)) {
    seen.push(content);
    if (seen.length === 1) {
      await writer.append(id, "user", "two"); // this one comes live
      await writer.closeSession(id);
    }
  }
  assert.deepEqual(seen, ["one", "two"]);
  assert.equal((await reader.read(id)).messages.length, 2);
  assert.equal((await reader.hello()).role, "reader");
  assert.equal((await reader.health()).live, true);
  await forbidden(reader.createSession());
  await forbidden(reader.append(id, "user", "x"));
  await forbidden(reader.createGroup("g"));
});

test("a writer writes, and takes no effects", async () => {
  await using writer = engine.connect("writer");
  const { id } = await writer.createSession();
  await writer.appendMany(id, [{ role: "user", content: "a" }]);
  assert.equal((await writer.hello()).role, "writer");
  await forbidden(writer.lease("g"));
  await forbidden(writer.refreshSnapshot());
  await forbidden(writer.worker("g", () => {}).run());
});

test("the effects socket refuses a key that may not take effects, and says so", async () => {
  for (const name of ["reader", "writer"]) {
    await using client = engine.connect(name);
    const error = await within(REFUSED_MS, refusal(client.effects().next()));
    assert.deepEqual([error.code, error.reason], ["not_authorized", "key"]);
    const said = `the effects socket at ${engine.target.slice(6)} refused this key (${name}, ${name}), or does not know it`;
    assert.equal(error.message, said);
  }
});

test("a worker handles effects of its group, and pulls", async () => {
  await using client = engine.connect("worker");
  const pulled = (async () => {
    for await (const event of client.effects()) {
      return event.type;
    }
    return undefined;
  })();
  const handled: string[] = [];
  const worker = client.worker(
    "crew",
    ({ type }) => {
      handled.push(type);
      worker.stop();
    },
    { start: "now" },
  );
  const running = worker.run();
  await waitUntil(async () => (await client.groups()).some(({ group }) => group === "crew"));
  await client.createSession();
  await running;
  assert.deepEqual([handled, worker.counters.handled], [["session_created"], 1]);
  await within(60_000, pulled, "an effect");
  assert.equal((await client.hello()).role, "worker");
  await forbidden(client.dropGroup("crew"));
  await forbidden(client.verify());
  await forbidden(client.backup());
});

test("an admin does everything, as does whoever may use the directory", async () => {
  await using admin = engine.connect("admin");
  assert.equal((await admin.hello()).role, "admin");
  await admin.refreshSnapshot();
  assert.equal((await admin.verify()).equal, true);
  await using local = connect(engine.directory, { timeoutMs: 60_000 });
  assert.equal((await local.hello()).role, "admin");
});

test("without a key nothing gets through, and the client says what is wanted", async (t) => {
  await using client = connect(engine.target, { timeoutMs: 3000 });
  const before = await handshakesFailed();
  const error = await refusal(client.append(1, "user", "x"));
  assert.deepEqual([error.code, error.reason, (error as NoReply).sent], ["no_reply", "handshake", false]);
  assert.ok(error.message.startsWith(`nothing got through to ${engine.target.slice(6)} within 3 s: what listens`));
  assert.match(error.message, /want.* a key.*ARMIN_KEY/);
  t.diagnostic(`${(await handshakesFailed()) - before} attempts`);
  assert.ok((await handshakesFailed()) - before < 50, "it tries later and later");
});

async function handshakesFailed(): Promise<number> {
  await using local = connect(engine.directory, { timeoutMs: 60_000 });
  return (await local.stats())["handshakes_failed"] as number;
}

test("a key that the engine does not know is refused at once", async (t) => {
  const { server } = await keyContent(engine.keyFile("writer"));
  await using client = connect(engine.target, { key: { ...(await strangersKey(t)), server }, timeoutMs: 60_000 });
  for (const ask of [() => client.ping(), () => client.createSession()]) {
    const error = await within(REFUSED_MS, refusal(ask()));
    assert.deepEqual([error.code, error.reason, error.retry], ["not_authorized", "key", false]);
    const said = `the engine at ${engine.target.slice(6)} refused this key (mallory, admin), or does not know it`;
    assert.equal(error.message, said);
  }
});

/** A key of another engine. */
async function strangersKey(t: TestContext): Promise<KeyContent> {
  const elsewhere = await temporaryDirectory();
  t.after(() => rm(elsewhere, { recursive: true, force: true }));
  return keyContent(await makeKey(elsewhere, "mallory", "admin"));
}

test("where another engine's key is pinned, nothing goes through", async (t) => {
  const { server } = await strangersKey(t);
  const key = { ...(await keyContent(engine.keyFile("writer"))), server };
  await using client = connect(engine.target, { key, timeoutMs: 3000 });
  const error = await refusal(client.createSession());
  assert.deepEqual([error.code, error.reason, (error as NoReply).sent], ["no_reply", "handshake", false]);
  assert.match(error.message, /breaks off: it may be another engine than the key writer is for, or take no keys$/);
});

test("a key is no use where the engine takes none, and the client says so", async (t) => {
  const port = await freePort();
  const open = await startEngine("--tcp", `127.0.0.1:${port}`);
  t.after(() => open.remove());
  const key = engine.keyFile("writer");
  await using client = connect(`tcp://127.0.0.1:${port}`, { key, timeoutMs: 3000 });
  const error = await refusal(client.ping());
  assert.deepEqual([error.code, error.reason], ["no_reply", "handshake"]);
  assert.match(error.message, /: what listens there .*takes? no keys/);
});

// --- revoked --------------------------------------------------------------------------------------

/** Follows a session to its end; `seen` are the seqs. */
function following(client: Client, id: Id, onState?: (state: FollowState) => void) {
  const seen: number[] = [];
  const done = (async () => {
    for await (const { seq } of client.follow(id, { onState })) {
      seen.push(seq);
    }
  })();
  done.catch(() => {}); // whoever waits for it gets it, then
  return { seen, done };
}

test("a revoked key is out, and a follow of another client has no gap and no repeat", async (t) => {
  await engine.makeKey("leaver", "writer");
  await using stays = engine.connect("writer");
  await using leaves = engine.connect("leaver");
  await admission(leaves);
  const { id } = await stays.createSession();
  await stays.append(id, "user", "1");
  const [kept, cut] = [following(stays, id), following(leaves, id)];
  await waitUntil(() => kept.seen.length === 1 && cut.seen.length === 1);
  await leaves.append(id, "user", "2");
  let last = 2;
  let isWriting = true;
  const writing = (async () => {
    for (; isWriting; last++) {
      await stays.append(id, "user", String(last + 1));
    }
  })();
  await waitUntil(() => cut.seen.length > 20);

  await engine.revoke("leaver");
  const revokedAt = performance.now();
  const [followed, wrote] = await Promise.all([
    within(REFUSED_MS, refusal(cut.done), "the end of its follow"),
    within(REFUSED_MS, untilRefused(leaves, id), "the end of its writing"),
  ]);
  t.diagnostic(`out after ${Math.round(performance.now() - revokedAt)} ms`);
  assert.deepEqual([followed.code, wrote.code], ["not_authorized", "not_authorized"]);

  const upTo = last + 20;
  await waitUntil(() => last >= upTo);
  isWriting = false;
  await writing;
  await stays.closeSession(id);
  await within(60_000, kept.done, "the follow");
  assert.deepEqual(
    kept.seen,
    kept.seen.map((_, index) => index + 1),
  );
  assert.equal(kept.seen.length, (await stays.read(id, { limit: 1 })).seq);
});

async function untilRefused(client: Client, id: Id): Promise<ArminError> {
  for (;;) {
    try {
      await client.append(id, "user", "late");
    } catch (error) {
      assert.ok(error instanceof NotAuthorized, String(error));
      return error;
    }
  }
}

test("a client whose key is known again goes on", async (t: TestContext) => {
  await engine.makeKey("returner", "writer");
  await using client = engine.connect("returner");
  await admission(client);
  const allow = await engine.revoke("returner");
  await waitUntil(() => isRefused(client), "it is refused");
  await allow();
  const began = performance.now();
  await admission(client);
  t.diagnostic(`let in after ${Math.round(performance.now() - began)} ms`);
});

async function isRefused(client: Client): Promise<boolean> {
  try {
    await client.ping();
    return false;
  } catch (error) {
    assert.ok(error instanceof NotAuthorized, String(error));
    return true;
  }
}

/** The engine looks at its keys now and then. */
async function admission(client: Client): Promise<void> {
  await waitUntil(async () => !(await isRefused(client)), "it is let in");
}

test("a key made while the engine runs is let in", async () => {
  await engine.makeKey("newcomer", "reader");
  await using client = engine.connect("newcomer");
  await admission(client);
  assert.equal((await client.hello()).role, "reader");
});

test("a follow outlasts an engine that was started without its keys for a while", async (t) => {
  const own = await LockedEngine.open("writer");
  t.after(() => own.remove());
  await using local = connect(own.directory, { timeoutMs: 60_000 });
  await using client = own.connect("writer", { timeoutMs: 5000 });
  const { id } = await local.createSession();
  await local.append(id, "user", "locked");
  const states: FollowState[] = [];
  const followed = following(client, id, (state) => states.push(state));
  await waitUntil(() => states.at(-1) === "live");
  await using stranger = connect(own.target, { timeoutMs: 3000 });
  assert.equal((await refusal(stranger.ping())).reason, "handshake");
  await own.stop();
  const restore = await own.hideKeys();
  await own.start();
  await local.append(id, "user", "open");
  await waitUntil(() => stranger.ping().then(Boolean, () => false), "who has no key is let in now");
  await waitUntil(() => states.at(-1) === "engine gone");
  const alone = await refusal(client.ping()); // its key is for a locked engine
  assert.deepEqual([alone.code, alone.reason], ["no_reply", "handshake"]);
  await own.stop();
  await restore();
  await own.start();
  await waitUntil(() => states.at(-1) === "live");
  await local.append(id, "user", "locked again"); // comes live
  await waitUntil(() => followed.seen.length === 3);
  await local.closeSession(id);
  await within(60_000, followed.done, "the follow");
  assert.deepEqual(followed.seen, [1, 2, 3]);
});

test("workers go on over a revocation of somebody else's key", async () => {
  await engine.makeKey("passer", "reader");
  await using client = engine.connect("worker");
  const handled: number[] = [];
  const worker = client.worker("steady", ({ position }) => handled.push(position), { start: "now", concurrency: 4 });
  const running = worker.run();
  await waitUntil(async () => (await client.groups()).some(({ group }) => group === "steady"));
  await using local = connect(engine.directory, { timeoutMs: 60_000 });
  const { id } = await local.createSession();
  await local.append(id, "user", "before");
  await waitUntil(() => handled.length >= 2);
  await engine.revoke("passer");
  await local.append(id, "user", "after");
  await waitUntil(() => handled.length >= 3);
  worker.stop();
  await within(60_000, running, "the worker's end");
  assert.deepEqual(new Set(handled).size, 3);
});
