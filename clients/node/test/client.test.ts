/** Every command through the client, against a real engine. */

import assert from "node:assert/strict";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import {
  type ArminError,
  BadRequest,
  type Client,
  Conflict,
  CursorInvalid,
  connect,
  type Event,
  GroupNotFound,
  type Id,
  LeaseLost,
  type Message,
  SessionClosed,
  SessionNotFound,
} from "../src/index.js";
import * as protocol from "../src/protocol.js";
import { type Engine, freePort, startEngine, within } from "./engine.js";

let engine: Engine;
let client: Client;

before(async () => {
  engine = await startEngine();
  client = connect(engine.directory, { timeoutMs: 60_000 });
});

after(async () => {
  await client.close();
  await engine.remove();
});

/** A new session with so many messages. */
async function talk(count: number): Promise<Id> {
  const { id } = await client.createSession();
  if (count > 0) {
    await client.appendMany(
      id,
      Array.from({ length: count }, (_, n) => ({ role: "user", content: `m${n + 1}` })),
    );
  }
  return id;
}

/** What a promise is rejected with, of this class. */
async function caught<E extends ArminError>(kind: new (...args: never[]) => E, promise: Promise<unknown>): Promise<E> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof kind, `${error}`);
  return error;
}

async function all<T>(iterator: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of iterator) {
    items.push(item);
  }
  return items;
}

const seqs = (messages: readonly Message[]): number[] => messages.map(({ seq }) => seq);

// --- the engine -----------------------------------------------------------------------------------

test("hello tells who the engine is", async () => {
  const hello = await client.hello();
  assert.equal(hello.protocol, protocol.PROTOCOL);
  assert.deepEqual(hello.limits, { ...protocol.LIMITS });
  assert.match(hello.database, /^[0-9a-f]{32}$/);
  assert.ok(hello.features.includes("groups"));
  assert.equal(hello.durability["synchronous"], "full");
  assert.deepEqual(Object.keys(hello.endpoints), ["ipc"]);
});

test("ping and sync give the position, stats give the counters", async () => {
  const position = await client.ping();
  assert.equal(await client.sync("token1"), position);
  const stats = await client.stats();
  assert.equal(stats["position"], position);
  assert.ok(!("ok" in stats));
  assert.equal((await caught(BadRequest, client.sync("No!"))).field, "token");
});

test("a sound engine is ready", async () => {
  const { position, ...health } = await client.health();
  assert.deepEqual(health, { live: true, ready: true, state: "serving", reasons: [] });
  assert.equal(position, await client.ping());
});

test("a backup holds what was acknowledged before, and its name is taken once", async () => {
  await talk(3);
  const position = await client.ping();
  const report = await client.backup({ name: "first.db" });
  assert.deepEqual([report.name, report.position], ["first.db", position]);
  const { size } = await stat(join(engine.directory, "backups", "first.db"));
  assert.equal(report.bytes, size);
  assert.equal(report.head, (await client.verify()).head);
  assert.equal((await caught(Conflict, client.backup({ name: "first.db" }))).reason, "backup_exists");
  assert.equal((await caught(BadRequest, client.backup({ name: "../x" }))).field, "name");
  assert.notEqual((await client.backup()).name, report.name);
});

test("a cursor of another epoch is refused, whoever looks", async () => {
  const id = await talk(2);
  const { epoch } = await client.hello();
  assert.equal((await client.read(id, { after: 1, epoch })).messages.length, 1);
  assert.equal((await all(client.messages(id, { epoch }))).length, 2);
  for await (const { seq } of client.follow(id, { after: 1, epoch })) {
    assert.equal(seq, 2);
    break;
  }
  const another = { after: 1, epoch: "another" };
  await caught(CursorInvalid, client.read(id, another));
  await caught(CursorInvalid, client.log(another));
  await caught(CursorInvalid, all(client.messages(id, another)));
  await caught(CursorInvalid, all(client.events(another)));
  await caught(CursorInvalid, all(client.follow(id, another)));
  await caught(CursorInvalid, all(client.followAll(another)));
});

