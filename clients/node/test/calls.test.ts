/** Calls and replies as bytes: what is sent, what is understood, what is refused on the spot. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { decode, encode } from "@msgpack/msgpack";
import type { Call } from "../src/calls.js";
import * as calls from "../src/calls.js";
import * as groupCalls from "../src/groupCalls.js";
import * as armin from "../src/index.js";
import * as protocol from "../src/protocol.js";
import * as replies from "../src/replies.js";

const MESSAGE = { id: 9, session_id: 2, seq: 3, role: "tool", content: "c", created_at: 5 };
const RESULT = { id: 9, sessionId: 2, seq: 3, role: "tool", content: "c", createdAt: 5, meta: null, elided: false };

function sent(call: Call<unknown>): Record<string, unknown> {
  return decode(call.encode()) as Record<string, unknown>;
}

function ok(fields: object = {}): Uint8Array {
  return encode({ ok: true, position: 7, ...fields }, { useBigInt64: true });
}

/** What a call refuses to be sent with. */
function refusal(make: () => Call<unknown>): armin.ArminError {
  let caught: unknown;
  try {
    make().encode();
  } catch (error) {
    caught = error;
  }
  assert.ok(caught instanceof armin.ArminError, String(caught));
  return caught;
}

/** What a reply is refused with. */
function failure(reply: Uint8Array, call: Call<unknown> = calls.ping()): armin.ArminError {
  let caught: unknown;
  try {
    call.decode(reply);
  } catch (error) {
    caught = error;
  }
  assert.ok(caught instanceof armin.ArminError, String(caught));
  return caught;
}

// --- commands -------------------------------------------------------------------------------------

test("fields that were not given are not sent", () => {
  assert.deepEqual(sent(calls.ping()), { op: "ping" });
  const append = { op: "append", session_id: 1, role: "user", content: "hi", key: "k" };
  assert.deepEqual(sent(calls.append(1, "user", "hi", { key: "k", meta: undefined })), append);
  assert.deepEqual(sent(calls.sessions({ closed: false })), { op: "sessions", closed: false });
});

test("zero and the empty string are sent", () => {
  const read = { op: "read", session_id: 1, after: 0, limit: 0 };
  assert.deepEqual(sent(calls.read(1, { after: 0, limit: 0 })), read);
  const created = { op: "create_session", name: "", meta: {}, key: "" };
  assert.deepEqual(sent(calls.createSession({ name: "", meta: {}, key: "" })), created);
});

test("every write of messages and sessions has a key, given or made", () => {
  assert.equal(calls.append(1, "user", "x", { key: "mine" }).key, "mine");
  const made = [calls.append(1, "user", "x"), calls.appendMany(1, []), calls.createSession()].map((call) => call.key);
  assert.equal(new Set(made).size, 3);
  assert.ok(made.every((key) => key !== null));
});

test("every call uses only fields that the protocol names", () => {
  const made: Call<unknown>[] = [
    calls.hello(),
    calls.ping(),
    calls.sync("t"),
    calls.stats(),
    calls.refreshSnapshot(),
    calls.health(),
    calls.verify(1, { position: 7, digest: "0" }),
    calls.backup({ name: "n", job: 1 }),
    calls.createSession({ name: "n", meta: { a: 1 } }),
    calls.append(1, "user", "c", { meta: { a: 1 }, expectSeq: 1 }),
    calls.appendMany(1, [{ role: "user", content: "c" }], { expectSeq: 1 }),
    calls.closeSession(1),
    calls.session(1),
    calls.session({ name: "n" }),
    calls.sessions({ after: 1, before: 1, limit: 1, closed: true }),
    calls.tails([1]),
    calls.read(1, { after: 1, before: 1, limit: 1, reason: "heal" }),
    calls.snapshot(1, { after: 1, limit: 1 }),
    calls.delta(1, { after: 1, limit: 1, snapshotPosition: 1 }),
    calls.log({ after: 1, limit: 1 }),
    groupCalls.createGroup("g", {
      types: ["session_created"],
      ordered: true,
      maxAttempts: 5,
      backoffMs: 1,
      onDead: "skip",
    }),
    groupCalls.lease("g", { max: 1, leaseMs: 30_000, waitMs: 10, request: "t" }),
    groupCalls.ack("g", ["l"]),
    groupCalls.nack("g", ["l"], { reason: "r", delayMs: 0 }),
    groupCalls.extend("g", ["l"], { leaseMs: 10 }),
    groupCalls.groups("g"),
    groupCalls.deadLetters("g", { after: 1, limit: 1 }),
    groupCalls.requeue("g", [1]),
    groupCalls.discard("g", [1]),
    groupCalls.dropGroup("g"),
  ];
  const spoken = Object.keys(protocol.OPS).filter((op) => op !== "pipeline"); // each write goes by itself
  assert.deepEqual(new Set(made.map((call) => call.op)), new Set(spoken));
  for (const call of made) {
    const { required, optional } = protocol.OPS[call.op] as {
      required: readonly string[];
      optional: readonly string[];
    };
    const fields = Object.keys(sent(call));
    assert.ok(
      fields.every((field) => ["op", ...required, ...optional].includes(field)),
      call.op,
    );
    assert.ok(
      ["op", ...required].every((field) => fields.includes(field)),
      call.op,
    );
  }
});

