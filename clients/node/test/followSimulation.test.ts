/** Following through whatever may happen: losses, deaths, restarts, slow callers; each from a seed. */

import assert from "node:assert/strict";
import { test } from "node:test";
import type { Call } from "../src/calls.js";
import { NoReply } from "../src/errors.js";
import { type Feed, LogFeed, SessionFeed } from "../src/feeds.js";
import { type Action, type Ask, type AskTail, Follower } from "../src/following.js";
import { syncTopic } from "../src/protocol.js";
import type { Event, FollowState, Hello, Message } from "../src/results.js";
import { encode } from "../src/wire.js";
import { Chance } from "./seeded.js";

const SEEDS = 150;
const SESSION = 5;
const SILENCE = new NoReply("nobody", { reason: "not_running", sent: false });
const LIVELY_STEPS = 600; // in which anything may happen
const STEPS_MAX = 20_000; // a follower that needs more is stuck

type Kind = "message_appended" | "session_closed" | "other";

function hello(engine: number, position: number): Hello {
  const rest = {
    protocol: "armin/1",
    version: "0",
    features: [],
    endpoints: {},
    limits: {},
    durability: {},
    role: null,
  };
  return { ...rest, database: "database", epoch: "epoch", engine: `engine-${engine}`, position };
}

/** An engine that loses live messages, dies and comes back, simulated with a seed. */
class World {
  readonly chance: Chance;
  readonly facts: { readonly kind: Kind; readonly seq: number }[] = [];
  readonly topics = new Set<string>();
  readonly #loss: number;
  queue: Buffer[][] = [];
  now = 0;
  engine = 1;
  up = true;
  mortal = false; // a death before the first handshake is an error for the caller
  seq = 0;
  closed = false;
  quiet = false; // from here on, nothing is lost and nothing new happens but heartbeats
  #lastBeat = 0;

  constructor(seed: number) {
    this.chance = new Chance(seed);
    this.#loss = this.chance.one(0, 0.05, 0.5, 1);
  }

  event(position: number): Record<string, unknown> {
    const { kind, seq } = this.facts[position - 1] ?? { kind: "other", seq: 0 };
    if (kind === "other") {
      return { position, type: "session_created", session_id: 99, created_at: 1 };
    }
    const fact = { position, type: kind, session_id: SESSION };
    if (kind === "session_closed") {
      return fact;
    }
    const { content, ...bare } = this.message(seq);
    return { ...fact, message: seq % 7 === 0 ? { ...bare, elided: true } : { ...bare, content } };
  }

  message(seq: number): Record<string, unknown> {
    return { id: seq, session_id: SESSION, seq, role: "user", content: `text ${seq}`, created_at: 1 };
  }

  publish(topic: string, fields: unknown): void {
    const wanted = [...this.topics].some((one) => topic.startsWith(one));
    if (wanted && (this.quiet || this.chance.next() >= this.#loss)) {
      this.queue.push([Buffer.from(topic), Buffer.from(encode(fields))]);
    }
  }

  commit(kind: Kind): void {
    this.seq += kind === "message_appended" ? 1 : 0;
    this.closed ||= kind === "session_closed";
    this.facts.push({ kind, seq: this.seq });
    const topics = { other: "created/99/", message_appended: "message/5/", session_closed: "closed/5/" };
    this.publish(topics[kind], this.event(this.facts.length));
  }

  sign(topic: string): void {
    const { database, epoch, engine, position } = hello(this.engine, this.facts.length);
    this.publish(topic, { position, database, epoch, engine });
  }

  /** Let time pass, and things happen in it. */
  happen(milliseconds: number): void {
    this.now += milliseconds;
    if (!this.quiet) {
      this.#live();
    }
    if (this.up && this.now - this.#lastBeat >= 1000) {
      this.#lastBeat = this.now;
      this.sign("heartbeat/");
    }
  }

  #live(): void {
    const fate = this.chance.next();
    for (let left = this.up && !this.closed ? this.chance.one(0, 0, 1, 3) : 0; left > 0; left--) {
      this.commit(this.chance.one<Kind>("message_appended", "message_appended", "other"));
    }
    if (fate < 0.02 && this.mortal) {
      this.up = false;
      this.queue = [];
    } else if (fate > 0.7 && !this.up) {
      this.up = true;
      this.engine += 1;
    }
  }

