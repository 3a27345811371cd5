/** Workers that are killed, and what their handlers saw: nothing is lost, and no session's order. */

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { type Client, connect } from "../src/index.js";
import { type Engine, startEngine, waitUntil, within } from "./engine.js";
import { Chance } from "./seeded.js";

const PROCESS = fileURLToPath(new URL("./workerProcess.js", import.meta.url));
const GROUP = "killed";
const WORKERS = 3;
const SESSIONS = 40;
const MESSAGES = 30; // in each session
const EVERY_MS = 400; // a worker is killed
const END_MS = 60_000;
const SETTINGS = { group: GROUP, types: ["message_appended"], maxAttempts: 1000, leaseMs: 5000 };

/** One call of a handler; without an end if its process was killed. Times are nanoseconds. */
interface Span {
  readonly position: number;
  readonly session: number;
  readonly pid: number;
  readonly attempt: number;
  readonly begun: bigint;
  ended?: bigint;
}

/** An engine, worker processes, and their log; all ended with the test. */
class Crew {
  readonly killedAt = new Map<number, bigint>(); // by pid
  readonly processes = new Set<ChildProcess>();
  readonly #log: string;

  private constructor(
    readonly engine: Engine,
    readonly client: Client,
  ) {
    this.#log = join(engine.directory, "log");
    writeFileSync(this.#log, "");
  }

  static async of(t: TestContext): Promise<Crew> {
    const engine = await startEngine();
    const client = connect(engine.directory, { timeoutMs: 20_000 });
    const crew = new Crew(engine, client);
    t.after(async () => {
      await Promise.all([...crew.processes].map((child) => crew.end(child, "SIGKILL")));
      await client.close();
      await engine.remove();
    });
    return crew;
  }

  hire(settings: Readonly<Record<string, unknown>>): ChildProcess {
    const command = [PROCESS, this.engine.directory, this.#log, JSON.stringify({ ...SETTINGS, ...settings })];
    const child = spawn(process.execPath, command, { stdio: ["ignore", "ignore", "inherit"] });
    this.processes.add(child);
    return child;
  }

  /** End a process; gives its exit code, or the signal that killed it. */
  async end(child: ChildProcess, signal: NodeJS.Signals): Promise<unknown> {
    this.processes.delete(child);
    if (child.exitCode === null && child.signalCode === null) {
      const exit = once(child, "exit");
      if (signal === "SIGKILL") {
        this.killedAt.set(child.pid ?? 0, process.hrtime.bigint()); // it lived until now; we may hear of its end late
      }
      child.kill(signal);
      await within(END_MS, exit, "the end of a worker");
    }
    return child.exitCode ?? child.signalCode;
  }

  async fill(sessions: number, messages: number): Promise<void> {
    for (let count = 0; count < sessions; count++) {
      const { id } = await this.client.createSession();
      await this.client.appendMany(id, Array(messages).fill({ role: "user", content: "x" }));
    }
  }

  async isDone(): Promise<boolean> {
    const [group] = await this.client.groups();
    return group !== undefined && group.behind + group.waiting + group.leased === 0;
  }

  /** What the handlers saw, by beginning. */
  spans(): Span[] {
    const spans = new Map<string, Span>();
    for (const line of readFileSync(this.#log, "ascii").split("\n").slice(0, -1)) {
      const [what, ...fields] = line.split(" ");
      const [position = 0, session = 0, pid = 0, attempt = 0] = fields.map(Number);
      const moment = BigInt(fields[4] ?? 0);
      const name = [position, pid, attempt].join();
      const span = spans.get(name);
      if (what === "end" && span !== undefined) {
        span.ended = moment;
      } else {
        spans.set(name, { position, session, pid, attempt, begun: moment });
      }
    }
    return [...spans.values()].toSorted((one, other) => Number(one.begun - other.begun));
  }

  /** Pairs of calls for one session that overlapped, or of which the later one went back. */
  outOfOrder(spans: readonly Span[]): [Span, Span][] {
    const wrong: [Span, Span][] = [];
    const latest = new Map<number, Span>();
    for (const after of spans) {
      const before = latest.get(after.session);
      latest.set(after.session, after);
      const end = before && (before.ended ?? this.killedAt.get(before.pid));
      if (before && (end === undefined || end > after.begun || before.position > after.position)) {
        wrong.push([before, after]);
      }
    }
    return wrong;
  }
}

test("what a worker held when it was killed goes to another one when its lease is over", async (t) => {
  const crew = await Crew.of(t);
  await crew.fill(1, 1);
  const victim = crew.hire({ leaseMs: 1000, workMs: 2 * END_MS });
  await waitUntil(() => crew.spans().length === 1, "it has begun", END_MS);
  await crew.end(victim, "SIGKILL");
  const heir = crew.hire({ leaseMs: 30_000, workMs: 1 });
  await waitUntil(() => crew.isDone(), "it is handled", END_MS);
  const [first, second, ...others] = crew.spans();
  assert.deepEqual([first?.pid, first?.attempt, first?.ended], [victim.pid, 1, undefined]);
  assert.deepEqual([second?.pid, second?.attempt, second?.position], [heir.pid, 2, first?.position]);
  assert.deepEqual(others, []);
  assert.equal(await crew.end(heir, "SIGTERM"), 0);
});

for (const ordered of [false, true]) {
  test(`everything is handled though workers and the engine are killed, ${ordered ? "in" : "without"} order`, async (t) => {
    const chance = new Chance(7);
    const crew = await Crew.of(t);
    await crew.fill(SESSIONS, MESSAGES);
    const hire = (): ChildProcess => crew.hire({ concurrency: 8, ordered, workMs: 20 });
    for (let count = 0; count < WORKERS; count++) {
      hire();
    }
    let engineKills = 0;
    while (!(await crew.isDone())) {
      await sleep(EVERY_MS); // the rhythm of the kills; nothing is awaited by it
      const victim = [...crew.processes][chance.between(0, WORKERS - 1)] as ChildProcess;
      if (crew.spans().some(({ pid, ended }) => pid === victim.pid && ended !== undefined)) {
        await crew.end(victim, "SIGKILL");
        hire();
      } // on a busy machine, workers would be killed before they have begun
      if (engineKills < 2 && crew.spans().length > (SESSIONS * MESSAGES * (engineKills + 1)) / 4) {
        await crew.engine.kill();
        await crew.engine.start();
        engineKills += 1;
      }
    }
    const codes = await Promise.all([...crew.processes].map((child) => crew.end(child, "SIGTERM")));
    assert(codes.every((code) => code === 0 || code === "SIGTERM")); // the latter had not begun yet
    const spans = crew.spans();
    const ends = spans.filter(({ ended }) => ended !== undefined).map(({ position }) => position);
    const handled = new Set(ends);
    assert.equal(handled.size, SESSIONS * MESSAGES);
    assert.equal(engineKills, 2);
    assert(crew.killedAt.size >= 3);
    assert(ends.length - handled.size < handled.size / 4, "few are handled twice");
    // Without `ordered` the same check finds plenty.
    assert.equal(crew.outOfOrder(spans).length > 0, !ordered);
    t.diagnostic(`${crew.killedAt.size} workers killed, ${ends.length - handled.size} effects handled twice`);
  });
}