test("messages may come from anything that can be iterated", () => {
  function* messages(): Generator<armin.NewMessage> {
    yield { role: "user", content: "a" };
    yield { role: "user", content: "b", meta: { k: [1] } };
    yield { role: "tool", content: "c", meta: undefined };
  }
  assert.deepEqual(sent(calls.appendMany(1, messages()))["messages"], [
    { role: "user", content: "a" },
    { role: "user", content: "b", meta: { k: [1] } },
    { role: "tool", content: "c" },
  ]);
});

test("leases are given as they came, or by name, one or several", () => {
  const lease = { lease: "l", position: 1, attempt: 1, until: 1, event: {} as armin.Event };
  assert.deepEqual(sent(groupCalls.ack("g", lease))["leases"], ["l"]);
  assert.deepEqual(sent(groupCalls.ack("g", [lease, "m"]))["leases"], ["l", "m"]);
  assert.deepEqual(sent(groupCalls.ack("g", new Set(["m"])))["leases"], ["m"]);
});

test("ids of 64 bits are sent exactly, as a number or as a bigint", () => {
  const id = 2n ** 62n + 1n;
  const wide = (call: Call<unknown>) => decode(call.encode(), { useBigInt64: true }) as Record<string, unknown>;
  assert.equal(wide(calls.read(id))["session_id"], id);
  assert.equal(calls.append(id, "user", "x").line, id);
  assert.equal(calls.append(7n, "user", "x").line, 7);
  assert.equal(wide(calls.read(Number.MAX_SAFE_INTEGER))["session_id"], BigInt(Number.MAX_SAFE_INTEGER));
});

