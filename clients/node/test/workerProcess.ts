/** One worker as a process, which writes down when each handler began and ended: DIRECTORY LOG OPTIONS. */

import { openSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { connect, type Effect, type WorkerOptions } from "../src/index.js";

const [directory = "", log = "", options = "{}"] = process.argv.slice(2);
const { group, workMs, ...settings } = JSON.parse(options) as WorkerOptions & { group: string; workMs: number };
const file = openSync(log, "a");

/** Handed to the system whole, so that a kill loses none of it; the clock is that of all processes. */
function note(what: string, { position, sessionId, attempt }: Effect): void {
  writeSync(file, `${[what, position, sessionId, process.pid, attempt, process.hrtime.bigint()].join(" ")}\n`);
}

async function handle(effect: Effect): Promise<void> {
  note("begin", effect);
  await sleep(workMs);
  note("end", effect);
}

const client = connect(directory, { timeoutMs: 20_000 });
const worker = client.worker(group, handle, settings);
process.on("SIGTERM", () => worker.stop());
await worker.run();
await client.close();
