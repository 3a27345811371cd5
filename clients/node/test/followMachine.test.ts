/** Following as a state machine: no socket, no clock; what goes in, what comes out. */

import assert from "node:assert/strict";
import { test } from "node:test";
import * as calls from "../src/calls.js";
import type { ArminError } from "../src/errors.js";
import { BadRequest, CursorInvalid, NoReply, ProtocolError, SessionNotFound, ShuttingDown } from "../src/errors.js";
import { checkedTypes, type Feed, LogFeed, logFeed, SessionFeed } from "../src/feeds.js";
import { type Action, type Ask, Follower } from "../src/following.js";
import { drive, type Means } from "../src/live.js";
import { syncTopic } from "../src/protocol.js";
import type { Event, EventPage, Hello, Message, MessagePage } from "../src/results.js";
import { encode } from "../src/wire.js";

const SESSION = 5;
const HELLO: Hello = {
  protocol: "armin/1",
  version: "0",
  features: [],
  database: "database",
  epoch: "epoch",
  engine: "engine-1",
  endpoints: {},
  limits: {},
  durability: {},
  role: null,
  position: 100,
};
const SECOND: Hello = { ...HELLO, engine: "engine-2" };
const SILENCE = new NoReply("nobody", { reason: "not_running", sent: false });

function message(seq: number, changes: Partial<Message> = {}): Message {
  const content = `text ${seq}`;
  const rest = { role: "user", content, createdAt: 1, meta: null, elided: false } as const;
  return { id: seq + 1000, sessionId: SESSION, seq, ...rest, ...changes };
}

function page(seqs: readonly number[], changes: Partial<MessagePage> = {}): MessagePage {
  const messages = seqs.map((seq) => message(seq));
  return { messages, more: false, seq: seqs.at(-1) ?? 0, closed: false, position: 100, ...changes };
}

function fact(position: number, type: string, sessionId = SESSION): Event {
  return { position, type, sessionId, message: null, createdAt: null, name: null, meta: null };
}

function log(events: readonly Event[], position: number, more = false): EventPage {
  return { events, more, position };
}

type Frames = readonly Buffer[];

function frames(topic: string, fields: unknown): Frames {
  return [Buffer.from(topic), Buffer.from(encode(fields))];
}

function eventFrames(seq: number, { position = 100 + seq, ...changes }: Record<string, unknown> = {}): Frames {
  const inner = { id: seq + 1000, session_id: SESSION, seq, role: "user", created_at: 1, content: `text ${seq}` };
  const whole = { position, type: "message_appended", session_id: SESSION, message: { ...inner, ...changes } };
  return frames("message/5/", whole);
}

function closedFrames(position = 200): Frames {
  return frames("closed/5/", { position, type: "session_closed", session_id: SESSION });
}

function beat(position: number, changes: Record<string, unknown> = {}): Record<string, unknown> {
  const identity = { database: "database", epoch: "epoch", engine: "engine-1" };
  return { type: "heartbeat", position, ...identity, time: 1, ...changes };
}

function beatFrames(position: number, changes: Record<string, unknown> = {}): Frames {
  return frames("heartbeat/", beat(position, changes));
}

const GOODBYE = frames("goodbye/", { type: "goodbye" });
const TOPICS = ["message/5/", "closed/5/", "heartbeat/", "goodbye/", "welcome/"];

function welcome(epoch = "epoch"): Frames {
  return [Buffer.from(`welcome/${epoch}`)];
}

/** Walks a follower through a course of things, and fails where it wants something else. */
class Script {
  now = 1_000_000;
  readonly follower: Follower<unknown>;
  topics: string[] = [];
  readonly states: string[] = [];

  constructor(feed: Feed<unknown> = new SessionFeed(SESSION, 0), timeoutMs = 5000, hello = HELLO) {
    let count = 0;
    const tokens = (): string => `t${++count}`;
    this.follower = new Follower(feed, hello, { now: this.now, timeoutMs, endpoint: "ipc:///d/live.sock", tokens });
  }

  /** The next action; subscriptions and states are noted on the way. */
  next(): Action<unknown> | undefined {
    for (;;) {
      const action = this.follower.next(this.now);
      if (action?.kind === "tell") {
        this.states.push(action.state);
      } else if (action?.kind === "subscribe") {
        this.topics.push(action.topic);
      } else if (action?.kind === "unsubscribe") {
        assert(this.topics.includes(action.topic));
        this.topics = this.topics.filter((topic) => topic !== action.topic);
      } else {
        return action;
      }
    }
  }

