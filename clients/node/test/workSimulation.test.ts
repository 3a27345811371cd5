/** Working through whatever may happen: lost commands and replies, an engine that dies, workers that die. */

import assert from "node:assert/strict";
import { test } from "node:test";
import type { Call } from "../src/calls.js";
import { failure, type HeldEffect, Retry } from "../src/effect.js";
import { LeaseLost, NoReply } from "../src/errors.js";
import { patience } from "../src/patience.js";
import type { Event, Lease, Leases, Outcomes } from "../src/results.js";
import { type Ask, type Line, POLL_MS, Work } from "../src/working.js";
import { Chance } from "./seeded.js";

const SEEDS = 60;
const EFFECTS = 120;
const WORKERS = 3;
const CONCURRENCY = 4;
const LEASE_MS = 600;
const TIMEOUT = 2000;
const MAX_ATTEMPTS = 6;
const LIVELY_MS = 8000; // in which anything may happen
const END_MS = 120_000; // whoever needs more is stuck
const SILENCE = new NoReply("nobody", { reason: "silent", sent: true });

/** What is to happen, by time. */
class Agenda {
  now = 0;
  #items: { readonly at: number; readonly act: () => void }[] = [];

  in(milliseconds: number, act: () => void): void {
    this.#items.push({ at: this.now + milliseconds, act });
  }

  run(until: () => boolean): void {
    while (!until()) {
      const [next] = this.#items.sort((one, other) => one.at - other.at).splice(0, 1);
      assert(next !== undefined && next.at < END_MS, `stuck at ${this.now} ms`);
      this.now = Math.max(this.now, next.at);
      next.act();
    }
  }
}

interface Item {
  readonly position: number;
  state: "waiting" | "leased" | "done" | "dead";
  attempt: number;
  due: number;
  lease: string;
  request: string;
  until: number;
}

interface Parked {
  readonly call: Call<unknown>;
  readonly until: number;
  answer(leases: Leases): void;
}

/** A worker group that hands out effects, kept through the engine's deaths as the file keeps it. */
class Engine {
  readonly items: Item[] = [];
  up = true;
  #count = 0;
  #parked: Parked[] = [];

  constructor(readonly agenda: Agenda) {
    for (let position = 1; position <= EFFECTS; position++) {
      const fresh = { state: "waiting", attempt: 0, due: 0, lease: "", request: "", until: 0 } as const;
      this.items.push({ position, ...fresh });
    }
  }

  /** Whoever waited hears nothing more. */
  die(): void {
    this.up = false;
    this.#parked = [];
  }

  get left(): number {
    return this.items.filter(({ state }) => state === "waiting" || state === "leased").length;
  }

  take(call: Call<unknown>, answer: (result: unknown) => void): void {
    this.turn();
    if (call.op !== "lease") {
      const leases = call.fields["leases"] as string[];
      const outcomes = leases.map((lease) => this.#outcome(call, lease));
      answer({ outcomes, position: EFFECTS } satisfies Outcomes);
      return;
    }
    const { request } = call.fields;
    const earlier = this.#parked.filter((parked) => parked.call.fields["request"] === request);
    this.#parked = this.#parked.filter((parked) => !earlier.includes(parked));
    for (const parked of earlier) {
      parked.answer({ leases: [], position: EFFECTS });
    }
    this.#parked.push({ call, until: this.agenda.now + Number(call.fields["wait_ms"]), answer });
    this.turn();
  }

  /** Expire what has run out, and serve or end polls. */
  turn(): void {
    const { now } = this.agenda;
    for (const item of this.items) {
      if (item.state === "leased" && item.until <= now) {
        this.#release(item, 0);
      }
    }
    this.#parked = this.#parked.filter((parked) => {
      const leases = this.#leases(parked.call);
      if (leases.length === 0 && parked.until > now) {
        return true;
      }
      parked.answer({ leases, position: EFFECTS });
      return false;
    });
  }

  #leases({ fields }: Call<unknown>): Lease[] {
    const { now } = this.agenda;
    const request = String(fields["request"]);
    const given = this.items.filter((item) => item.state === "leased" && item.request === request);
    if (given.length > 0) {
      return given.map(asLease);
    }
    const free = this.items.filter((item) => item.state === "waiting" && item.due <= now);
    return free.slice(0, Number(fields["max"])).map((item) => {
      const lease = `L${++this.#count}`;
      const until = now + Number(fields["lease_ms"]);
      return asLease(Object.assign(item, { state: "leased", attempt: item.attempt + 1, lease, request, until }));
    });
  }

  #release(item: Item, delayMs: number): boolean {
    item.state = item.attempt >= MAX_ATTEMPTS ? "dead" : "waiting";
    item.due = this.agenda.now + delayMs;
    return item.state === "dead";
  }

  #outcome({ op, fields }: Call<unknown>, lease: string): Outcomes["outcomes"][number] {
    const item = this.items.find((one) => one.lease === lease);
    const said = { lease, ok: true, duplicate: false, dead: false, until: null, error: null };
    if (op === "ack" && item?.state === "done") {
      return { ...said, duplicate: true };
    }
    if (item?.state !== "leased") {
      return { ...said, ok: false, error: new LeaseLost("gone") };
    }
    if (op === "ack") {
      item.state = "done";
    } else if (op === "extend") {
      item.until = this.agenda.now + Number(fields["lease_ms"]);
    } else {
      return { ...said, dead: this.#release(item, Number(fields["delay_ms"] ?? 20)) };
    }
    return said;
  }
}

