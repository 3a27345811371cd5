/** A worker's state machine: what it asks, when, and what it makes of the answers. No engine, no clock. */

import assert from "node:assert/strict";
import { test } from "node:test";
import type { Call } from "../src/calls.js";
import { completed, type Failure, failure, type HeldEffect, Retry } from "../src/effect.js";
import { GroupNotFound, LeaseLost, NoReply, ProtocolError, StorageFailed } from "../src/errors.js";
import { patience, RETRY_MAX } from "../src/patience.js";
import type { Event, Lease, Leases, Outcomes } from "../src/results.js";
import { type Action, type Ask, POLL_MS, Work } from "../src/working.js";

const TIMEOUT = 5000;
const LEASE_MS = 3000; // extended once a second
const SILENCE = new NoReply("nobody", { reason: "silent", sent: true });

function event(position: number): Event {
  const nothing = { message: null, createdAt: 1, name: null, meta: null };
  return { position, type: "session_created", sessionId: position, ...nothing };
}

function lease(position: number, attempt = 1): Lease {
  return { lease: `L${position}.${attempt}`, position, attempt, until: 0, event: event(position) };
}

function leases(...positions: readonly number[]): Leases {
  return { leases: positions.map((position) => lease(position)), position: 99 };
}

function outcomes(call: Call<unknown>, lost: readonly string[] = [], dead = false): Outcomes {
  const said = (call.fields["leases"] as string[]).map((name) => {
    const ok = !lost.includes(name);
    const error = ok ? null : new LeaseLost("gone");
    return { lease: name, ok, duplicate: false, dead: ok && dead, until: null, error };
  });
  return { outcomes: said, position: 99 };
}

function failed(reason: string, delayMs?: number): Failure {
  return { reason, delayMs };
}

/** Drives a Work by hand: time stands still unless told, and every answer is given by the test. */
class Bench {
  now = 100_000;
  readonly work: Work;

  constructor(concurrency = 1) {
    let count = 0;
    const tokens = (): string => `t${++count}`;
    this.work = new Work("g", { concurrency, leaseMs: LEASE_MS, timeoutMs: TIMEOUT, tokens });
  }

  /** All there is to do now, but for the wait that ends it; null at the end of all. */
  actions(): { readonly found: readonly Action[]; readonly until: number | null } {
    const found: Action[] = [];
    for (;;) {
      const action = this.work.next(this.now);
      if (action === undefined) {
        return { found, until: null };
      }
      if (action.kind === "wait") {
        return { found, until: action.until };
      }
      found.push(action);
    }
  }

  /** The only thing to do now. */
  one(): Action {
    const { found } = this.actions();
    assert.equal(found.length, 1, JSON.stringify(found));
    return found[0] as Action;
  }

  /** The only thing to do now, which is this command. */
  asked(op: string): Call<unknown> {
    const action = this.one();
    assert(action.kind === "ask");
    assert.equal(action.call.op, op);
    assert.equal(action.line === "leases", op === "lease" && action.call.fields["wait_ms"] !== 0);
    return action.call;
  }

  /** What is asked now, besides whatever begins. */
  asks(): readonly Ask[] {
    return this.actions().found.filter((action) => action.kind === "ask");
  }

  begun(): readonly HeldEffect[] {
    return this.actions().found.flatMap((action) => (action.kind === "begin" ? [action.effect] : []));
  }

  /** Answer the poll that is asked now, and begin what it gave. */
  begin(...positions: readonly number[]): readonly HeldEffect[] {
    this.asked("lease");
    this.give(...positions);
    const begun = this.begun();
    assert.deepEqual(
      begun.map((effect) => effect.position),
      positions,
    );
    return begun;
  }

  give(...positions: readonly number[]): void {
    this.work.answered("leases", leases(...positions), this.now);
  }

  settle(result: Leases | Outcomes): void {
    this.work.answered("outcomes", result, this.now);
  }

  /** Expect nothing to do; gives until when. */
  waits(): number {
    const { found, until } = this.actions();
    assert.deepEqual(found, []);
    assert(until !== null);
    return until;
  }

  ends(): void {
    assert.deepEqual(this.actions(), { found: [], until: null });
  }
}

test("it leases no more than it can begin, and polls once at a time", () => {
  const bench = new Bench(3);
  const { fields } = bench.asked("lease");
  const { max, wait_ms: waitMs, lease_ms: leaseMs } = fields;
  assert.deepEqual([max, waitMs, leaseMs], [3, POLL_MS, LEASE_MS]);
  bench.give(1, 2);
  const { found } = bench.actions();
  assert.deepEqual(
    found.map((action) => action.kind),
    ["begin", "begin", "ask"],
  );
  const poll = found[2] as Ask;
  assert.equal(poll.call.fields["max"], 1);
  assert.notEqual(poll.call.fields["request"], fields["request"]);
  bench.give(3);
  assert.equal(bench.one().kind, "begin");
});

