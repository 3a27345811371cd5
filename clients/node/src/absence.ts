/** Why nobody answered: what a client can find out, and what the user should do about it. */

import { readFileSync, type Stats, statSync } from "node:fs";
import { join } from "node:path";
import type { AccessKey } from "./accessKey.js";
import type { Obstacle } from "./connection.js";
import { NoReply, NotAuthorized } from "./errors.js";
import { DATABASE_FILE, LOCK_SUFFIX } from "./protocol.js";
import { type Target, TcpTarget } from "./target.js";

const UNKNOWN_OUTCOME = "; the outcome of this write is unknown";
const STARTING = ["opening", "recovering"]; // states of an owner that has bound no socket yet

/** The first two lines of the lock file: who owns the database, and what it is doing. */
interface Owner {
  readonly pid: number;
  readonly state: string;
}

/** What is known of a command that was left unanswered. */
export interface Unanswered {
  /** Whether it left this process. */
  readonly sent: boolean;
  /** Whether it would have changed anything. */
  readonly writes: boolean;
  /** Its idempotency key, if it has one. */
  readonly key?: string | null;
}

/** The error for a command that `target` left unanswered for `timeoutMs`; `obstacle` is in the way of a connection. */
export function noReply(
  target: Target,
  timeoutMs: number,
  unanswered: Unanswered,
  obstacle: Obstacle | null = null,
): NoReply | NotAuthorized {
  if (obstacle === "refused") {
    return refused(target, "the engine", unanswered);
  }
  const { sent } = unanswered;
  const seconds = `${timeoutMs / 1000} s`;
  const [reason, message] =
    target instanceof TcpTarget
      ? atAddress(target, seconds, sent, obstacle)
      : atDirectory(target.directory, target.commands, seconds, sent);
  return new NoReply(message + outcome(unanswered), { reason, sent });
}

function outcome({ sent, writes, key }: Unanswered): string {
  const resend = key ? `, sending it again with the key ${key} cannot double it` : "";
  return sent && writes ? UNKNOWN_OUTCOME + resend : "";
}

const ASKED_NOTHING: Unanswered = { sent: false, writes: false };

/** The error for whoever is turned away by the engine, or by one of its sockets. */
export function refused(target: Target, who: string, unanswered = ASKED_NOTHING): NotAuthorized {
  const { key } = target;
  const whose = key === null ? "this client" : `this key (${key.name}, ${key.role})`;
  const place = target instanceof TcpTarget ? `${target.host}:${target.port}` : target.directory;
  const message = `${who} at ${place} refused ${whose}, or does not know it`;
  return new NotAuthorized(message + outcome(unanswered), { field: "key", reason: "key" });
}

type Finding = readonly [reason: string, message: string];

function atAddress({ host, port, key }: TcpTarget, seconds: string, sent: boolean, obstacle: Obstacle | null): Finding {
  const place = `${host}:${port}`;
  if (obstacle !== null) {
    const what = sent ? "no answer came from" : "nothing got through to";
    return ["handshake", `${what} ${place} within ${seconds}: ${trouble(obstacle, key)}`];
  }
  if (sent) {
    return ["silent", `something listens at ${place} but did not answer within ${seconds}`];
  }
  return ["unreachable", `nothing answered at ${place} within ${seconds}`];
}

/** What may be wrong where handshakes fail. */
function trouble(obstacle: Obstacle, key: AccessKey | null): string {
  if (key === null) {
    const wants = obstacle === "mechanism" ? "wants a key" : "breaks off: it may want a key, or be no engine";
    return `what listens there ${wants} (connect's option \`key\`, or ARMIN_KEY, names a key's file)`;
  }
  if (obstacle === "mechanism") {
    return `what listens there takes no keys: is it the engine that the key ${key.name} is for?`;
  }
  return `what listens there breaks off: it may be another engine than the key ${key.name} is for, or take no keys`;
}

function atDirectory(directory: string, commands: string, seconds: string, sent: boolean): Finding {
  const found = look(directory);
  if (found === null) {
    return ["no_directory", `no such directory: ${directory}`];
  }
  if (!found.isDirectory()) {
    return ["no_directory", `not a directory: ${directory} (name the one that holds the database)`];
  }
  const owner = readOwner(directory);
  if (owner === null) {
    return ["not_running", `no engine is running on ${directory} (start one with: armin serve ${directory})`];
  }
  if (STARTING.includes(owner.state)) {
    return ["recovering", `the engine (pid ${owner.pid}) is recovering ${directory}; try again when it is done`];
  }
  const there = `an engine is there (pid ${owner.pid})`;
  if (sent) {
    return ["silent", `${there} but did not answer within ${seconds}`];
  }
  const socket = commands.slice("ipc://".length);
  if (look(socket) === null) {
    const advice = "(restart the engine, which makes it anew)";
    return ["unreachable", `${there} but its socket file ${socket} is missing ${advice}`];
  }
  return ["unreachable", `${there} but took no connection at ${commands} within ${seconds}`];
}

/** Who owns the database, if that process is alive. */
function readOwner(directory: string): Owner | null {
  let text: string;
  try {
    text = readFileSync(join(directory, DATABASE_FILE + LOCK_SUFFIX), "latin1");
  } catch {
    return null; // not there, or not for us to read
  }
  const [first = "", state = ""] = text.slice(0, 256).split(/\r?\n/);
  if (!/^\s*\d+\s*$/.test(first)) {
    return null;
  }
  const pid = Number(first);
  return isAlive(pid) ? { pid, state: state.trim() } : null;
}

function isAlive(pid: number): boolean {
  if (pid < 1 || pid > 0x7fffffff) {
    return false;
  }
  try {
    process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM"; // it is somebody else's, and alive
  }
  return true;
}

/** What is at this path; null where nothing is, or the way to it is not for us to look at. */
function look(path: string): Stats | null {
  try {
    return statSync(path);
  } catch {
    return null;
  }
}

/** The error for a live socket that carries nothing while the commands socket answers. */
export function noLive(endpoint: string, timeoutMs: number): NoReply {
  const where = `its live socket ${endpoint} within ${timeoutMs / 1000} s`;
  return new NoReply(`the engine answers, but nothing came over ${where}`, { reason: "unreachable", sent: true });
}