test("what cannot be said is refused here, and the field named", () => {
  const cycle: Record<string, unknown> = {};
  cycle["again"] = [cycle];
  const good = { role: "user", content: "a" };
  const append = (meta: unknown) => () => calls.append(1, "user", "a", { meta: meta as armin.NewMeta });
  const many =
    (...messages: unknown[]) =>
    () =>
      calls.appendMany(1, messages as armin.NewMessage[]);
  const wrong: [() => Call<unknown>, string][] = [
    [() => calls.append(1, "user", "a\ud800"), "content"],
    [() => calls.append(1, "us\ud800er", "a"), "role"],
    [() => calls.append(1, "user", undefined as unknown as string, { key: "\ud800" }), "key"],
    [() => calls.append(1n << 64n, "user", "a"), "session_id"],
    [() => calls.append(2 ** 53, "user", "a"), "session_id"],
    [() => calls.read(1, { after: 2 ** 60 }), "after"],
    [() => calls.append(1, "user", "a", { expectSeq: Number.NaN }), "expect_seq"],
    [append({ deep: [{ k: 1n << 64n }] }), "meta"],
    [append({ k: Number.NaN }), "meta"],
    [append({ k: [undefined] }), "meta"],
    [append({ k: () => 1 }), "meta"],
    [append({ "\ud800": 1 }), "meta"],
    [append({ k: new Date() }), "meta"],
    [append({ k: Buffer.from("b") }), "meta"],
    [append(cycle), "meta"],
    [append(5), "meta"],
    [append([1]), "meta"],
    [append(new Map([["a", 1]])), "meta"],
    [() => calls.createSession({ name: "\udfff" }), "name"],
    [() => calls.createSession({ meta: { k: [Symbol("s")] } }), "meta"],
    [many(good, { ...good, content: "\ud800" }), "messages[1].content"],
    [many({ ...good, meta: { k: new Set() } }), "messages[0].meta"],
    [many(good, good, good, { ...good, content: Symbol("s") }), "messages[3].content"],
    [many(good, { ...good, meta: [] }), "messages[1].meta"],
    [many(7), "messages[0]"],
    [many(good, null), "messages[1]"],
    [() => calls.appendMany(1, "hello" as unknown as armin.NewMessage[]), "messages"],
    [() => calls.appendMany(1, 7 as unknown as armin.NewMessage[]), "messages"],
    [() => calls.tails([1n << 70n]), "session_ids"],
    [() => calls.tails([1, 2 ** 53]), "session_ids"],
    [() => groupCalls.createGroup("g", { types: "session_created" }), "types"],
    [() => groupCalls.ack("g", "lease"), "leases"],
    [() => groupCalls.requeue("g", [2 ** 60]), "positions"],
  ];
  for (const [make, field] of wrong) {
    const error = refusal(make);
    assert.ok(error instanceof armin.BadRequest, field);
    assert.equal(error.field, field);
    assert.ok(error.message.startsWith(field), error.message);
    assert.deepEqual([error.code, error.retry, error.position], ["bad_request", false, null]);
  }
});

test("a number that is no integer for want of bits is sent in a meta, as the float that it is", () => {
  assert.deepEqual(sent(calls.append(1, "user", "a", { meta: { big: 2 ** 60 } }))["meta"], { big: 2 ** 60 });
});

test("the deepest meta that is not refused here can be sent in a batch, too", () => {
  let meta: armin.NewMeta = {};
  for (let depth = 1; depth < 100; depth++) {
    meta = { meta };
  }
  sent(calls.appendMany(1, [{ role: "user", content: "a", meta }]));
  const deeper = { role: "user", content: "a", meta: { meta } };
  assert.equal(refusal(() => calls.appendMany(1, [deeper])).field, "messages[0].meta");
});

test("a command that the engine would cut off is refused here", () => {
  const { COMMAND_BYTES_MAX } = protocol;
  const error = refusal(() => calls.append(1, "user", "x".repeat(COMMAND_BYTES_MAX + 1), { meta: { k: 1 } }));
  assert.ok(error instanceof armin.TooLarge);
  assert.deepEqual([error.field, error.limit], ["content", COMMAND_BYTES_MAX]);
});

// --- replies --------------------------------------------------------------------------------------

test("a message has all its fields", () => {
  const reply = ok({ messages: [MESSAGE, { ...MESSAGE, meta: { k: 1 } }], more: true, seq: 4, closed: false });
  assert.deepEqual(calls.read(2).decode(reply), {
    messages: [RESULT, { ...RESULT, meta: { k: 1 } }],
    more: true,
    seq: 4,
    closed: false,
    position: 7,
  });
});

test("ids beyond 2^53 come as bigints, and others as numbers, however they are packed", () => {
  const wide = { ...MESSAGE, id: 2n ** 53n, session_id: 7n, seq: 3n, created_at: 5n };
  const reply = ok({ messages: [wide], more: false, seq: 3, closed: false });
  const { messages } = calls.read(2).decode(reply);
  assert.deepEqual(messages, [{ ...RESULT, id: 2n ** 53n, sessionId: 7 }]);
});

test("a seq, position, count or time that a number cannot hold is a protocol error, never rounded", () => {
  const page = { messages: [], more: false, seq: 0, closed: false };
  assert.match(failure(ok({ ...page, seq: 2n ** 53n }), calls.read(1)).message, /beyond 2\^53-1/);
  assert.match(failure(ok({ position: 2n ** 60n })).message, /beyond 2\^53-1/);
  const late = { ...page, messages: [{ ...MESSAGE, created_at: 2n ** 60n }] };
  assert.ok(failure(ok(late), calls.read(1)) instanceof armin.ProtocolError);
});

