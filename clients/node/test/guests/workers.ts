/** The workers: one for each group; handlers fail now and then, and with some effects always. */

import { type Client, type Effect, Retry, type Worker } from "../../src/index.js";
import { Dice } from "./content.js";
import { type Crew, sleep } from "./crew.js";
import { isUncertain } from "./writers.js";

// Groups and settings are those of the campaign's own workers: they share the effects.
const ORDERED = "torture, ordered";
const GROUPS = [ORDERED, "torture, any order"];
const SETTINGS = { concurrency: 3, maxAttempts: 6, backoffMs: 10, leaseMs: 2000 };
const WORK_MS = 10; // at most, for one effect
const FAILS = 0.08; // of the attempts
const DOOMED = 0.01; // of the effects fail each time
const AGAIN_MS = 100;

async function handle(crew: Crew, group: string, effect: Effect): Promise<void> {
  const { position, attempt } = effect;
  const note = (what: string): void =>
    crew.evidence.write(what, {
      group,
      position,
      session: effect.sessionId,
      attempt,
      lease: effect.lease.lease,
      left: (effect.lease.until - Date.now()) / 1000,
    });
  note("begin");
  await sleep(new Dice(`work ${position}`).random() * WORK_MS);
  const { seed } = crew.settings;
  const doomed = new Dice(`doom ${seed}/${group}/${position}`).random() < DOOMED;
  if (doomed || new Dice(`fate ${seed}/${group}/${position}/${attempt}`).random() < FAILS) {
    note("failed");
    throw new Retry("not this time");
  }
  note("handled");
}

async function workFor(crew: Crew, client: Client, group: string): Promise<void> {
  let worker: Worker | undefined;
  void crew.finish.then(() => worker?.stop());
  for (;;) {
    worker = client.worker(group, (effect) => handle(crew, group, effect), { ...SETTINGS, ordered: group === ORDERED });
    if (crew.finished) {
      worker.stop();
    }
    try {
      return await worker.run();
    } catch (error) {
      if (!isUncertain(error)) {
        crew.violation(`worker of ${group}: ${error}`);
        return;
      }
    }
    await sleep(AGAIN_MS);
  }
}

/** A worker for each group, until told to finish. */
export async function work(crew: Crew, client: Client): Promise<void> {
  await Promise.all(GROUPS.map((group) => workFor(crew, client, group)));
}
