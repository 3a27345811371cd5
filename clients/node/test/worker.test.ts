/** Workers against a real engine. */

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import {
  type Client,
  type Counters,
  connect,
  type Effect,
  GroupNotFound,
  type Handler,
  LeaseLost,
  Retry,
  type Worker,
  type WorkerOptions,
} from "../src/index.js";
import { type Engine, startEngine, waitUntil, within } from "./engine.js";
import { upTo } from "./following.js";

const GROUP = "g";
const END_MS = 60_000;
const LEASE_MS = 3000; // of those that are to be extended, or to be over soon

/** Something that is awaited until it is opened. */
class Gate {
  open: () => void = () => {};
  readonly opened = new Promise<void>((resolve) => {
    this.open = resolve;
  });

  wait(): Promise<void> {
    return within(END_MS, this.opened, "the gate");
  }
}

/** A worker that runs, and a client of its own. */
class Shift {
  readonly worker: Worker;
  over = false;
  readonly #end: Promise<void>;

  constructor(client: Client, handler: Handler, options: WorkerOptions = {}) {
    this.worker = client.worker(GROUP, handler, { onFailure: () => {}, ...options });
    this.#end = this.worker.run().finally(() => {
      this.over = true;
    });
    this.#end.catch(() => {}); // until somebody waits for the end
  }

  get counters(): Counters {
    return this.worker.counters;
  }

  /** Wait for its end; rejects with what it rejected with. */
  end(): Promise<void> {
    return within(END_MS, this.#end, "the worker's end");
  }

  stop(): Promise<void> {
    this.worker.stop();
    return this.end();
  }
}

interface Bench {
  readonly engine: Engine;
  readonly client: Client;
  /** One more client. */
  open(timeoutMs?: number): Client;
  /** A worker with a client of its own. */
  start(handler: Handler, options?: WorkerOptions): Shift;
}

/** A running engine, clients and workers of it; all ended with the test. */
async function bench(t: TestContext): Promise<Bench> {
  const engine = await startEngine();
  t.after(() => engine.remove());
  const open = (timeoutMs = 20_000): Client => {
    const client = connect(engine.directory, { timeoutMs });
    t.after(() => client.close());
    return client;
  };
  const start = (handler: Handler, options?: WorkerOptions): Shift => new Shift(open(), handler, options);
  return { engine, client: open(60_000), open, start };
}

/** Commit facts; gives how many. */
async function fill(client: Client, sessions: number, messages = 0): Promise<number> {
  for (let count = 0; count < sessions; count++) {
    const { id } = await client.createSession();
    if (messages > 0) {
      await client.appendMany(id, Array(messages).fill({ role: "user", content: "x" }));
    }
  }
  return sessions * (1 + messages);
}

/** Effects that are not handled and not dead; -1 where there is no group yet. */
async function left(client: Client): Promise<number> {
  const group = (await client.groups()).find((one) => one.group === GROUP);
  return group === undefined ? -1 : group.behind + group.waiting + group.leased;
}

async function isDone(client: Client): Promise<void> {
  await waitUntil(async () => (await left(client)) === 0, "all effects are handled or dead", END_MS);
}

/** Wait until these are its counters; those that are not named are 0. */
async function counts({ worker }: Shift, expected: Partial<Counters>): Promise<void> {
  const whole = { handled: 0, failed: 0, dead: 0, lost: 0, redelivered: 0, ...expected };
  await waitUntil(() => JSON.stringify(worker.counters) === JSON.stringify(whole), JSON.stringify(whole), END_MS);
}

test("every effect is handled once and in order", async (t) => {
  const { client, start } = await bench(t);
  let facts = await fill(client, 2, 10);
  const seen: number[] = [];
  const shift = start(({ position }) => seen.push(position));
  await isDone(client);
  facts += await fill(client, 1);
  await counts(shift, { handled: facts });
  assert.deepEqual(seen, upTo(facts));
  await shift.stop();
  assert.equal(await left(client), 0);
});