function asLease({ lease, position, attempt, until }: Item): Lease {
  const nothing = { message: null, createdAt: 1, name: null, meta: null };
  const event: Event = { position, type: "session_created", sessionId: position, ...nothing };
  return { lease, position, attempt, until, event };
}

/** One worker process: its Work, driven as worker.ts drives it. */
class Process {
  readonly work: Work;
  alive = true;
  over = false;
  running = 0;
  readonly #world: World;

  constructor(world: World, name: string) {
    this.#world = world;
    let count = 0;
    const tokens = (): string => `${name}-${++count}`;
    this.work = new Work("g", { concurrency: CONCURRENCY, leaseMs: LEASE_MS, timeoutMs: TIMEOUT, tokens });
  }

  /** Do all that is to be done now. */
  pump(): void {
    const { agenda } = this.#world;
    while (this.alive && !this.over) {
      const action = this.work.next(agenda.now);
      if (action === undefined) {
        this.over = true;
      } else if (action.kind === "begin") {
        this.#handle(action.effect);
      } else if (action.kind === "ask") {
        this.#ask(action);
      } else {
        if (action.until < Infinity) {
          agenda.in(Math.max(1, action.until - agenda.now), () => this.pump());
        }
        return;
      }
    }
  }

  #handle(effect: HeldEffect): void {
    const { agenda, chance, handled } = this.#world;
    this.running += 1;
    assert(this.running <= CONCURRENCY);
    agenda.in(chance.one(0, 3, 30, 2 * LEASE_MS), () => {
      if (!this.alive) {
        return;
      }
      this.running -= 1;
      const fails = chance.next() < 0.1;
      if (!fails) {
        handled.set(effect.position, (handled.get(effect.position) ?? 0) + 1);
      }
      const outcome = fails ? failure(new Retry("no", { delayMs: chance.one(0, 50) })) : undefined;
      this.work.finished(effect, outcome);
      this.pump();
    });
  }

  #ask({ line, call }: Ask): void {
    const { agenda } = this.#world;
    let open = true;
    const end = (say: () => void): void => {
      if (open && this.alive) {
        say();
        this.pump();
      }
      open = false;
    };
    this.#world.send(call, (result) => end(() => this.work.answered(line, result, agenda.now)));
    agenda.in(waits(line), () => end(() => this.work.unanswered(line, SILENCE, agenda.now)));
  }
}

function waits(line: Line): number {
  return patience(TIMEOUT, LEASE_MS) + (line === "leases" ? POLL_MS : 0);
}

/** The engine, its workers and what is between them: a lively part, then a quiet one. */
class World {
  readonly agenda = new Agenda();
  readonly chance: Chance;
  readonly engine: Engine;
  readonly handled = new Map<number, number>(); // how often, by position
  workers: Process[] = [];
  readonly dead: Process[] = [];
  #loss: number;
  #stopping = false;