  /** The next action, which must be of this kind. */
  wants<K extends Action<unknown>["kind"]>(kind: K): Extract<Action<unknown>, { kind: K }> {
    const action = this.next();
    assert.equal(action?.kind, kind);
    return action as Extract<Action<unknown>, { kind: K }>;
  }

  asked(op: string): Ask {
    const action = this.wants("ask");
    assert.equal(action.call.op, op);
    return action;
  }

  /** Expect a command, answer it; gives the command's fields. */
  answer(op: string, result: unknown): Record<string, unknown> {
    const action = this.asked(op);
    action.answered(result, this.now);
    return Object.fromEntries(Object.entries(action.call.fields).filter(([, value]) => value !== undefined));
  }

  /** Expect the question where the session ends, answer it; gives the position it is about. */
  answerTail(seq: number, position: number, closed = false): number {
    const action = this.wants("ask tail");
    assert.equal(action.sessionId, SESSION);
    action.answered({ tails: [{ sessionId: SESSION, seq, closed }], position }, this.now);
    return action.position;
  }

  fail(op: string, error: ArminError = SILENCE): void {
    this.asked(op);
    this.follower.unanswered(error, this.now);
  }

  /** Expect a wait; gives its length in milliseconds. */
  waits(): number {
    return this.wants("wait").until - this.now;
  }

  receive(received: Frames): void {
    this.waits();
    this.follower.received(received, this.now);
  }

  /** Nothing comes in the time to wait. */
  letPass(): void {
    this.now = Math.max(this.now, this.wants("wait").until);
    this.follower.idle(this.now);
  }

  delivers(...items: readonly unknown[]): void {
    assert.deepEqual(this.wants("deliver").items, items);
  }

  handshake(engine = "engine-1"): void {
    const token = String(this.answer("sync", 100)["token"]);
    this.receive(frames(syncTopic(token), beat(100, { engine })));
  }

  goLive(...seqs: readonly number[]): this {
    this.handshake();
    this.answer("read", page(seqs));
    if (seqs.length > 0) {
      this.delivers(...seqs.map((seq) => message(seq)));
    }
    assert.equal(this.waits(), 3000);
    return this;
  }
}

/** The command that an action asks, if it does. */
function op(action: Action<unknown> | undefined): string | undefined {
  return action?.kind === "ask" ? action.call.op : undefined;
}

// --- the handshake ----------------------------------------------------------------------------------

test("it subscribes before it asks for anything", () => {
  const script = new Script();
  script.asked("sync");
  assert.deepEqual(script.topics, [...TOPICS, "~sync/t1/"]);
});

test("the whole log takes all facts", () => {
  const script = new Script(new LogFeed(0));
  script.asked("sync");
  assert.deepEqual(script.topics.slice(0, 3), ["created/", "message/", "closed/"]);
});

test("sync is repeated every 50 ms until it comes back", () => {
  const script = new Script();
  for (let time = 0; time < 3; time++) {
    assert.deepEqual(script.answer("sync", 100), { token: "t1" });
    assert.equal(script.waits(), 50);
    script.letPass();
  }
  script.asked("sync");
});

test("only its own token ends the handshake", () => {
  const script = new Script();
  script.answer("sync", 100);
  script.receive(frames("~sync/t10/", {}));
  script.letPass();
  script.asked("sync");
});

test("the token's topic is given up afterwards", () => {
  const script = new Script();
  script.handshake();
  script.asked("read");
  assert.deepEqual(script.topics, TOPICS);
});

test("nothing is read before the token, and events before it are dropped", () => {
  const script = new Script();
  script.answer("sync", 100);
  script.receive(eventFrames(1));
  script.letPass();
  script.handshake();
  script.answer("read", page([1, 2]));
  script.delivers(message(1), message(2));
  assert.equal(script.waits(), 3000);
});

test("a live socket that stays mute is an error that names it", () => {
  const script = new Script(undefined, 2000);
  const end = script.now + 2000;
  while (script.now < end) {
    script.answer("sync", 100);
    script.letPass();
  }
  assert.throws(() => script.next(), { name: "NoReply", message: /ipc:\/\/\/d\/live\.sock within 2 s/ });
});