test("verify tells how far it is, and finds the past that it is to expect", async () => {
  await talk(10);
  const told: [number, number][] = [];
  const report = await client.verify({ progress: (checked, total) => told.push([checked, total]) });
  assert.ok(report.equal && report.differences.length === 0 && report.firstBad === null);
  assert.deepEqual(told.at(-1), [report.checked, report.checked]);
  const head = report.head ?? assert.fail("it has a head");
  assert.ok((await client.verify({ expect: head })).equal);
  const other = `${head.split(":")[0]}:${"0".repeat(32)}`;
  assert.match((await client.verify({ expect: other })).differences[0] ?? "", /the past was rewritten/);
  const longer = await client.verify({ expect: `9999999999999999999:${"0".repeat(32)}` }).catch((error) => error);
  assert.ok(longer instanceof BadRequest, "beyond 2^63-1");
  const cut = await client.verify({ expect: `${2n ** 63n - 1n}:${"0".repeat(32)}` });
  assert.match(cut.differences[0] ?? "", /is cut off/);
  assert.equal((await caught(BadRequest, client.verify({ expect: "x" }))).field, "expect");
});

// --- sessions -------------------------------------------------------------------------------------

test("a session has the name, meta and state that it was given", async () => {
  const meta = { owner: "ada", nested: [{ n: 1.5 }, null, true], big: 2n ** 63n - 1n };
  const made = await client.createSession({ name: "support-7", meta });
  assert.deepEqual([made.name, made.meta, made.closed, made.seq, made.duplicate], ["support-7", meta, false, 0, false]);
  assert.ok(Math.abs(made.createdAt - Date.now()) < 60_000);
  const again = await client.createSession({ name: "support-7", meta: { other: 1 } });
  assert.deepEqual(again, { ...made, duplicate: true });
  assert.deepEqual(await client.session(made.id), made);
  assert.deepEqual(await client.session({ name: "support-7" }), made);
});

test("a session that is not there is not found, and the field named", async () => {
  assert.equal((await caught(SessionNotFound, client.session(1n << 60n))).field, "session_id");
  assert.equal((await caught(SessionNotFound, client.session({ name: "nobody" }))).field, "name");
  const error = await caught(SessionNotFound, client.append(1n << 60n, "user", "x", { key: "mine" }));
  assert.deepEqual([error.code, error.retry, error.key], ["session_not_found", false, "mine"]);
  assert.equal(error.position, await client.ping());
});

test("a creation with the same key is the same session", async () => {
  const made = await client.createSession({ key: "import-of-monday" });
  assert.deepEqual(await client.createSession({ key: "import-of-monday" }), { ...made, duplicate: true });
  const error = await caught(Conflict, client.createSession({ key: "import-of-monday", meta: { a: 1 } }));
  assert.equal(error.reason, "key_reused");
});

test("sessions are listed from either end, the closed and the open ones apart", async () => {
  const ids = [await talk(0), await talk(1), await talk(2)] as const;
  await client.closeSession(ids[1]);
  const first = BigInt(ids[0]) - 1n;
  const listed = await client.sessions({ after: first, limit: 2 });
  assert.deepEqual([listed.sessions.map(({ id }) => id), listed.more], [ids.slice(0, 2), true]);
  const newest = await client.sessions({ before: protocol.ID_MAX, limit: 1 });
  assert.deepEqual([newest.sessions.map(({ id, seq }) => [id, seq]), newest.more], [[[ids[2], 2]], true]);
  const open = await client.sessions({ after: first, closed: false });
  assert.deepEqual(
    open.sessions.map(({ id }) => id),
    [ids[0], ids[2]],
  );
});

test("tails tell where sessions end", async () => {
  const [one, other] = [await talk(3), await talk(0)];
  await client.closeSession(other);
  assert.deepEqual((await client.tails([one, other])).tails, [
    { sessionId: one, seq: 3, closed: false },
    { sessionId: other, seq: 0, closed: true },
  ]);
});

test("a closed session takes no more, and closing it again changes nothing", async () => {
  const id = await talk(1);
  const closed = await client.closeSession(id);
  assert.deepEqual([closed.at, closed.duplicate], [closed.position, false]);
  assert.deepEqual(await client.closeSession(id), { ...closed, duplicate: true });
  assert.equal((await caught(SessionClosed, client.append(id, "user", "x"))).field, "session_id");
});

// --- messages -------------------------------------------------------------------------------------

test("a message is read as it was appended", async () => {
  const id = await talk(0);
  const meta = { model: "m-1", tokens: 2 };
  const appended = await client.append(id, "assistant", "hi!", { meta });
  assert.deepEqual([appended.seq, appended.at, appended.duplicate], [1, appended.position, false]);
  const page = await client.read(id);
  assert.deepEqual(page.messages, [
    {
      id: appended.id,
      sessionId: id,
      seq: 1,
      role: "assistant",
      content: "hi!",
      createdAt: appended.createdAt,
      meta,
      elided: false,
    },
  ]);
  assert.deepEqual([page.more, page.seq, page.closed], [false, 1, false]);
});