  constructor(seed: number, loss?: number) {
    this.chance = new Chance(seed);
    this.#loss = loss ?? this.chance.one(0.02, 0.2, 0.5);
    this.engine = new Engine(this.agenda);
    for (let index = 0; index < WORKERS; index++) {
      this.#start();
    }
    this.#turns();
  }

  #start(): void {
    const process = new Process(this, `w${this.workers.length + this.dead.length}`);
    this.workers.push(process);
    this.agenda.in(1, () => process.pump());
  }

  #turns(): void {
    this.engine.turn();
    this.agenda.in(5, () => this.#turns());
  }

  /** A command on its way; it or its reply may be lost. */
  send(call: Call<unknown>, answer: (result: unknown) => void): void {
    const delay = (): number => this.chance.one(0, 1, 20);
    this.agenda.in(delay(), () => {
      if (!this.engine.up || this.chance.next() < this.#loss) {
        return;
      }
      this.engine.take(call, (result) => {
        if (this.chance.next() >= this.#loss) {
          this.agenda.in(delay(), () => answer(result));
        }
      });
    });
  }

  /** Kill workers and the engine now and then, until it is to be quiet. */
  disturb(): void {
    if (this.agenda.now > LIVELY_MS || this.#stopping) {
      this.#loss = 0;
      this.engine.up = true;
      return;
    }
    if (this.engine.up && this.chance.next() < 0.3) {
      this.engine.die();
    } else {
      this.engine.up = true;
    }
    if (this.chance.next() < 0.3) {
      const [victim] = this.workers.splice(this.chance.between(0, WORKERS - 1), 1);
      if (victim !== undefined) {
        victim.alive = false;
        this.dead.push(victim);
      }
      this.#start();
    }
    this.agenda.in(this.chance.between(100, 900), () => this.disturb());
  }

  /** Tell all workers to stop, and wait for them. */
  stop(): void {
    this.#stopping = true;
    for (const worker of this.workers) {
      worker.work.stop();
      worker.pump();
    }
    this.agenda.run(() => this.workers.every((worker) => worker.over));
  }
}

test("whatever is lost or killed, every effect is handled at least once or is a dead letter", () => {
  for (let seed = 0; seed < SEEDS; seed++) {
    const world = new World(seed);
    world.disturb();
    world.agenda.run(() => world.engine.left === 0);
    world.stop();
    for (const { position, state } of world.engine.items) {
      assert(state === "dead" || world.handled.has(position), `seed ${seed}, position ${position}: ${state}`);
    }
    assert(world.workers.every(({ work }) => work.error === undefined));
  }
});

test("where nothing is lost, nothing is handled twice and every count is true", () => {
  for (let seed = 0; seed < SEEDS; seed++) {
    const world = new World(seed, 0);
    world.agenda.run(() => world.engine.left === 0);
    world.stop();
    const total = { handled: 0, failed: 0, dead: 0, lost: 0, redelivered: 0 };
    for (const { work } of world.workers) {
      for (const name of Object.keys(total) as (keyof typeof total)[]) {
        total[name] += work.counters[name];
      }
    }
    const dead = world.engine.items.filter(({ state }) => state === "dead").length;
    const attempts = world.engine.items.reduce((sum, { attempt }) => sum + attempt, 0);
    const failed = attempts - (EFFECTS - dead);
    assert.deepEqual(total, { handled: EFFECTS - dead, failed, dead, lost: 0, redelivered: attempts - EFFECTS });
    assert(
      [...world.handled.values()].every((times) => times === 1),
      `seed ${seed}`,
    );
  }
});

test("a stop in the middle of it leaves nothing leased behind, and what it has begun is finished", () => {
  for (let seed = 0; seed < SEEDS; seed++) {
    const world = new World(seed, 0);
    world.agenda.run(() => world.engine.left < EFFECTS / 2);
    world.stop();
    assert(
      world.engine.items.every(({ state }) => state !== "leased"),
      `seed ${seed}`,
    );
    assert(world.workers.every(({ running }) => running === 0));
  }
});