test("no engine before the first handshake is an error", () => {
  const script = new Script();
  script.asked("sync");
  assert.throws(() => script.follower.unanswered(SILENCE, script.now), SILENCE);
});

// --- history ----------------------------------------------------------------------------------------

test("history is read page by page from the cursor", () => {
  const script = new Script(new SessionFeed(SESSION, 7n));
  script.handshake();
  const fields = script.answer("read", page([8, 9], { more: true }));
  assert.deepEqual(fields, { session_id: SESSION, after: 7, limit: 1000 });
  script.delivers(message(8), message(9));
  assert.equal(script.answer("read", page([10]))["after"], 9);
  script.delivers(message(10));
  assert.equal(script.waits(), 3000);
});

test("an engine that goes away in the middle of history is waited for", () => {
  const script = new Script();
  script.handshake();
  script.answer("read", page([1], { more: true }));
  script.delivers(message(1));
  script.fail("read");
  assert.equal(script.waits(), 250);
  script.letPass();
  script.answer("hello", SECOND);
  assert.equal(script.answer("read", page([2]))["after"], 1);
});

test("a page with a hole is a protocol error", () => {
  const script = new Script();
  script.handshake();
  assert.throws(() => script.answer("read", page([2])), { name: "ProtocolError", message: /after seq 0 gave seq 2/ });
});

test("an empty page with more behind it is a protocol error, not a loop", () => {
  const session = new Script();
  session.handshake();
  assert.throws(() => session.answer("read", page([], { more: true })), /empty/);
  const whole = new Script(new LogFeed(0));
  whole.handshake();
  assert.throws(() => whole.answer("log", log([], 9, true)), /empty/);
});

test("now is the position that the engine named first", () => {
  assert.equal(logFeed("now", undefined, HELLO).cursor, 100);
  assert.equal(logFeed(7, undefined, HELLO).cursor, 7);
  assert.equal(logFeed(7n, undefined, HELLO).cursor, 7);
});

test("a cursor that no log can have reached is refused, not rounded", () => {
  assert.throws(() => new SessionFeed(SESSION, 2n ** 53n), CursorInvalid);
  assert.throws(() => new LogFeed(2n ** 60n + 1n), CursorInvalid);
});

test("an id beyond 2^53 is followed under its own topics, and a small bigint is the number", () => {
  assert.deepEqual(new SessionFeed(2n ** 60n + 1n, 0).topics[0], "message/1152921504606846977/");
  assert.deepEqual(new SessionFeed(5n, 0).sessionIds, [5]);
});

// --- live -------------------------------------------------------------------------------------------

test("live events are delivered in order and once", () => {
  const script = new Script().goLive(1, 2);
  script.receive(eventFrames(2));
  script.receive(eventFrames(3));
  script.delivers(message(3));
  script.receive(eventFrames(3));
  script.receive(eventFrames(4));
  script.delivers(message(4));
  assert.equal(script.waits(), 3000);
});

test("a gap is healed by a read from the cursor that says so", () => {
  const script = new Script().goLive(1);
  script.receive(eventFrames(4));
  const fields = script.answer("read", page([2, 3, 4]));
  assert.deepEqual(fields, { session_id: SESSION, after: 1, limit: 1000, reason: "heal" });
  script.delivers(message(2), message(3), message(4));
  script.receive(eventFrames(4));
  script.receive(eventFrames(5));
  script.delivers(message(5));
});

test("an elided message is fetched and not counted as lost, unless it was seen already", () => {
  const script = new Script().goLive(1);
  script.receive(eventFrames(2, { content: "", elided: true }));
  assert(!("reason" in script.answer("read", page([2]))));
  script.delivers(message(2));
  script.receive(eventFrames(2, { content: "", elided: true }));
  assert.equal(script.waits(), 3000);
});

test("the end comes after a last look when the session is closed", () => {
  const script = new Script().goLive(1);
  script.receive(closedFrames());
  assert.equal(script.answer("read", page([2], { closed: true }))["after"], 1);
  script.delivers(message(2));
  assert.equal(script.next(), undefined);
  assert.equal(script.next(), undefined);
});

test("a session that is closed already ends after its history", () => {
  const script = new Script();
  script.handshake();
  script.answer("read", page([1], { closed: true, more: true }));
  script.delivers(message(1));
  script.answer("read", page([2], { closed: true }));
  script.delivers(message(2));
  assert.equal(script.next(), undefined);
});