test("what fails comes again later, and is a dead letter in the end", async (t) => {
  const { client, start } = await bench(t);
  await fill(client, 2);
  const attempts: string[] = [];
  const times: number[] = [];
  const failures: unknown[] = [];
  const handle = ({ position, attempt }: Effect): void => {
    attempts.push(`${position}.${attempt}`);
    if (position === 1) {
      times.push(performance.now());
      throw new TypeError("it is the first");
    }
  };
  const onFailure = (effect: Effect, error: unknown): void => {
    failures.push([effect.position, String(error)]);
  };
  const shift = start(handle, { maxAttempts: 3, backoffMs: 100, onFailure });
  await counts(shift, { handled: 1, failed: 3, dead: 1, redelivered: 2 });
  assert.deepEqual(attempts.toSorted(), ["1.1", "1.2", "1.3", "2.1"]);
  const [first = 0, second = 0, third = 0] = times;
  assert(second - first >= 90 && third - second >= 190, `pauses of ${second - first} and ${third - second} ms`);
  assert.deepEqual(failures, Array(3).fill([1, "TypeError: it is the first"]));
  const [letter, ...others] = (await client.deadLetters(GROUP)).deadLetters;
  assert.deepEqual(others, []);
  const { position, attempts: tried, reason } = letter ?? {};
  assert.deepEqual([position, tried, reason], [1, 3, "TypeError: it is the first"]);
  assert.equal(await client.requeue(GROUP), 1);
  await waitUntil(() => attempts.filter((one) => one === "1.1").length === 2);
});

test("Retry chooses the pause and the reason, and is no surprise", async (t) => {
  const { client, start } = await bench(t);
  await fill(client, 1);
  const attempts: number[] = [];
  const surprises: unknown[] = [];
  const handle = async ({ attempt }: Effect): Promise<void> => {
    attempts.push(attempt);
    throw attempt < 3 ? new Retry("not yet", { delayMs: 0 }) : new Retry(`\ud800${"€".repeat(1000)}`);
  };
  start(handle, { maxAttempts: 3, backoffMs: 3_600_000, onFailure: (_, error) => surprises.push(error) });
  await isDone(client);
  assert.deepEqual(attempts, [1, 2, 3]);
  const [letter] = (await client.deadLetters(GROUP)).deadLetters;
  assert.equal(letter?.reason, `\ufffd${"€".repeat(340)}`); // 1,023 bytes, whole characters
  assert.deepEqual(surprises, []);
});

test("a failure is written to the console unless somebody is told", async (t) => {
  const { client, start } = await bench(t);
  await fill(client, 1);
  const warn = t.mock.method(console, "warn", () => {});
  const error = new TypeError("no such field");
  const handle = (): never => {
    throw error;
  };
  start(handle, { maxAttempts: 1, onFailure: undefined });
  await isDone(client);
  const said = warn.mock.calls.map((call) => call.arguments);
  assert.deepEqual(said, [["the effect at position 1 failed (attempt 1):", error]]);
});

test("what onFailure throws ends the worker", async (t) => {
  const { client, start } = await bench(t);
  await fill(client, 1);
  const handle = (): never => {
    throw new TypeError("no such field");
  };
  const onFailure = (): never => {
    throw new RangeError("nowhere to report to");
  };
  await assert.rejects(start(handle, { onFailure }).end(), { name: "RangeError", message: "nowhere to report to" });
});

test("a handler keeps its effect for as long as it takes", async (t) => {
  const { client, start } = await bench(t);
  await fill(client, 1);
  const [begun, release] = [new Gate(), new Gate()];
  const seen: number[] = [];
  const handle = async ({ attempt }: Effect): Promise<void> => {
    seen.push(attempt);
    begun.open();
    await release.wait();
  };
  const shifts = [start(handle, { leaseMs: LEASE_MS }), start(handle, { leaseMs: LEASE_MS })];
  await begun.wait();
  await sleep(2 * LEASE_MS);
  assert.equal((await client.groups({ group: GROUP }))[0]?.leased, 1);
  release.open();
  await isDone(client);
  await waitUntil(() => shifts.reduce((sum, { counters }) => sum + counters.handled, 0) === 1);
  assert.deepEqual(seen, [1]);
});

test("a handler that lost its effect is told, and nothing breaks", async (t) => {
  const { client, start } = await bench(t);
  await fill(client, 1);
  const told: unknown[] = [];
  const surprises: unknown[] = [];
  const handle = async ({ signal, lost }: Effect): Promise<void> => {
    if (told.length > 0) {
      return;
    }
    assert.equal(lost, false);
    const aborted = new Promise((resolve) => signal.addEventListener("abort", resolve));
    await client.dropGroup(GROUP); // and with it the lease
    await client.createGroup(GROUP);
    await within(END_MS, aborted, "the loss");
    told.push(signal.reason);
    signal.throwIfAborted();
  };
  const shift = start(handle, { leaseMs: LEASE_MS, onFailure: (_, error) => surprises.push(error) });
  await counts(shift, { handled: 1, lost: 1 });
  assert(told[0] instanceof LeaseLost);
  assert.deepEqual(surprises, []);
});

