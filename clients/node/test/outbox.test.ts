/** Requests through whatever may happen to them, simulated from a seed; and the outbox's rules one by one. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { Call } from "../src/calls.js";
import * as calls from "../src/calls.js";
import { ArminError, Conflict, NoReply, SessionClosed, ShuttingDown, StorageFailed } from "../src/errors.js";
import * as groupCalls from "../src/groupCalls.js";
import { Outbox, PAUSE, RESEND_FIRST, type Request, type Result, WINDOW, WINDOW_BYTES } from "../src/outbox.js";
import type { Fields } from "../src/replies.js";
import type { Id } from "../src/results.js";
import * as wire from "../src/wire.js";
import { waitUntil } from "./engine.js";
import { Chance } from "./seeded.js";

const SESSIONS = 3;
const TIMEOUT = 30_000;
const FOR_EVER = 1e12;

type Frames = readonly Uint8Array[];

function givenUp(request: Request): ArminError {
  return new NoReply("nobody", { reason: "silent", sent: request.wasSent });
}

function refusal(code: string, reason: string | null = null): Fields {
  return { ok: false, position: 1, error: { code, message: code, reason } };
}

function ok(seq: number): Fields {
  return { ok: true, position: 1, id: 1, seq, at: 1, created_at: 1 };
}

/** Keys, order and closures as the engine has them; it keeps all that over its deaths. */
class ModelEngine {
  readonly sessions = new Map<Id, string[]>();
  readonly closed = new Set<Id>();
  readonly #keys = new Map<string, number>();
  refuses = false; // it is shutting down

  contents(sessionId: Id): string[] {
    const contents = this.sessions.get(sessionId) ?? [];
    this.sessions.set(sessionId, contents);
    return contents;
  }

  take(command: Fields): Fields {
    const sessionId = command["session_id"] as Id;
    if (this.refuses) {
      return refusal("shutting_down");
    }
    if (command["op"] === "close_session") {
      this.closed.add(sessionId);
      return { ok: true, position: 1, at: 1 };
    }
    const key = `${sessionId} ${command["key"]}`;
    const seq = this.#keys.get(key);
    return seq === undefined ? this.#append(sessionId, key, command) : ok(seq);
  }

  #append(sessionId: Id, key: string, command: Fields): Fields {
    const { after_key: after, content } = command;
    if (after !== undefined && !this.#keys.has(`${sessionId} ${after}`)) {
      return refusal("conflict", "out_of_order");
    }
    if (this.closed.has(sessionId)) {
      return refusal("session_closed");
    }
    if (content === "bad") {
      return refusal("bad_request");
    }
    const contents = this.contents(sessionId);
    this.#keys.set(key, contents.push(String(content)));
    return ok(contents.length);
  }
}

/** One outbox, one engine, and what is on its way between them. */
class World {
  readonly chance: Chance;
  readonly outbox: Outbox;
  readonly engine = new ModelEngine();
  commands: Frames[] = [];
  replies: Frames[] = [];
  readonly results = new Map<number, Result>();
  asked = 0;
  now = 0;
  loss: number;

  constructor(seed: number, timeoutMs: number) {
    this.chance = new Chance(seed);
    this.outbox = new Outbox(timeoutMs, givenUp);
    this.loss = this.chance.one(0, 0.02, 0.2, 0.5);
  }

  ask(call: Call<unknown>): number {
    const number = this.asked++;
    this.outbox.add(call, this.now, (result) => this.results.set(number, result));
    return number;
  }

  send(): void {
    for (let next = this.outbox.nextToSend(); next !== null; next = this.outbox.nextToSend()) {
      this.outbox.sent(next.request, this.now);
      if (this.chance.next() >= this.loss) {
        this.commands.push(next.frames);
      }
    }
  }

  step(): void {
    const what = this.chance.one("serve", "serve", "hear", "hear", "wait", "cut", "turn");
    if (what === "serve") {
      this.#serve();
    } else if (what === "hear") {
      for (const frames of this.some(this.replies)) {
        this.outbox.received(frames, this.now);
      }
    } else if (what === "wait") {
      this.now += this.chance.one(10, 100, RESEND_FIRST);
      this.outbox.tick(this.now);
    } else if (what === "cut" && this.chance.next() < this.loss) {
      this.commands = [];
      this.replies = [];
    } else if (what === "turn" && this.loss > 0) {
      this.engine.refuses = this.chance.next() < 0.1;
    }
    this.send();
  }