test("unknown fields are ignored everywhere", () => {
  const also = { later: [1], also: { later: 1 } };
  const reply = ok({ messages: [{ ...MESSAGE, ...also }], more: false, seq: 3, closed: true, ...also });
  assert.deepEqual(calls.read(2).decode(reply).messages, [RESULT]);
  const event = replies.event({ position: 1, type: "session_closed", session_id: 2, ...also });
  const closed = { position: 1, type: "session_closed", sessionId: 2 };
  assert.deepEqual(event, { ...closed, message: null, createdAt: null, name: null, meta: null });
});

test("an elided message has no content and says so", () => {
  const { content: _, ...inner } = MESSAGE;
  const fields = { position: 4, type: "message_appended", session_id: 2, message: { ...inner, elided: true } };
  const event = replies.decodeEvent(encode(fields));
  assert.deepEqual(event.message, { ...RESULT, content: "", elided: true });
  assert.equal(event.createdAt, 5);
});

test("an event of a type not known yet is an event", () => {
  assert.equal(replies.event({ position: 4, type: "session_renamed", session_id: 2 }).type, "session_renamed");
});

test("an effect is one frame", () => {
  const event = encode({ position: 4, type: "session_closed", session_id: 2 });
  assert.equal(replies.decodeEffect([event]).position, 4);
  assert.throws(() => replies.decodeEffect([event, event]), /2 frames, not 1/);
  assert.throws(() => replies.decodeEffect([]), armin.ProtocolError);
});

test("a reply that is none is a protocol error", () => {
  const wrong = [
    ...[[], [0xc1], [0x81, 0xa2, 0x6f, 0x6b], [0x80, 0x80], [0xa1, 0xff]].map((bytes) => Uint8Array.from(bytes)),
    ...[[1], {}, { ok: 1, position: 1 }, { ok: false }, { ok: false, error: "no" }, null, "ok"].map((v) => encode(v)),
    ...[{ message: "no code" }, { code: "conflict" }].map((error) => encode({ ok: false, error })),
    ...[{ ok: true }, { ok: true, position: "7" }, { ok: true, position: true }, { ok: true, position: 1.5 }].map((v) =>
      encode(v),
    ),
  ];
  for (const reply of wrong) {
    assert.ok(failure(reply) instanceof armin.ProtocolError);
  }
});

test("a reply of another shape is a protocol error", () => {
  const wrong: [Call<unknown>, object][] = [
    [calls.read(1), { messages: [1], more: false, seq: 0, closed: false }],
    [calls.read(1), { messages: [{ ...MESSAGE, seq: "3" }], more: false, seq: 3, closed: false }],
    [calls.read(1), { messages: [{ ...MESSAGE, meta: [] }], more: false, seq: 3, closed: false }],
    [calls.read(1), { messages: [], more: 0, seq: 3, closed: false }],
    [calls.tails([1]), { tails: [[1, 2]] }],
    [calls.tails([1]), { tails: [[1, "2", false]] }],
    [calls.tails([1]), { tails: [7] }],
    [calls.session(1), { session: null }],
    [calls.hello(), { protocol: "armin/1" }],
    [calls.append(1, "user", "a"), { id: 1 }],
    [groupCalls.lease("g", { max: 1 }), { leases: [{ lease: "l", position: 1 }] }],
    [groupCalls.ack("g", ["l"]), { outcomes: [{ lease: "l", ok: false }] }],
    [groupCalls.groups(), { groups: [{ group: "g" }] }],
  ];
  for (const [call, fields] of wrong) {
    assert.ok(failure(ok(fields), call) instanceof armin.ProtocolError, call.op);
  }
});

// --- errors ---------------------------------------------------------------------------------------