test("unknown topics and events of unknown types are passed over", () => {
  const script = new Script().goLive(1);
  script.receive(frames("weather/", {}));
  script.receive(frames("message/5/", { position: 190, type: "session_renamed", session_id: SESSION }));
  assert.equal(script.waits(), 3000);
});

for (const [what, wrong] of [
  ["of one frame", [Buffer.from("message/5/")]],
  ["that is no msgpack", [Buffer.from("message/5/"), Buffer.from([0xc1])]],
  ["without its fields", frames("heartbeat/", {})],
] as const) {
  test(`a live message ${what} is a protocol error`, () => {
    const script = new Script().goLive(1);
    assert.throws(() => script.receive(wrong), ProtocolError);
  });
}

test("the log is followed by position over all sessions", () => {
  const script = new Script(new LogFeed(100));
  script.handshake();
  script.answer("log", log([fact(101, "session_created", 9)], 101));
  script.delivers(fact(101, "session_created", 9));
  script.receive(eventFrames(1, { position: 101 }));
  script.receive(eventFrames(7, { position: 102 }));
  script.delivers({ ...fact(102, "message_appended"), message: message(7), createdAt: 1 });
  script.receive(closedFrames(104));
  const missed = [fact(103, "session_created", 10), fact(104, "session_closed")];
  script.answer("log", log(missed, 104));
  script.delivers(...missed);
});

test("an elided message in the log is passed on as it is", () => {
  const script = new Script(new LogFeed(100));
  script.handshake();
  script.answer("log", log([], 100));
  script.receive(eventFrames(1, { position: 101, elided: true }));
  const [event] = script.wants("deliver").items as Event[];
  assert.deepEqual(event?.message, message(1, { content: "", elided: true }));
});

// --- heartbeats -------------------------------------------------------------------------------------

test("a heartbeat at what is known changes nothing", () => {
  const script = new Script().goLive(1);
  script.receive(eventFrames(2, { position: 104 }));
  script.delivers(message(2));
  script.receive(beatFrames(104));
  assert.equal(script.waits(), 3000);
});

test("a heartbeat ahead asks for the tail and is content if nothing is missing", () => {
  const script = new Script().goLive(1);
  script.receive(beatFrames(150));
  assert.equal(script.answerTail(1, 160), 150);
  script.receive(beatFrames(160));
  assert.equal(script.waits(), 3000);
});

test("a tail ahead is healed if the event does not come after all", () => {
  const script = new Script().goLive(1);
  script.receive(beatFrames(150));
  script.answerTail(2, 150);
  assert.equal(script.waits(), 250);
  script.letPass();
  assert.equal(script.answer("read", page([2]))["reason"], "heal");
  script.delivers(message(2));
});

test("a tail ahead is not healed if the event was only on its way", () => {
  const script = new Script().goLive(1);
  script.receive(beatFrames(150));
  script.answerTail(2, 150);
  script.receive(eventFrames(2, { position: 150 }));
  script.delivers(message(2));
  script.letPass();
  const length = script.waits();
  assert(length > 2000 && length <= 3000);
});

test("a lost closure is found by its heartbeat", () => {
  const script = new Script().goLive(1);
  script.receive(beatFrames(150));
  script.answerTail(1, 150, true);
  script.letPass();
  script.answer("read", page([], { closed: true }));
  assert.equal(script.next(), undefined);
});

test("a heartbeat ahead of the log's cursor is a loss by itself", () => {
  const script = new Script(new LogFeed(100));
  script.handshake();
  script.answer("log", log([], 100));
  script.receive(beatFrames(101));
  script.answer("log", log([fact(101, "session_created", 9)], 101));
  script.delivers(fact(101, "session_created", 9));
});

test("another engine is greeted, then read, then a new handshake made", () => {
  const script = new Script().goLive(1);
  script.receive(beatFrames(100, { engine: "engine-2" }));
  script.answer("hello", SECOND);
  const fields = script.answer("read", page([2]));
  assert.deepEqual(fields, { session_id: SESSION, after: 1, limit: 1000, reason: "heal" });
  script.delivers(message(2));
  script.handshake("engine-2");
  script.answer("read", page([3]));
  script.delivers(message(3));
  script.receive(beatFrames(100, { engine: "engine-2" }));
  assert.equal(script.waits(), 3000);
  assert.deepEqual(script.topics, TOPICS);
});