  #serve(): void {
    for (const [correlation, command] of this.some(this.commands) as [Uint8Array, Uint8Array][]) {
      const reply = wire.encode(this.engine.take(wire.decode(command) as Fields));
      if (this.chance.next() >= this.loss) {
        this.replies.push([correlation, reply]);
      }
    }
  }

  /** The first few, or many, taken out. */
  some(waiting: Frames[]): Frames[] {
    return waiting.splice(0, this.chance.one(1, 3, 1000));
  }

  /** From here on nothing is lost. */
  rest(): void {
    this.loss = 0;
    this.engine.refuses = false;
    for (let left = 20_000; left > 0 && this.outbox.size > 0; left--) {
      this.step();
    }
    assert.equal(this.outbox.size, 0, "no request is stuck");
  }

  /** What was sent and is on its way. */
  get sent(): Fields[] {
    return this.commands.map(([, command]) => wire.decode(command as Uint8Array) as Fields);
  }

  reply(frames: Frames | undefined, reply: Fields): void {
    const [correlation] = frames as [Uint8Array];
    this.outbox.received([correlation, wire.encode(reply)], this.now);
  }
}

function append(sessionId: Id, content: string, key?: string): Call<unknown> {
  return calls.append(sessionId, "user", content, { key });
}

function lossless(): World {
  const world = new World(0, TIMEOUT);
  world.loss = 0;
  return world;
}

function isError(result: Result | undefined): result is ArminError {
  return result instanceof ArminError;
}

// --- simulated ------------------------------------------------------------------------------------

test("every write is made once and in order, whatever is lost", () => {
  for (let seed = 0; seed < 60; seed++) {
    const world = new World(seed, FOR_EVER);
    const wanted = new Map<Id, string[]>();
    for (let number = 0; number < 400; number++) {
      const sessionId = world.chance.between(1, SESSIONS);
      const bad = world.chance.next() < 0.02;
      world.ask(append(sessionId, bad ? "bad" : String(number)));
      if (!bad) {
        wanted.set(sessionId, [...(wanted.get(sessionId) ?? []), String(number)]);
      }
      world.send();
      for (let steps = world.chance.between(0, 5); steps > 0; steps--) {
        world.step();
      }
    }
    world.rest();
    for (const [sessionId, contents] of wanted) {
      assert.deepEqual(world.engine.contents(sessionId), contents, `seed ${seed}`);
    }
    assert.equal(world.results.size, world.asked);
    const codes = [...world.results.values()].filter(isError).map((error) => error.code);
    assert.ok(
      codes.every((code) => code === "bad_request"),
      `seed ${seed}: ${codes}`,
    );
  }
});

test("what is given up neither doubles nor reorders what is answered", () => {
  for (let seed = 0; seed < 40; seed++) {
    const world = new World(seed, 3000);
    const asked = new Map<number, [Id, string]>();
    for (let number = 0; number < 300; number++) {
      const sessionId = world.chance.between(1, SESSIONS);
      asked.set(world.ask(append(sessionId, String(number))), [sessionId, String(number)]);
      for (let steps = world.chance.between(0, 4); steps > 0; steps--) {
        world.step();
      }
    }
    world.rest();
    for (const [sessionId, contents] of world.engine.sessions) {
      assert.equal(new Set(contents).size, contents.length, `seed ${seed}`);
      const answered = [...asked]
        .filter(([number, [of]]) => of === sessionId && !isError(world.results.get(number)))
        .map(([, [, content]]) => content);
      assert.deepEqual(
        contents.filter((content) => answered.includes(content)),
        answered,
        `seed ${seed}`,
      );
    }
  }
});

test("a closure comes after all writes before it and before all behind it", () => {
  for (let seed = 0; seed < 30; seed++) {
    const world = new World(seed, FOR_EVER);
    const before = Array.from({ length: 30 }, (_, n) => world.ask(append(1, String(n))));
    const close = world.ask(calls.closeSession(1));
    const behind = Array.from({ length: 5 }, () => world.ask(append(1, "late")));
    const other = world.ask(append(2, "other"));
    world.send();
    for (let steps = 0; steps < 200; steps++) {
      world.step();
    }
    world.rest();
    assert.deepEqual(
      world.engine.contents(1),
      before.map((_, n) => String(n)),
      `seed ${seed}`,
    );
    assert.ok(![...before, close, other].some((number) => isError(world.results.get(number))), `seed ${seed}`);
    assert.ok(
      behind.every((number) => world.results.get(number) instanceof SessionClosed),
      `seed ${seed}`,
    );
  }
});

test("a line that is refused is sent again about once, not once for each", () => {
  const world = lossless();
  world.engine.closed.add(1);
  const numbers = Array.from({ length: WINDOW }, () => world.ask(append(1, "late")));
  let sent = 0;
  for (let turn = 0; turn < 3 * WINDOW && world.outbox.size > 0; turn++) {
    world.send();
    const taken = world.some(world.commands) as [Uint8Array, Uint8Array][];
    sent += taken.length;
    for (const [correlation, command] of taken) {
      world.reply([correlation], world.engine.take(wire.decode(command) as Fields));
    }
  }
  world.rest();
  assert.ok(numbers.every((number) => world.results.get(number) instanceof SessionClosed));
  assert.ok(sent <= 4 * WINDOW, `${sent} were sent`);
});

