// Works for a group: runs a command for each message of the log, at least once, and again where it failed.
//
//     node worker.mjs DIR GROUP LEASE_MS COMMAND [ARG ...]
//
// The command finds the content on its stdin, and the message's place in the log in ARMIN_POSITION: together with the
// database and epoch that hello told, a good key for what it does. Exit status 0 acknowledges; after another one the
// message comes again, and in the end it is a dead letter. Start as many workers as you like; SIGTERM ends one, when
// its command has ended.

import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { ask } from "./request.mjs";

const [directory, group, leaseMs, command, ...args] = process.argv.slice(2);
const lease_ms = Number(leaseMs);
let stopping = false;
process.on("SIGTERM", () => {
  stopping = true;
});

// A reply, however long the engine is away; while the worker stops, for five seconds.
async function insist(fields, patience) {
  for (;;) {
    try {
      return await ask(directory, fields, patience);
    } catch (error) {
      if (error.code !== "timeout" || stopping) throw error;
      console.warn("engine away");
    }
  }
}

// Sends an ack, a nack or an extend; whether the lease was still this worker's.
async function settle(op, { lease, position, attempt }, fields) {
  const { outcomes } = await insist({ op, group, leases: [lease], ...fields });
  console.log(op, position, attempt, JSON.stringify(outcomes[0]));
  return outcomes[0].ok;
}

// Runs the command, extends the lease while it runs, first at `due`, and says how it ended.
async function work(lease, due) {
  let { message } = lease.event;
  if (message.elided) {
    const place = { session_id: message.session_id, after: message.seq - 1, limit: 1 }; // too large for an event
    [message] = (await insist({ op: "read", ...place })).messages;
  }
  const env = { ...process.env, ARMIN_POSITION: String(lease.position), ARMIN_ATTEMPT: String(lease.attempt) };
  const child = spawn(command, args, { env, stdio: ["pipe", "inherit", "inherit"] });
  const ended = once(child, "close");
  child.stdin.on("error", () => {}); // a command need not read all of it
  child.stdin.end(message.content);
  let status;
  for (let next = due; ; next = performance.now() + lease_ms / 3) {
    status = await Promise.race([ended, sleep(Math.max(0, next - performance.now()), undefined, { ref: false })]);
    if (status) break;
    if (await settle("extend", lease, { lease_ms })) continue;
    child.kill("SIGKILL"); // it took too long: another worker has the message
    return;
  }
  if (status[0] === 0) await settle("ack", lease);
  else await settle("nack", lease, { reason: `exit status ${status[0] ?? status[1]}` });
}

await insist({ op: "create_group", group, start: "begin", types: ["message_appended"] });
while (!stopping) {
  // A poll that is sent again gives the same lease, by its request: a lost reply keeps none from all.
  const poll = { op: "lease", group, max: 1, lease_ms, wait_ms: 1000, request: randomUUID() };
  const due = performance.now() + lease_ms / 3; // a third of the lease, from here: the reply may come late
  for (const lease of (await insist(poll, 2000)).leases) await work(lease, due);
}