for (const changes of [{ database: "other" }, { epoch: "other" }]) {
  test(`another ${Object.keys(changes)} ends with an error, heard or greeted`, () => {
    const heard = new Script().goLive(1);
    assert.throws(() => heard.receive(beatFrames(100, changes)), CursorInvalid);
    const greeted = new Script().goLive(1);
    greeted.letPass();
    assert.throws(() => greeted.answer("hello", { ...SECOND, ...changes }), CursorInvalid);
  });
}

test("three seconds of silence lead to a new look", () => {
  const script = new Script().goLive(1);
  script.receive(beatFrames(100));
  assert.equal(script.waits(), 3000);
  script.letPass();
  script.asked("hello");
});

test("a backlog after a long pause of the caller is not silence", () => {
  const script = new Script().goLive(1);
  script.now += 60_000;
  assert(script.waits() < 0);
  script.receive(eventFrames(2));
  script.delivers(message(2));
  assert.equal(script.waits(), 3000);
});

test("a long history is not silence", () => {
  const script = new Script();
  script.handshake();
  script.answer("read", page([1], { more: true }));
  script.delivers(message(1));
  script.now += 60_000;
  script.answer("read", page([2]));
  script.delivers(message(2));
  assert.equal(script.waits(), 3000);
});

test("a goodbye leads to a new look after a pause", () => {
  const script = new Script().goLive(1);
  script.receive(GOODBYE);
  assert.equal(script.waits(), 250);
  script.letPass();
  script.fail("hello");
  script.letPass();
  script.asked("hello");
});

test("an absent engine is waited for without end", () => {
  const script = new Script().goLive(1);
  script.letPass();
  for (let time = 0; time < 1000; time++) {
    script.fail("hello");
    assert.equal(script.waits(), 250);
    script.letPass();
  }
  script.answer("hello", HELLO);
  script.asked("read");
});

test("with the live socket mute it still reads now and then", () => {
  const script = new Script().goLive(1);
  script.letPass();
  for (let seq = 2; seq < 6; seq++) {
    script.answer("hello", HELLO);
    script.answer("read", page([seq]));
    script.delivers(message(seq));
    const began = script.now;
    for (let action = script.next(); op(action) !== "hello"; action = script.next()) {
      if (action?.kind === "ask") {
        assert.equal(op(action), "sync");
        action.answered(100, script.now);
      } else {
        assert.equal(action?.kind, "wait");
        script.letPass();
      }
    }
    assert(Math.abs(script.now - began - 3000) <= 60);
  }
  script.asked("hello");
  assert.deepEqual(
    script.topics.filter((topic) => topic.startsWith("~sync/")),
    [],
  );
});

// --- what is told of it -----------------------------------------------------------------------------

test("live is told after the handshake and the read, and behind their messages", () => {
  const script = new Script();
  script.handshake();
  script.answer("read", page([1], { more: true }));
  script.delivers(message(1));
  script.answer("read", page([2]));
  script.delivers(message(2));
  assert.deepEqual(script.states, ["catching up"]);
  script.waits();
  assert.deepEqual(script.states, ["catching up", "live"]);
});

test("a loss is catching up, and a message too large for the stream is not", () => {
  const script = new Script().goLive(1);
  script.receive(eventFrames(2, { content: "", elided: true }));
  script.answer("read", page([2]));
  script.delivers(message(2));
  script.receive(eventFrames(4));
  assert.deepEqual(script.states, ["catching up", "live"]);
  script.answer("read", page([3, 4]));
  script.delivers(message(3), message(4));
  script.waits();
  assert.deepEqual(script.states, ["catching up", "live", "catching up", "live"]);
});

test("silence is told as the engine gone until it answers again", () => {
  const script = new Script().goLive(1);
  script.letPass();
  for (let time = 0; time < 3; time++) {
    script.fail("hello");
    script.letPass();
  }
  assert.deepEqual(script.states, ["catching up", "live", "engine gone"]);
  script.answer("hello", SECOND);
  script.answer("read", page([]));
  script.handshake("engine-2");
  assert.deepEqual(script.states.slice(3), ["catching up"]);
  script.answer("read", page([]));
  script.waits();
  assert.deepEqual(script.states.slice(3), ["catching up", "live"]);
});