// --- one by one -----------------------------------------------------------------------------------

test("only a write with an unanswered one before it names that one", () => {
  const world = lossless();
  for (const [sessionId, key] of [
    [1, "a"],
    [1, "b"],
    [2, "c"],
    [1, "d"],
    [1n, "e"],
  ] as [Id, string][]) {
    world.ask(append(sessionId, "x", key));
  }
  world.send();
  assert.deepEqual(
    world.sent.map((command) => command["after_key"]),
    [undefined, "a", undefined, "b", "d"],
  );
});

test("a write that names another one is otherwise the same", () => {
  const world = lossless();
  const meta = { text: "\ufeffx".repeat(100) };
  world.ask(append(1, "x", "k".repeat(200)));
  world.ask(calls.append(1, "tool", "y", { key: "l", meta, expectSeq: 2 }));
  world.send();
  const command = { op: "append", session_id: 1, role: "tool", content: "y", meta, expect_seq: 2, key: "l" };
  assert.deepEqual(world.sent[1], { ...command, after_key: "k".repeat(200) });
});

test("the window is bounded and moves on with each answer", () => {
  const world = lossless();
  for (let number = 0; number < WINDOW + 10; number++) {
    world.ask(append(1, "x"));
  }
  world.send();
  assert.equal(world.commands.length, WINDOW);
  world.reply(world.commands[0], ok(1));
  world.send();
  assert.equal(world.commands.length, WINDOW + 1);
});

test("the window is bounded in bytes, and has room for one whatever its size", () => {
  const world = lossless();
  for (let number = 0; number < 3; number++) {
    world.ask(append(1, "x".repeat(WINDOW_BYTES / 2)));
  }
  world.ask(append(1, "x"));
  world.send();
  assert.equal(world.commands.length, 1);
  world.reply(world.commands[0], ok(1));
  world.send();
  assert.equal(world.commands.length, 2);
});

test("a refusal of an earlier transmission is no news, and a success is", () => {
  const world = lossless();
  const number = world.ask(append(1, "x"));
  world.send();
  const [first] = world.commands;
  world.now = RESEND_FIRST;
  world.outbox.tick(world.now);
  world.send();
  assert.equal(world.commands.length, 2);
  assert.notDeepEqual(world.commands[1]?.[0], first?.[0]);
  world.reply(first, refusal("storage_failed"));
  assert.equal(world.results.size, 0);
  world.reply(first, ok(1));
  assert.ok(!isError(world.results.get(number)));
});

test("storage_failed is told at once, with the key", () => {
  const world = lossless();
  const number = world.ask(append(1, "x", "mine"));
  world.send();
  world.reply(world.commands[0], refusal("storage_failed"));
  const error = world.results.get(number);
  assert.ok(error instanceof StorageFailed);
  assert.equal(error.key, "mine");
});

test("a write outlasts an engine that is shutting down, and a read does not", () => {
  const world = lossless();
  const [write, read] = [world.ask(append(1, "x")), world.ask(calls.ping())];
  world.send();
  for (const frames of world.commands) {
    world.reply(frames, refusal("shutting_down"));
  }
  assert.ok(world.results.get(read) instanceof ShuttingDown);
  assert.ok(!world.results.has(write));
  assert.equal(world.outbox.nextDue(), PAUSE);
});

test("what cannot be done twice is not sent again", () => {
  const world = lossless();
  const number = world.ask(groupCalls.lease("g"));
  world.send();
  world.now = TIMEOUT - 100;
  world.outbox.tick(world.now);
  world.send();
  assert.equal(world.commands.length, 1);
  world.outbox.tick(TIMEOUT);
  assert.ok(world.results.get(number) instanceof NoReply);
});

test("a write that was skipped is sent again at once, and a poll is not", () => {
  const world = lossless();
  world.ask(groupCalls.lease("g"));
  world.ask(append(1, "x", "a"));
  world.ask(append(1, "x", "b"));
  world.send();
  world.reply(world.commands[2], ok(2));
  world.send();
  assert.deepEqual(
    world.sent.slice(3).map((command) => command["key"]),
    ["a"],
  );
});

test("a write that nobody waits for any more stays once it was sent", () => {
  const world = lossless();
  const unsent = world.outbox.add(append(1, "x"), 0, () => assert.fail("nobody waits"));
  world.outbox.forget(unsent);
  assert.equal(world.outbox.size, 0);
  world.send();
  assert.deepEqual(world.commands, []);
  const request = world.outbox.add(append(1, "x", "k"), 0, () => {});
  world.send();
  world.outbox.forget(request);
  world.ask(append(1, "y"));
  world.send();
  assert.equal(world.sent.at(-1)?.["after_key"], "k");
});