test("what is handled while an ack is under way goes together in the next", () => {
  const bench = new Bench(3);
  const [one, two, three] = bench.begin(1, 2, 3) as [HeldEffect, HeldEffect, HeldEffect];
  bench.work.finished(one, undefined);
  const [poll, first] = bench.asks() as [Ask, Ask];
  assert.deepEqual([poll.call.op, first.call.op], ["lease", "ack"]);
  assert.deepEqual(first.call.fields["leases"], ["L1.1"]);
  bench.work.finished(three, undefined);
  bench.work.finished(two, undefined);
  bench.waits();
  bench.settle(outcomes(first.call));
  const second = bench.asked("ack");
  assert.deepEqual(second.fields["leases"], ["L3.1", "L2.1"]);
  bench.settle(outcomes(second));
  assert.equal(bench.work.counters.handled, 3);
});

test("a lost reply to a poll is asked for again with the same token, and its leases renewed", () => {
  const bench = new Bench();
  const first = bench.asked("lease");
  bench.work.unanswered("leases", SILENCE, bench.now);
  bench.now = bench.waits();
  assert.deepEqual(bench.asked("lease").fields, first.fields);
  bench.give(1);
  const [begin, extend] = bench.actions().found;
  assert(begin?.kind === "begin" && begin.effect.position === 1);
  assert(extend?.kind === "ask" && extend.call.op === "extend"); // who knows how old the lease is
});

test("a lost ack is repeated, and a lease that is gone by then is counted", () => {
  const bench = new Bench(2);
  for (const effect of bench.begin(1, 2)) {
    bench.work.finished(effect, undefined);
  }
  assert.deepEqual(
    bench.asks().map((ask) => ask.call.op),
    ["lease", "ack"],
  );
  bench.work.unanswered("outcomes", SILENCE, bench.now);
  bench.now = bench.waits();
  const again = bench.asked("ack");
  assert.deepEqual(again.fields["leases"], ["L1.1", "L2.1"]);
  bench.settle(outcomes(again, ["L2.1"]));
  assert.deepEqual([bench.work.counters.handled, bench.work.counters.lost], [1, 1]);
  assert.equal(bench.work.error, undefined);
});

test("pauses between attempts double up to a bound", () => {
  const bench = new Bench();
  const pauses: number[] = [];
  for (let time = 0; time < 8; time++) {
    bench.asked("lease");
    bench.work.unanswered("leases", new StorageFailed("disk full"), bench.now);
    const until = bench.waits();
    pauses.push(until - bench.now);
    bench.now = until;
  }
  assert.deepEqual(pauses, [50, 100, 200, 400, 800, RETRY_MAX, RETRY_MAX, RETRY_MAX]);
});

test("a long handler keeps its lease, and is told when it is lost all the same", () => {
  const bench = new Bench();
  const [effect] = bench.begin(1) as [HeldEffect];
  const until = bench.waits();
  assert.equal(until - bench.now, LEASE_MS / 3);
  bench.now = until;
  const extend = bench.asked("extend");
  assert.deepEqual(extend.fields, { group: "g", leases: ["L1.1"], lease_ms: LEASE_MS });
  bench.settle(outcomes(extend));
  assert.equal(effect.lost, false);
  assert.equal(effect.signal.aborted, false);
  bench.now = bench.waits();
  bench.settle(outcomes(bench.asked("extend"), ["L1.1"]));
  assert.equal(effect.lost, true);
  assert(effect.signal.reason instanceof LeaseLost);
  assert.equal(bench.work.counters.lost, 1);
  bench.work.finished(effect, undefined);
  bench.asked("lease"); // no ack: it is another worker's now
  assert.equal(bench.work.counters.lost, 1);
});

test("failures of one kind go back together", () => {
  const bench = new Bench(3);
  const [one, two, three] = bench.begin(1, 2, 3) as [HeldEffect, HeldEffect, HeldEffect];
  bench.work.finished(one, failed("boom"));
  bench.work.finished(two, failed("later", 50));
  bench.work.finished(three, failed("boom"));
  const [, nack] = bench.asks() as [Ask, Ask];
  assert.deepEqual([nack.call.op, nack.call.fields["leases"]], ["nack", ["L1.1", "L3.1"]]);
  assert.equal(nack.call.fields["reason"], "boom");
  assert.equal(nack.call.fields["delay_ms"], undefined);
  bench.settle(outcomes(nack.call, [], true));
  const again = bench.asked("nack");
  assert.deepEqual([again.fields["leases"], again.fields["delay_ms"]], [["L2.1"], 50]);
  bench.settle(outcomes(again));
  assert.deepEqual([bench.work.counters.failed, bench.work.counters.dead], [3, 2]);
});

test("outcomes of other leases than were named are a protocol error", () => {
  const bench = new Bench();
  const [effect] = bench.begin(1) as [HeldEffect];
  bench.work.finished(effect, undefined);
  bench.asks();
  assert.throws(() => bench.settle({ outcomes: [], position: 9 }), ProtocolError);
});