test("an effect whose worker stood still goes to another one, which its handler can see", async (t) => {
  const { client, open, start } = await bench(t);
  await fill(client, 1);
  const [begun, release] = [new Gate(), new Gate()];
  const effects: Effect[] = [];
  const stands = async (effect: Effect): Promise<void> => {
    effects.push(effect);
    begun.open();
    await release.wait();
  };
  const deaf = open();
  const still = new Shift(deaf, stands, { leaseMs: LEASE_MS });
  await begun.wait();
  await deaf.close(); // it hears and says nothing more
  const other = start(() => {});
  await counts(other, { handled: 1, redelivered: 1 });
  release.open();
  await assert.rejects(still.end(), { name: "ClientClosed" });
  assert.equal(effects[0]?.lost, true);
  assert.equal(still.counters.lost, 1);
});

test("stop finishes what has begun and takes no more", async (t) => {
  const { client, start } = await bench(t);
  const facts = await fill(client, 10);
  let begun = 0;
  const release = new Gate();
  const handle = async (): Promise<void> => {
    begun += 1;
    await release.wait();
  };
  const shift = start(handle, { concurrency: 3 });
  await waitUntil(() => begun === 3);
  const [busy] = await client.groups({ group: GROUP });
  assert.deepEqual([busy?.leased, busy?.pollers], [3, 0]);
  shift.worker.stop();
  release.open();
  await shift.end();
  await counts(shift, { handled: 3 });
  assert.equal(begun, 3);
  const [group] = await client.groups({ group: GROUP });
  const { leased, pollers, behind = 0, waiting = 0 } = group ?? {};
  assert.deepEqual([leased, pollers, behind + waiting], [0, 0, facts - 3]);
});

test("stop has an idle worker ask for its poll back, and leaves no poll behind", async (t) => {
  const { client, start } = await bench(t);
  const shift = start(() => {});
  const pollers = async (): Promise<number | undefined> => (await client.groups())[0]?.pollers;
  await waitUntil(async () => (await pollers()) === 1);
  const commands = async (): Promise<number> => Number((await client.stats())["commands"]);
  const before = await commands();
  await shift.stop();
  assert((await commands()) - before > 1, "it asked for its poll back"); // one is the second question for the number
  await waitUntil(async () => (await pollers()) === 0);
  await fill(client, 1);
  assert.equal((await client.groups())[0]?.leased, 0);
});

test("so many handlers run at a time and no more", async (t) => {
  const { client, start } = await bench(t);
  await fill(client, 12);
  let running = 0;
  let most = 0;
  const together = new Gate();
  const handle = async (): Promise<void> => {
    running += 1;
    most = Math.max(most, running);
    if (running === 4) {
      together.open();
    }
    await together.wait();
    await sleep(5);
    running -= 1;
  };
  start(handle, { concurrency: 4 });
  await isDone(client);
  assert.equal(most, 4);
});

test("one session's effects are never handled together in an ordered group", async (t) => {
  const { client, start } = await bench(t);
  const facts = await fill(client, 3, 15);
  const running = new Set<unknown>();
  const seen = new Map<unknown, number[]>();
  const wrong: Effect[] = [];
  const handle = async (effect: Effect): Promise<void> => {
    const { sessionId, position, attempt } = effect;
    if (running.has(sessionId)) {
      wrong.push(effect);
    }
    running.add(sessionId);
    seen.set(sessionId, [...(seen.get(sessionId) ?? []), position]);
    await sleep(1);
    running.delete(sessionId);
    if (position % 7 === 0 && attempt === 1) {
      throw new Retry("", { delayMs: 5 });
    }
  };
  for (let count = 0; count < 2; count++) {
    start(handle, { concurrency: 4, ordered: true });
  }
  await isDone(client);
  assert.deepEqual(wrong, []);
  for (const positions of seen.values()) {
    assert.deepEqual(
      positions,
      positions.toSorted((one, other) => one - other),
    );
  }
  const distinct = [...seen.values()].map((positions) => new Set(positions).size);
  assert.equal(
    distinct.reduce((sum, size) => sum + size, 0),
    facts,
  );
});