  reply(call: Call<unknown>): unknown {
    this.mortal ||= call.op === "read" || call.op === "log";
    const position = this.facts.length;
    if (call.op === "hello") {
      return hello(this.engine, position);
    }
    if (call.op === "sync") {
      this.sign(syncTopic(String(call.fields["token"])));
    }
    const body = call.op === "sync" ? {} : this.#page(call);
    return call.decode(encode({ ok: true, position, ...body }));
  }

  #page(call: Call<unknown>): Record<string, unknown> {
    const after = Number(call.fields["after"]);
    const session = call.op === "read";
    const found: unknown[] = [];
    for (let next = after + 1; next <= (session ? this.seq : this.facts.length); next++) {
      found.push(session ? this.message(next) : this.event(next));
    }
    const limit = this.chance.between(1, 5);
    const items = { [session ? "messages" : "events"]: found.slice(0, limit), more: found.length > limit };
    return session ? { ...items, seq: this.seq, closed: this.closed } : items;
  }
}

/** Drives a follower through a world: a lively part, then quiet, in which it must catch up. */
class Run<T> {
  readonly world: World;
  readonly got: T[] = [];
  readonly states: FollowState[] = [];
  readonly #follower: Follower<T>;

  constructor(seed: number, feed: Feed<T>) {
    this.world = new World(seed);
    let count = 0;
    const tokens = (): string => `t${++count}`;
    this.#follower = new Follower(feed, hello(1, 0), { now: 0, timeoutMs: Infinity, endpoint: "", tokens });
  }

  /** Go on until the follower ends, or has enough in the quiet part. */
  until(enough: () => boolean): void {
    for (let step = 0; step < STEPS_MAX; step++) {
      if (step === LIVELY_STEPS) {
        this.#settle();
      }
      const action = this.#follower.next(this.world.now);
      if (action === undefined || (step > LIVELY_STEPS && enough())) {
        return;
      }
      this.#act(action);
    }
    assert.fail(`stuck after ${this.got.length} of ${this.world.seq} messages`);
  }

  #settle(): void {
    this.world.up = true;
    if (!this.world.closed) {
      this.world.commit("session_closed");
    }
    this.world.quiet = true;
  }

  #act(action: Action<T>): void {
    const { world } = this;
    switch (action.kind) {
      case "subscribe":
        world.topics.add(action.topic);
        break;
      case "unsubscribe":
        assert(world.topics.delete(action.topic));
        break;
      case "deliver":
        this.got.push(...action.items);
        world.happen(world.chance.one(0, 0, 0, 2000)); // a slow caller, sometimes
        break;
      case "ask":
      case "ask tail":
        this.#ask(action);
        break;
      case "tell":
        this.states.push(action.state);
        break;
      case "wait":
        this.#wait(action.until);
        break;
    }
  }

  #ask(action: Ask | AskTail): void {
    const { world } = this;
    world.happen(1);
    if (!world.up) {
      world.happen(1000);
      this.#follower.unanswered(SILENCE, world.now);
    } else if (action.kind === "ask") {
      action.answered(world.reply(action.call), world.now);
    } else {
      const tail = { sessionId: SESSION, seq: world.seq, closed: world.closed };
      action.answered({ tails: [tail], position: world.facts.length }, world.now);
    }
  }

  #wait(until: number): void {
    const { world } = this;
    if (world.queue.length === 0) {
      world.happen(Math.min(Math.max(until - world.now, 0), world.chance.one(10, 300, 9000)));
    }
    const frames = world.queue.shift();
    if (frames !== undefined) {
      this.#follower.received(frames, world.now);
    } else {
      world.now = Math.max(world.now, until);
      this.#follower.idle(world.now);
    }
  }
}

function upTo(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index + 1);
}

test("whatever is lost, each message is delivered once and in order", () => {
  for (let seed = 0; seed < SEEDS; seed++) {
    const run = new Run<Message>(seed, new SessionFeed(SESSION, 0));
    run.until(() => false);
    const seqs = run.got.map(({ seq }) => seq);
    assert.deepEqual(seqs, upTo(run.world.seq), `seed ${seed}`);
    assert(run.got.every(({ seq, content }) => content === `text ${seq}`));
  }
});

test("whatever is lost, each fact is delivered once and in order", () => {
  for (let seed = 0; seed < SEEDS; seed++) {
    const run = new Run<Event>(seed, new LogFeed(0));
    run.until(() => run.got.length === run.world.facts.length);
    const positions = run.got.map(({ position }) => position);
    assert.deepEqual(positions, upTo(run.world.facts.length), `seed ${seed}`);
    assert.equal(run.states[0], "catching up");
    assert(run.states.every((state, index) => state !== run.states[index + 1]));
  }
});