test("the same key is the same message, and another message with it a conflict", async () => {
  const id = await talk(0);
  const one = await client.append(id, "user", "x", { key: "k" });
  assert.deepEqual(await client.append(id, "user", "x", { key: "k" }), { ...one, duplicate: true });
  const error = await caught(Conflict, client.append(id, "user", "y", { key: "k" }));
  assert.deepEqual([error.reason, error.key], ["key_reused", "k"]);
  assert.equal((await client.read(id)).seq, 1);
});

test("a message that would get another seq than expected is a conflict", async () => {
  const id = await talk(2);
  assert.equal((await caught(Conflict, client.append(id, "user", "x", { expectSeq: 2 }))).reason, "expect_seq");
  assert.equal((await client.append(id, "user", "x", { expectSeq: 3n })).seq, 3);
});

test("a batch is written together or not at all", async () => {
  const id = await talk(1);
  const batch = [
    { role: "user", content: "a" },
    { role: "tool", content: "b", meta: { n: 1 } },
  ];
  const many = await client.appendMany(id, batch, { key: "batch", expectSeq: 2 });
  assert.deepEqual([many.firstSeq, many.count, many.firstAt], [2, 2, many.position - 1]);
  assert.deepEqual(await client.appendMany(id, batch, { key: "batch" }), { ...many, duplicate: true });
  const error = await caught(BadRequest, client.appendMany(id, [...batch, { role: "robot", content: "c" }]));
  assert.equal(error.field, "messages[2].role");
  assert.equal((await client.read(id)).seq, 3);
});

test("what is wrong with a message is named", async () => {
  const id = await talk(0);
  const fields: [string, () => Promise<unknown>][] = [
    ["role", () => client.append(id, "robot", "x")],
    ["content", () => client.append(id, "user", 7 as unknown as string)],
    ["content", () => client.append(id, "user", undefined as unknown as string)],
    ["content", () => client.append(id, "user", "\ud800")],
    ["session_id", () => client.append("1" as unknown as Id, "user", "x")],
    ["session_id", () => client.append(1.5, "user", "x")],
    ["meta", () => client.append(id, "user", "x", { meta: { a: Number.NaN } })],
    ["key", () => client.append(id, "user", "x", { key: "" })],
    ["limit", () => client.read(id, { limit: 0 })],
  ];
  for (const [field, ask] of fields) {
    assert.equal((await caught(BadRequest, ask())).field, field);
  }
});

test("pages are read from either end, and a cursor ahead of the session is invalid", async () => {
  const id = await talk(5);
  const page = await client.read(id, { after: 1, limit: 2 });
  assert.deepEqual([seqs(page.messages), page.more], [[2, 3], true]);
  assert.deepEqual(seqs((await client.read(id, { before: 5, limit: 2 })).messages), [3, 4]);
  assert.deepEqual(seqs((await client.read(id, { before: protocol.ID_MAX, limit: 1, reason: "heal" })).messages), [5]);
  assert.equal((await caught(CursorInvalid, client.read(id, { after: 6 }))).field, "after");
});

test("snapshot and delta together are the session", async () => {
  const id = await talk(3);
  const { snapshotPosition } = await client.refreshSnapshot();
  await client.append(id, "user", "m4");
  const past = await client.snapshot(id, { after: 1, limit: 10 });
  assert.deepEqual([seqs(past.messages), past.snapshotPosition, past.snapshotSeq], [[2, 3], snapshotPosition, 3]);
  const recent = await client.delta(id, { snapshotPosition });
  assert.deepEqual([seqs(recent.messages), recent.more], [[4], false]);
  await client.refreshSnapshot();
  assert.equal((await caught(Conflict, client.delta(id, { snapshotPosition }))).reason, "snapshot_moved");
});

