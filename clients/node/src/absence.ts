/** Why nobody answered: what a client can find out, and what the user should do about it. */

import { readFileSync, type Stats, statSync } from "node:fs";
import { join } from "node:path";
import { NoReply } from "./errors.js";
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

/** The error for a command that `target` left unanswered for `timeoutMs`. */
export function noReply(target: Target, timeoutMs: number, { sent, writes, key }: Unanswered): NoReply {
  const seconds = `${timeoutMs / 1000} s`;
  const [reason, message] =
    target instanceof TcpTarget
      ? atAddress(`${target.host}:${target.port}`, seconds, sent)
      : atDirectory(target.directory, target.commands, seconds, sent);
  const resend = key ? `, sending it again with the key ${key} cannot double it` : "";
  return new NoReply(message + (sent && writes ? UNKNOWN_OUTCOME + resend : ""), { reason, sent });
}

type Finding = readonly [reason: string, message: string];

function atAddress(place: string, seconds: string, sent: boolean): Finding {
  if (sent) {
    return ["silent", `something listens at ${place} but did not answer within ${seconds}`];
  }
  return ["unreachable", `nothing answered at ${place} within ${seconds}`];
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