test("a goodbye is the engine gone, and another engine's heartbeat is not", () => {
  const other = new Script().goLive(1);
  other.receive(beatFrames(100, { engine: "engine-2" }));
  other.asked("hello");
  assert.deepEqual(other.states, ["catching up", "live", "catching up"]);
  const gone = new Script().goLive(1);
  gone.receive(GOODBYE);
  gone.waits();
  assert.deepEqual(gone.states, ["catching up", "live", "engine gone"]);
});

test("a welcome to the same epoch is a sign of life", () => {
  const script = new Script();
  script.answer("sync", 100);
  script.receive(welcome());
  script.now += 50;
  script.goLive(1);
  script.now += 2000;
  script.receive(welcome());
  assert.equal(script.waits(), 3000);
});

test("a welcome to another epoch ends the follow, before anything of that one is heard", () => {
  const greeted = new Script();
  greeted.answer("sync", 100);
  const live = new Script().goLive(1);
  for (const script of [greeted, live]) {
    assert.throws(() => script.receive(welcome("restored")), { name: "CursorInvalid", message: /a restored database/ });
  }
});

test("one frame that is no welcome is no message of Armin's", () => {
  const script = new Script().goLive(1);
  assert.throws(() => script.receive([Buffer.from("heartbeat/")]), ProtocolError);
  assert.throws(() => script.receive([]), ProtocolError);
});

test("pages are asked for with the epoch where the engine takes it", () => {
  const plain = new Script();
  plain.handshake();
  assert.equal("epoch" in plain.answer("read", page([1])), false);
  const knowing = { ...HELLO, features: ["epochs"] };
  const session = new Script(new SessionFeed(SESSION, 0), 5000, knowing);
  session.handshake();
  assert.equal(session.answer("read", page([1]))["epoch"], "epoch");
  const whole = new Script(new LogFeed(100), 5000, knowing);
  whole.handshake();
  assert.equal(whole.answer("log", log([], 100))["epoch"], "epoch");
});

test("a handshake with another engine than was greeted begins anew", () => {
  const script = new Script();
  script.handshake("engine-2");
  script.answer("hello", SECOND);
  script.answer("read", page([1]));
  assert.deepEqual(script.states, ["catching up"]);

  const other = new Script();
  const token = String(other.answer("sync", 100)["token"]);
  const sign = frames(syncTopic(token), beat(100, { database: "other" }));
  assert.throws(() => other.receive(sign), { name: "CursorInvalid", message: /another database/ });
});

// --- types ------------------------------------------------------------------------------------------

test("the cursor moves over facts of other types", () => {
  const feed = new LogFeed(100, new Set(["session_closed"]));
  const script = new Script(feed);
  script.handshake();
  const closed = fact(102, "session_closed", 9);
  script.answer("log", log([fact(101, "session_created", 9), closed, fact(103, "session_created", 8)], 103));
  script.delivers(closed);
  script.receive(eventFrames(1, { position: 104 }));
  assert.equal(feed.cursor, 104);
  script.receive(beatFrames(104));
  script.receive(closedFrames(105));
  script.delivers(fact(105, "session_closed"));
  assert.equal(script.waits(), 3000);
});

test("types that are none are refused", () => {
  for (const types of [[], ["message"], "session_closed", ["session_closed", "x"], [3]]) {
    assert.throws(
      () => checkedTypes(types as string[]),
      (error) => error instanceof BadRequest && error.field === "types",
    );
  }
});

// --- who drives it ----------------------------------------------------------------------------------

/** Drives what stands in for a follower that asks once; gives what it was told. */
async function driven(outcome: number | ArminError): Promise<unknown[]> {
  const told: unknown[] = [];
  const actions: Ask[] = [{ kind: "ask", call: calls.ping(), answered: (result) => told.push(result) }];
  const follower = { next: () => actions.pop(), unanswered: (error: ArminError) => told.push(error) };
  const put = async (): Promise<unknown> => {
    if (typeof outcome === "number") {
      return outcome;
    }
    throw outcome;
  };
  const means = { questions: { put }, clock: () => 0, onState: () => {} } as unknown as Means;
  for await (const item of drive(follower as unknown as Follower<unknown>, means)) {
    told.push(item);
  }
  return told;
}

test("who drives it tells answers and absences, and throws the rest", async () => {
  const leaving = new ShuttingDown("later");
  assert.deepEqual(await driven(7), [7]);
  assert.deepEqual(await driven(SILENCE), [SILENCE]);
  assert.deepEqual(await driven(leaving), [leaving]);
  await assert.rejects(driven(new SessionNotFound("gone")), SessionNotFound);
});