test("a read that nobody waits for any more is gone", () => {
  const world = lossless();
  const request = world.outbox.add(calls.ping(), 0, () => assert.fail("nobody waits"));
  world.send();
  world.outbox.forget(request);
  assert.equal(world.outbox.size, 0);
  assert.equal(world.outbox.nextDue(), null);
  world.reply(world.commands[0], ok(1));
});

/** That nobody takes what is to be sent next. */
function refuseNext(world: World): Request {
  const next = world.outbox.nextToSend();
  assert.ok(next);
  world.outbox.sent(next.request, world.now);
  world.outbox.unsent(next.request);
  return next.request;
}

test("what nobody takes for now is the next one again, and was not sent if it never was", () => {
  const world = lossless();
  const keysSent = (): unknown[] => world.sent.map((command) => command["key"]);
  for (const key of ["a", "b"]) {
    world.ask(append(1, "x", key));
  }
  assert.equal(refuseNext(world).wasSent, false);
  world.send();
  assert.deepEqual(keysSent(), ["a", "b"]);
  world.now = RESEND_FIRST;
  world.outbox.tick(world.now);
  assert.equal(refuseNext(world).wasSent, true);
  world.send();
  assert.deepEqual(keysSent(), ["a", "b", "a", "b"]);
});

test("a write that nobody takes and nobody waits for is not sent later", () => {
  const world = lossless();
  const request = world.outbox.add(append(1, "x", "a"), 0, () => assert.fail("nobody waits"));
  const next = world.outbox.nextToSend();
  assert.equal(next?.request, request);
  world.outbox.sent(request, 0);
  world.outbox.forget(request); // while it is being handed over
  world.outbox.unsent(request);
  assert.equal(world.outbox.size, 0);
  world.ask(append(1, "y", "b"));
  world.send();
  assert.deepEqual(
    world.sent.map(({ key, after_key: after }) => [key, after]),
    [["b", undefined]],
  );
});

test("a refusal that comes while its command is being handed over is news", () => {
  const world = lossless();
  const number = world.ask(calls.ping());
  const next = world.outbox.nextToSend();
  assert.ok(next);
  world.outbox.sent(next.request, 0);
  world.reply(next.frames, refusal("storage_failed"));
  world.outbox.unsent(next.request); // whatever the sender hears afterwards
  assert.ok(world.results.get(number) instanceof StorageFailed);
  assert.equal(world.outbox.nextToSend(), null);
});

test("replies to nothing are ignored", () => {
  const world = lossless();
  const bytes = Uint8Array.from([120]);
  const none = new Uint8Array(12);
  for (const frames of [
    [],
    [bytes],
    [bytes, bytes],
    [none, Uint8Array.from([0xc1])],
    [none, wire.encode(ok(1)), bytes],
  ]) {
    world.outbox.received(frames, 0);
  }
  assert.equal(world.outbox.size, 0);
});

test("a reply that is no reply is told to whom it is for", () => {
  const world = lossless();
  const number = world.ask(calls.ping());
  world.send();
  const [correlation] = world.commands[0] as [Uint8Array];
  world.outbox.received([correlation, Uint8Array.from([0xc1])], 0);
  assert.equal((world.results.get(number) as ArminError).code, "protocol_error");
});

test("a conflict that is none of order is told", () => {
  const world = lossless();
  const number = world.ask(append(1, "x"));
  world.send();
  world.reply(world.commands[0], refusal("conflict", "expect_seq"));
  assert.ok(world.results.get(number) instanceof Conflict);
});

test("at the end all are told why", () => {
  const world = lossless();
  world.ask(append(1, "x", "k"));
  world.ask(calls.ping());
  world.outbox.fail(() => new NoReply("gone", { reason: "silent", sent: false }));
  assert.deepEqual(
    [...world.results.values()].map((error) => [(error as ArminError).message, (error as ArminError).key]),
    [
      ["gone", "k"],
      ["gone", null],
    ],
  );
});

test("what was given up is not kept, though nothing is ever sent and something else still waits", async () => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const outbox = new Outbox(FOR_EVER, givenUp);
  outbox.add(calls.ping(), 0, () => {});
  const payload = "x".repeat(1 << 20);
  collect();
  const before = process.memoryUsage().arrayBuffers;
  for (let number = 0; number < 100; number++) {
    outbox.forget(outbox.add(calls.append(1, "user", payload), 0, () => {}));
  }
  const isFree = (): boolean => {
    collect(); // which frees buffers in the background
    return process.memoryUsage().arrayBuffers - before < 4 << 20;
  };
  await waitUntil(isFree, "it is free", 30_000);
  assert.equal(outbox.size, 1);
});