test("the log has every fact in order", async () => {
  const after = await client.ping();
  const id = await talk(1);
  await client.closeSession(id);
  const page = await client.log({ after });
  const [created, appended, closed] = page.events as [Event, Event, Event];
  assert.deepEqual(
    page.events.map(({ position }) => position),
    [after + 1, after + 2, after + 3],
  );
  assert.deepEqual([created.type, created.sessionId, created.message], ["session_created", id, null]);
  assert.deepEqual([appended.type, appended.message?.content], ["message_appended", "m1"]);
  assert.equal(appended.createdAt, appended.message?.createdAt);
  assert.deepEqual([closed.type, closed.createdAt], ["session_closed", null]);
  assert.equal((await client.log({ after, limit: 1 })).more, true);
  assert.equal((await caught(CursorInvalid, client.log({ after: 2n ** 62n }))).field, "after");
});

test("messages and events are read page by page to the end", async () => {
  const id = await talk(2500);
  assert.deepEqual(
    seqs(await all(client.messages(id, { after: 3 }))),
    Array.from({ length: 2497 }, (_, n) => n + 4),
  );
  const positions = (await all(client.events())).map(({ position }) => position);
  assert.deepEqual(
    positions,
    Array.from({ length: await client.ping() }, (_, n) => n + 1),
  );
});

test("a follow gives history and what comes, until the session is closed", async () => {
  const id = await talk(2);
  const followed: number[] = [];
  for await (const message of client.follow(id, { after: 1 })) {
    followed.push(message.seq);
    if (message.seq < 5) {
      await client.append(id, "user", "more");
    } else {
      await client.closeSession(id);
    }
  }
  assert.deepEqual(followed, [2, 3, 4, 5]);
});

test("followers of the whole log get the facts of the types that they want", async () => {
  const events = client.followAll({ after: "now", types: ["session_closed"] });
  const first = events.next();
  await client.ping(); // behind the follower's hello
  const id = await talk(3);
  await client.closeSession(id);
  const { value } = await within(60_000, first);
  assert.deepEqual([value?.type, value?.sessionId], ["session_closed", id]);
  await events.return();
  assert.throws(() => client.followAll({ types: ["session_renamed"] }), BadRequest);
});

test("effects are shared out, and end where none come for a while", async () => {
  const seen: number[] = [];
  const [begin, id] = [await client.ping(), await talk(0)];
  for await (const effect of client.effects({ timeoutMs: 60_000 })) {
    if (effect.position > begin) {
      seen.push(effect.position);
      if (seen.length === 3) {
        break;
      }
      await client.append(id, "user", "x");
    }
  }
  assert.deepEqual(seen, [begin + 1, begin + 2, begin + 3]);
  for await (const effect of client.effects({ timeoutMs: 500 })) {
    assert.fail(`there was no other, and one came: ${effect.position}`);
  }
});

// --- groups ---------------------------------------------------------------------------------------

test("a group is created once, with settings that stay", async () => {
  const settings = {
    start: "now",
    types: ["message_appended"],
    ordered: true,
    maxAttempts: 2,
    backoffMs: 0,
    onDead: "halt",
  } as const;
  const made = await client.createGroup("settled", settings);
  const { start, types, ordered, maxAttempts, backoffMs, onDead } = made;
  assert.deepEqual({ start, types, ordered, maxAttempts, backoffMs, onDead }, settings);
  assert.equal((await client.createGroup("settled", settings)).duplicate, true);
  assert.equal((await caught(Conflict, client.createGroup("settled"))).field, "start");
  const [group] = await client.groups({ group: "settled" });
  assert.deepEqual(group, { ...made, cursor: group?.cursor, behind: group?.behind });
  assert.ok((await client.groups()).some((one) => one.group === "settled"));
});