test("every code of the wire has a class of its own", () => {
  const classes = Object.values(protocol.ErrorCode).map((code) => {
    const error = { code, message: "m", field: "f", limit: 3, reason: "r", retry: true, later: 1 };
    const caught = failure(encode({ ok: false, position: 7, error }));
    assert.deepEqual([caught.code, caught.message, caught.field, caught.limit], [code, "m", "f", 3]);
    assert.deepEqual([caught.reason, caught.retry, caught.position, caught.key], ["r", true, 7, null]);
    assert.equal(caught.name, caught.constructor.name);
    return caught.constructor;
  });
  assert.equal(new Set(classes).size, classes.length);
  assert.ok(!classes.includes(armin.ArminError));
  assert.ok(
    classes.every((kind) => Object.values(armin).includes(kind as never)),
    "all of them can be imported",
  );
});

test("a code not known yet is an error of the base class", () => {
  const caught = failure(encode({ ok: false, position: 7, error: { code: "too_tired", message: "m", retry: true } }));
  assert.equal(caught.constructor, armin.ArminError);
  assert.deepEqual([caught.code, caught.retry], ["too_tired", true]);
});

test("without a word on it, what the engine could not do for now may be tried again", () => {
  const retry = (code: string) => failure(encode({ ok: false, error: { code, message: "m" } })).retry;
  const codes = Object.values(protocol.ErrorCode).filter(retry);
  assert.deepEqual(codes, ["storage_failed", "shutting_down"]);
});

// --- health and backup ----------------------------------------------------------------------------

test("health says what is not well", () => {
  const health = { live: true, ready: false, state: "degraded", reasons: ["commits_failing"] };
  assert.deepEqual(calls.health().decode(ok({ ...health, later: 1 })), { ...health, position: 7 });
  for (const wrong of [{ live: 1 }, { ready: null }, { state: 7 }, { reasons: [7] }, { reasons: "none" }]) {
    assert.ok(failure(ok({ ...health, ...wrong }), calls.health()) instanceof armin.ProtocolError);
  }
});

test("hello tells the role, where the engine says one", () => {
  const rest = { protocol: "armin/1", version: "0", features: [], database: "d", epoch: "e", engine: "n" };
  const maps = { endpoints: {}, limits: {}, durability: {} };
  assert.equal(calls.hello().decode(ok({ ...rest, ...maps, role: "reader" })).role, "reader");
  assert.equal(calls.hello().decode(ok({ ...rest, ...maps })).role, null);
});

test("a backup goes on until it is done, then it is told", () => {
  const state = { job: 3, done: true, name: "n.db", bytes: 4096, backup_position: 9, head: "9:ab", duration_ms: 12 };
  assert.equal(calls.backupReport({ ok: true, job: 3, done: false, position: 9 }), null);
  const report = { name: "n.db", bytes: 4096, position: 9, head: "9:ab", durationMs: 12 };
  assert.deepEqual(calls.backupReport({ ...state, position: 11 }), report);
});

test("a backup is begun once, and asked after as often as need be", () => {
  assert.equal(calls.backup({ name: "n" }).repeatable, false);
  assert.equal(calls.backup({ job: 3 }).repeatable, true);
});

// --- verify ---------------------------------------------------------------------------------------

const STATE = { job: 1, done: false, checked: 5, total: 9, position: 12 };
const DONE = { ...STATE, done: true, checked: 9, verified_position: 9, equal: false, differences: ["x"] };
const REPORT = { equal: false, position: 9, checked: 9, differences: ["x"], head: null, firstBad: null };

test("a comparison tells how far it is and that it is done", () => {
  const told: [number, number][] = [];
  const progress: calls.Progress = (checked, total) => told.push([checked, total]);
  assert.equal(calls.verifyReport({ job: 1 }, progress), null);
  assert.equal(calls.verifyReport(STATE, progress), null);
  assert.deepEqual(calls.verifyReport(DONE, progress), REPORT);
  assert.deepEqual(told, [
    [5, 9],
    [9, 9],
  ]);
});

test("differences that the engine left out are counted", () => {
  const report = calls.verifyReport({ ...DONE, differences_count: 2001 });
  assert.deepEqual(report, { ...REPORT, differences: ["x", "and 2,000 more"] });
});

test("the first bad row is told", () => {
  const row = { position: 3, session_id: 2n ** 60n, message_id: 0, seq: 0 };
  const report = calls.verifyReport({ ...DONE, first_bad: row });
  assert.deepEqual(report?.firstBad, { position: 3, sessionId: 2n ** 60n, messageId: 0, seq: 0 });
});