test("a worker goes on when the engine was killed or restarted", async (t) => {
  const { engine, client, start } = await bench(t);
  let facts = await fill(client, 20);
  const seen = new Set<number>();
  const handle = async ({ position }: Effect): Promise<void> => {
    await sleep(10);
    seen.add(position);
  };
  const shift = start(handle, { concurrency: 2, leaseMs: 1000 });
  await waitUntil(() => seen.size > 5);
  await engine.kill();
  await engine.start();
  await isDone(client);
  assert.equal(await engine.stop(), 0);
  await engine.start();
  facts += await fill(client, 5);
  await isDone(client);
  assert.deepEqual(
    [...seen].toSorted((one, other) => one - other),
    upTo(facts),
  );
  assert.equal(shift.over, false);
  await shift.stop();
});

test("a stop while the engine is away ends after the client's timeout", async (t) => {
  const { engine, client, open } = await bench(t);
  await fill(client, 1);
  const [begun, release] = [new Gate(), new Gate()];
  const handle = async (): Promise<void> => {
    begun.open();
    await release.wait();
  };
  const shift = new Shift(open(5000), handle);
  await begun.wait();
  await engine.kill();
  shift.worker.stop();
  release.open();
  await shift.end();
  assert.equal(shift.counters.lost, 1);
});

test("a large message is read whole unless told otherwise", async (t) => {
  const { client, start } = await bench(t);
  const { id } = await client.createSession();
  await client.append(id, "user", "small");
  await client.append(id, "user", "x".repeat(100_000), { meta: { k: 1 } });
  const seen: unknown[] = [];
  const handle = ({ message }: Effect): void => {
    seen.push([message?.content.length, message?.elided, message?.meta]);
  };
  const shift = start(handle, { types: ["message_appended"] });
  await counts(shift, { handled: 2 });
  assert.deepEqual(seen, [
    [5, false, null],
    [100_000, false, { k: 1 }],
  ]);
  await shift.stop();
  await client.dropGroup(GROUP);
  await counts(start(handle, { types: ["message_appended"], whole: false }), { handled: 2 });
  assert.deepEqual(seen[3], [0, true, null]);
});

test("other settings are refused, and a dropped group ends its workers", async (t) => {
  const { client, start } = await bench(t);
  const shift = start(() => {});
  await isDone(client);
  await assert.rejects(start(() => {}, { ordered: true }).end(), {
    name: "Conflict",
    reason: "settings",
    field: "ordered",
  });
  await client.dropGroup(GROUP);
  await assert.rejects(shift.end(), GroupNotFound);
});

test("without an engine a worker says so", async (t) => {
  const { engine, open } = await bench(t);
  await engine.stop();
  await assert.rejects(new Shift(open(200), () => {}).end(), { name: "NoReply", reason: "not_running" });
});

test("a worker of a closed client ends", async (t) => {
  const { client, open } = await bench(t);
  const own = open();
  const shift = new Shift(own, () => {});
  await waitUntil(async () => (await client.groups())[0]?.pollers === 1);
  await own.close();
  await assert.rejects(shift.end(), { name: "ClientClosed" });
});

test("an aborted worker tells its handlers and waits for them, and another takes over", async (t) => {
  const { client, start } = await bench(t);
  await fill(client, 1);
  const control = new AbortController();
  const said: unknown[] = [];
  const handle = async ({ signal, lost }: Effect): Promise<void> => {
    said.push("begun");
    control.abort(new RangeError("enough"));
    await assert.rejects(sleep(END_MS, undefined, { signal }));
    await sleep(50); // of tidying up
    said.push(signal.reason, lost);
    signal.throwIfAborted();
  };
  const shift = start(handle, { leaseMs: LEASE_MS, signal: control.signal });
  await assert.rejects(shift.end(), { name: "RangeError", message: "enough" });
  assert.deepEqual(said, ["begun", control.signal.reason, false]);
  await counts(shift, {});
  await counts(
    start(() => {}),
    { handled: 1, redelivered: 1 },
  );
  await assert.rejects(start(handle, { signal: control.signal }).end(), { message: "enough" });
  assert.equal(said.length, 3);
});

test("a worker without hands is refused, and one runs once", async (t) => {
  const { client, start } = await bench(t);
  for (const concurrency of [0, -1, 1.5, Number.NaN]) {
    assert.throws(() => client.worker(GROUP, () => {}, { concurrency }), {
      name: "RangeError",
      message: /concurrency/,
    });
  }
  const shift = start(() => {});
  await assert.rejects(shift.worker.run(), /runs once/);
  await shift.stop();
});