test("stop with nothing under way is the end", () => {
  const bench = new Bench();
  bench.work.stop();
  bench.ends();
});

test("stop recalls the parked poll and finishes what it was given, once", () => {
  const bench = new Bench(2);
  const parked = bench.asked("lease");
  bench.work.stop();
  const recall = bench.one();
  assert(recall.kind === "ask" && recall.line === "outcomes");
  assert.deepEqual(recall.call.fields, { ...parked.fields, wait_ms: 0 });
  bench.settle(leases(1));
  const [effect] = bench.begun() as [HeldEffect];
  bench.give(1); // the poll's own answer names the same lease
  bench.waits();
  bench.work.finished(effect, undefined);
  bench.settle(outcomes(bench.asked("ack")));
  bench.ends();
  assert.equal(bench.work.counters.handled, 1);
});

for (const recalledFirst of [false, true]) {
  test(`after a stop both answers are awaited, that of the ${recalledFirst ? "recall" : "poll"} first`, () => {
    const bench = new Bench();
    bench.asked("lease");
    bench.work.stop();
    bench.one();
    const answers = [() => bench.give(), () => bench.settle(leases())];
    const [first, second] = (recalledFirst ? answers.reverse() : answers) as [() => void, () => void];
    first();
    bench.waits();
    second();
    bench.ends();
  });
}

test("a stop while the engine is away ends, and counts what could not be said", () => {
  const bench = new Bench(2);
  for (const effect of bench.begin(1, 2)) {
    bench.work.finished(effect, undefined);
  }
  let asked = bench.asks();
  bench.work.stop();
  const begun = bench.now;
  for (let ended = false; !ended; ) {
    for (const { line } of asked) {
      bench.work.unanswered(line, SILENCE, bench.now);
    }
    const { found, until } = bench.actions();
    ended = until === null;
    asked = found.filter((action) => action.kind === "ask");
    bench.now = asked.length > 0 ? bench.now : (until ?? bench.now);
    assert(bench.now - begun <= TIMEOUT + RETRY_MAX);
  }
  assert.equal(bench.work.counters.lost, 2);
  assert.equal(bench.work.error, undefined);
});

test("a dropped group ends the worker when what it holds is finished", () => {
  const bench = new Bench(2);
  const [effect] = bench.begin(1) as [HeldEffect];
  bench.work.unanswered("leases", new GroupNotFound("dropped"), bench.now);
  bench.waits();
  bench.work.finished(effect, undefined);
  bench.asked("ack");
  bench.work.unanswered("outcomes", new GroupNotFound("dropped"), bench.now);
  bench.ends();
  assert(bench.work.error instanceof GroupNotFound);
  assert.equal(bench.work.counters.lost, 1);
});

test("redelivered effects are counted", () => {
  const bench = new Bench();
  bench.asked("lease");
  bench.work.answered("leases", { leases: [lease(1, 2)], position: 9 }, bench.now);
  const [effect] = bench.begun() as [HeldEffect];
  assert.equal(effect.attempt, 2);
  assert.equal(bench.work.counters.redelivered, 1);
});

test("answers are awaited no longer than leases can bear", () => {
  assert.equal(patience(5000, 30_000), 1000);
  assert.equal(patience(200, 30_000), 200);
  assert.equal(patience(5000, 400), 100);
  assert.equal(patience(5000, 10), 50);
});

test("a nack says the kind of error and its message, and of a Retry its message alone", () => {
  assert.deepEqual(failure(new TypeError("no such field")), failed("TypeError: no such field"));
  assert.deepEqual(failure(new RangeError()), failed("RangeError"));
  assert.deepEqual(failure("text"), failed("text"));
  assert.deepEqual(failure(undefined), failed("undefined"));
  assert.deepEqual(failure(new Retry("not yet", { delayMs: 50 })), failed("not yet", 50));
  assert.deepEqual(failure(new Retry("", { delayMs: -1 })), failed("", 0));
});

test("a reason is cut to what a nack carries, in whole characters", () => {
  assert.equal(failure(new Retry(`?${"€".repeat(1000)}`)).reason, `?${"€".repeat(341)}`); // 1,024 bytes
  assert.equal(failure(new Retry("\ud800!")).reason, "\ufffd!");
});

test("an event is completed with its own message and with no other", () => {
  const message = { id: 7, sessionId: 1, seq: 3, role: "user", content: "", createdAt: 1, meta: null, elided: true };
  const elided = { ...event(9), message };
  const read = { ...message, content: "whole", elided: false };
  const page = { messages: [read], more: false, seq: 3, closed: false, position: 9 };
  assert.deepEqual(completed(elided, page).message, read);
  assert.throws(() => completed(elided, { ...page, messages: [] }), ProtocolError);
  assert.throws(() => completed(elided, { ...page, messages: [{ ...read, id: 8 }] }), ProtocolError);
});