test("an effect is leased, extended, refused, leased again, handled", async () => {
  await client.createGroup("g", { start: "now", maxAttempts: 2, backoffMs: 0 });
  const id = await talk(1);
  const { leases } = await client.lease("g", { max: 10, leaseMs: 60_000, request: "r1" });
  assert.deepEqual(
    leases.map(({ event, attempt }) => [event.type, attempt]),
    [
      ["session_created", 1],
      ["message_appended", 1],
    ],
  );
  assert.deepEqual((await client.lease("g", { max: 10, request: "r1" })).leases, leases);
  const [created, appended] = leases as [(typeof leases)[0], (typeof leases)[0]];
  assert.equal(appended.event.message?.sessionId, id);
  const extended = await client.extend("g", [created], { leaseMs: 120_000 });
  assert.ok((extended.outcomes[0]?.until ?? 0) > created.until);
  assert.deepEqual(
    (await client.ack("g", created)).outcomes.map(({ ok }) => ok),
    [true],
  );
  const twice = await client.ack("g", [created.lease, "never given"]);
  assert.deepEqual(
    twice.outcomes.map(({ ok, duplicate }) => [ok, duplicate]),
    [
      [true, true],
      [false, false],
    ],
  );
  assert.ok(twice.outcomes[1]?.error instanceof LeaseLost);
  const refused = await client.nack("g", [appended], { reason: "busy", delayMs: 0 });
  assert.deepEqual(
    refused.outcomes.map(({ ok, dead }) => [ok, dead]),
    [[true, false]],
  );
  const again = await client.lease("g", { waitMs: 5000 });
  assert.deepEqual(
    again.leases.map(({ position, attempt }) => [position, attempt]),
    [[appended.position, 2]],
  );
  assert.equal((await client.nack("g", again.leases, { reason: "no" })).outcomes[0]?.dead, true);
  const dead = await client.deadLetters("g");
  assert.deepEqual(
    dead.deadLetters.map(({ position, attempts, reason }) => [position, attempts, reason]),
    [[appended.position, 2, "no"]],
  );
  assert.deepEqual((await client.deadLetters("g", { after: appended.position, limit: 5 })).deadLetters, []);
});

test("dead letters are tried again or given up, all or some", async () => {
  await client.createGroup("dying", { start: "now", maxAttempts: 1 });
  await talk(2);
  const kill = async (): Promise<number[]> => {
    const { leases } = await client.lease("dying", { max: 10 });
    await client.nack("dying", leases);
    return leases.map(({ position }) => position);
  };
  const [first = 0, ...others] = await kill();
  assert.equal(await client.requeue("dying", { positions: [first, 1n << 40n] }), 1);
  assert.deepEqual(await kill(), [first]);
  assert.equal(await client.discard("dying", { positions: [first] }), 1);
  for (const misplaced of [[first], new Set([first])]) {
    const options = misplaced as unknown as { positions: number[] };
    assert.equal((await caught(BadRequest, client.requeue("dying", options))).field, "positions");
    assert.equal((await caught(BadRequest, client.discard("dying", options))).field, "positions");
  }
  assert.equal(await client.requeue("dying"), others.length);
  await kill();
  assert.equal(await client.discard("dying"), others.length);
});

test("a lease waits for the first effect, without holding up others", async () => {
  await client.createGroup("waiting", { start: "now" });
  const lease = client.lease("waiting", { waitMs: 20_000 });
  await talk(0);
  assert.equal((await within(60_000, lease)).leases.length, 1);
  assert.deepEqual((await client.lease("waiting", { waitMs: 50 })).leases, []);
});

test("a worker handles effects until it is told to stop", async () => {
  const handled: string[] = [];
  const worker = client.worker(
    "workers",
    (effect) => {
      handled.push(effect.type);
      if (handled.length === 2) {
        worker.stop();
      }
    },
    { start: "now", ordered: true },
  );
  await client.createGroup("workers", { start: "now", ordered: true });
  const running = worker.run();
  await talk(1);
  await within(60_000, running);
  assert.deepEqual(handled, ["session_created", "message_appended"]);
  assert.equal(worker.counters.handled, 2);
});

test("a group that is dropped is gone", async () => {
  await client.createGroup("gone");
  assert.equal(await client.dropGroup("gone"), true);
  assert.equal(await client.dropGroup("gone"), false);
  assert.equal((await caught(GroupNotFound, client.lease("gone"))).code, "group_not_found");
});

// --- elsewhere ------------------------------------------------------------------------------------

test("everything goes over TCP as well", async (t) => {
  const port = await freePort();
  const remote = await startEngine("--tcp", `127.0.0.1:${port}`);
  t.after(() => remote.remove());
  await using far = connect(`tcp://127.0.0.1:${port}`, { timeoutMs: 60_000 });
  const { id } = await far.createSession();
  await far.append(id, "user", "x".repeat(70_000)); // too large for an event
  await far.append(id, "user", "y");
  const effect = await far.effects().next();
  assert.equal(effect.value?.type, "session_created");
  const follow = far.follow(id);
  assert.equal((await follow.next()).value?.content.length, 70_000);
  assert.equal((await follow.next()).value?.content, "y");
  const next = follow.next();
  await far.append(id, "user", "z".repeat(70_000));
  assert.equal((await within(60_000, next)).value?.content.length, 70_000);
  await follow.return();
});
