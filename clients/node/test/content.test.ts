/** Every content comes back as it was written, whatever it is; and what is over a limit is refused with the limit. */

import assert from "node:assert/strict";
import { rm } from "node:fs/promises";
import { after, before, test } from "node:test";
import { Router } from "zeromq";
import { BadRequest, type Client, connect, type Id, type NewMeta, TooLarge } from "../src/index.js";
import * as protocol from "../src/protocol.js";
import * as wire from "../src/wire.js";
import { type Engine, startEngine, temporaryDirectory } from "./engine.js";
import { Chance } from "./seeded.js";

let engine: Engine;
let client: Client;
let session: Id;

before(async () => {
  engine = await startEngine();
  client = connect(engine.directory, { timeoutMs: 30_000 });
  session = (await client.createSession()).id;
});

after(async () => {
  await client.close();
  await engine.remove();
});

/** What is read of a message that was appended so. */
async function roundTrip(content: string, meta: NewMeta = {}): Promise<{ content: string; meta: unknown }> {
  const { seq } = await client.append(session, "user", content, { meta });
  const [message] = (await client.read(session, { after: seq - 1 })).messages;
  assert.ok(message);
  return { content: message.content, meta: message.meta };
}

async function caught<E>(kind: new (...args: never[]) => E, promise: Promise<unknown>): Promise<E> {
  const error = await promise.catch((reason: unknown) => reason);
  assert.ok(error instanceof kind, `${error}`);
  return error;
}

test("every plane of Unicode, NUL, byte order marks, non-characters, the empty string", async () => {
  const planes = Array.from({ length: 17 }, (_, plane) => {
    return [0x20, 0x80, 0xfffd, 0xfffe, 0xffff].map((low) => String.fromCodePoint(plane * 0x10000 + low)).join("");
  });
  const texts = ["", "\0", "\ufeff", `\ufeff${"ü".repeat(300)}`, "a\0b\ufeff", ...planes, planes.join("").repeat(200)];
  for (const text of texts) {
    const meta = { text, [text || "empty"]: { [text]: [text] } };
    assert.deepEqual(await roundTrip(text, text.length > 1000 ? {} : meta), {
      content: text,
      meta: text.length > 1000 ? {} : meta,
    });
  }
});

test("every character that may be in a string, in one", async () => {
  let text = "";
  for (let point = 0; point <= 0x10ffff; point++) {
    text += point >= 0xd800 && point <= 0xdfff ? "" : String.fromCodePoint(point);
  }
  assert.ok((await roundTrip(text)).content === text);
});

test("16 MiB of content, and one byte more is too large", async () => {
  const most = "ü".repeat(protocol.CONTENT_BYTES_MAX / 2);
  const { seq } = await client.append(session, "user", most);
  const [message] = (await client.read(session, { after: seq - 1 })).messages;
  assert.ok(message?.content === most);
  const error = await caught(TooLarge, client.append(session, "user", `${most}x`));
  assert.deepEqual([error.field, error.limit], ["content", protocol.CONTENT_BYTES_MAX]);
});

test("what the engine would cut the connection for is refused here", async () => {
  const error = await caught(TooLarge, client.append(session, "user", "x".repeat(protocol.COMMAND_BYTES_MAX)));
  assert.deepEqual([error.field, error.limit], ["content", protocol.COMMAND_BYTES_MAX]);
  const half = { role: "user", content: "x".repeat(9 << 20) };
  const many = await caught(TooLarge, client.appendMany(session, [half, half]));
  assert.deepEqual([many.field, many.limit], ["messages", protocol.COMMAND_BYTES_MAX]);
  assert.ok((await client.ping()) > 0); // the connection stands
});

test("limits of the engine come as its errors, with field and limit", async () => {
  const depth = (levels: number): NewMeta => (levels === 1 ? {} : { a: depth(levels - 1) });
  assert.deepEqual((await roundTrip("x", depth(16))).meta, depth(16));
  const limits: [string, number, () => Promise<unknown>][] = [
    ["meta", protocol.META_BYTES_MAX, () => client.append(session, "user", "x", { meta: { a: "x".repeat(64 << 10) } })],
    ["meta", protocol.META_DEPTH_MAX, () => client.append(session, "user", "x", { meta: depth(17) })],
    ["key", protocol.KEY_BYTES_MAX, () => client.append(session, "user", "x", { key: "x".repeat(257) })],
    ["name", protocol.NAME_BYTES_MAX, () => client.createSession({ name: "x".repeat(513) })],
    ["messages", protocol.BATCH_MESSAGES_MAX, () => client.appendMany(session, batch(10_001, 1))],
    ["messages", protocol.BATCH_BYTES_MAX, () => client.appendMany(session, batch(3, (17 << 20) / 3 - 100))],
    ["session_ids", protocol.TAILS_MAX, () => client.tails(Array(10_001).fill(session))],
  ];
  for (const [field, limit, ask] of limits) {
    const error = await caught(TooLarge, ask());
    assert.deepEqual([error.field, error.limit], [field, limit]);
  }
});

function batch(count: number, size: number): { role: string; content: string }[] {
  return Array(count).fill({ role: "user", content: "x".repeat(size) });
}

test("a meta keeps its values and their types", async () => {
  const meta = JSON.parse('{"__proto__": {"admin": true}, "constructor": 1, "a": {"__proto__": 2}, "list": [[], {}]}');
  const numbers = { max: 2n ** 63n - 1n, min: -(2n ** 63n), safe: 2 ** 53 - 1, half: 0.5, tiny: 5e-324, big: 2 ** 60 };
  const back = (await roundTrip("x", { ...numbers, nested: meta, no: null, yes: true })).meta as NewMeta;
  assert.deepEqual(back, { ...numbers, nested: meta, no: null, yes: true });
  assert.equal(JSON.stringify(back["nested"]), JSON.stringify(meta));
  assert.equal(({} as { admin?: boolean }).admin, undefined);
});

test("a batch of chance metas and contents is read as it was written, in order", async () => {
  const chance = new Chance(3);
  const messages = Array.from({ length: 500 }, (_, n) => ({
    role: chance.one("user", "assistant", "system", "tool"),
    content: String.fromCodePoint(chance.between(0xe000, 0x10ffff)).repeat(chance.between(0, 300)),
    meta: { n, x: chance.next(), list: Array(chance.between(0, 5)).fill("\ufeff") },
  }));
  const { firstSeq } = await client.appendMany(session, messages);
  const read = [];
  for await (const { role, content, meta } of client.messages(session, { after: firstSeq - 1 })) {
    read.push({ role, content, meta });
  }
  assert.deepEqual(read, messages);
});

test("lone surrogates are refused here, the field named, and nothing is written", async () => {
  const { seq } = await client.session(session);
  const wrong: [string, () => Promise<unknown>][] = [
    ["content", () => client.append(session, "user", "\ud800")],
    ["content", () => client.append(session, "user", `${"x".repeat(100_000)}\udc00`)],
    ["role", () => client.append(session, "\ud800", "x")],
    ["meta", () => client.append(session, "user", "x", { meta: { "\udfff": 1 } })],
    ["meta", () => client.append(session, "user", "x", { meta: { deep: [["\ud800\ud800"]] } })],
    ["key", () => client.append(session, "user", "x", { key: "\ud800" })],
    ["name", () => client.createSession({ name: "\ud800" })],
    ["name", () => client.session({ name: "\ud800" })],
    [
      "messages[1].content",
      () =>
        client.appendMany(session, [
          { role: "user", content: "x" },
          { role: "user", content: "\ud800" },
        ]),
    ],
    ["group", () => client.createGroup("\ud800")],
    ["reason", () => client.nack("g", ["l"], { reason: "\ud800" })],
  ];
  for (const [field, ask] of wrong) {
    assert.equal((await caught(BadRequest, ask())).field, field);
  }
  assert.equal((await client.session(session)).seq, seq);
});

test("a caller may change a meta while it is on its way", async () => {
  const meta = { n: 1 };
  const appended = client.append(session, "user", "x", { meta });
  meta.n = 2;
  const { seq } = await appended;
  assert.deepEqual((await client.read(session, { after: seq - 1 })).messages[0]?.meta, { n: 1 });
});

test("an engine that says more than this client knows is understood", async (t) => {
  const directory = await temporaryDirectory();
  t.after(() => rm(directory, { recursive: true, force: true }));
  const router = new Router({ linger: 0 });
  await router.bind(`ipc://${directory}/commands.sock`);
  t.after(() => router.close());
  void answerAll(router, { ok: true, position: 7, later: { new: [1] }, id: 2n ** 53n, seq: 1, at: 1, created_at: 5 });
  await using newer = connect(directory, { timeoutMs: 60_000 });
  const { id } = await newer.append(2n ** 63n - 1n, "user", "x");
  assert.equal(id, 2n ** 53n);
});

async function answerAll(router: Router, reply: object): Promise<void> {
  for await (const frames of router) {
    await router.send([...frames.slice(0, -1), wire.encode(reply)]);
  }
}
