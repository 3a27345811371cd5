/** The client as a speaker of the vectors: a command becomes a call, a result becomes a reply. */

import { ArminError, type Client, type Id } from "../../src/index.js";
import { OPS, type Op } from "../../src/protocol.js";
import { holdsOdd } from "./values.js";

/** The fields of a reply, as the client shows them; `hidden` are those that it does not show. */
export interface Said {
  readonly fields: Record<string, unknown>;
  readonly hidden: readonly string[];
}

type Given = Record<string, unknown>;

/** The client asks on by itself until a comparison or a backup is done, and sends each write alone. */
export const UNSPOKEN: ReadonlySet<string> = new Set(["verify", "backup", "pipeline"]);

/** Says each command that it has a method for; `spoken` are the ops that it did. */
export class Speaker {
  readonly client: Client;
  readonly spoken = new Set<string>();

  constructor(client: Client) {
    this.client = client;
  }

  /** What the client makes of a command; undefined where it has no way to send it. */
  async ask(command: Given): Promise<Said | undefined> {
    const { op, ...fields } = command;
    if (!isOp(op) || !canSay(op, fields)) {
      return undefined;
    }
    try {
      const result = await call(this.client, op, fields);
      this.spoken.add(op);
      return said(op, result);
    } catch (error) {
      if (error instanceof ArminError) {
        return saidError(error);
      }
      throw error;
    }
  }
}

function isOp(op: unknown): op is Op {
  return typeof op === "string" && Object.hasOwn(OPS, op) && !UNSPOKEN.has(op);
}

function canSay(op: Op, fields: Given): boolean {
  const { required, optional } = OPS[op] as { required: readonly string[]; optional: readonly string[] };
  const known = [...required, ...optional].filter((name) => name !== "after_key");
  const names = Object.keys(fields);
  const hasAll = required.every((name) => names.includes(name)) && names.every((name) => known.includes(name));
  return hasAll && !holdsOdd(fields) && !isTakenOtherwise(op, fields);
}

/** Where the client's types leave no room for a value, or its method for two fields at once. */
function isTakenOtherwise(op: Op, fields: Given): boolean {
  if (op === "session") {
    return isGiven(fields["session_id"]) === isGiven(fields["name"]);
  }
  if (op === "create_group" && !isGiven(fields["start"])) {
    return true; // the client's own default
  }
  const leases = fields["leases"];
  return Array.isArray(leases) && leases.some((lease) => typeof lease !== "string");
}

function isGiven(value: unknown): boolean {
  return value !== undefined && value !== null;
}

/** Fields of the wire as options: `lease_ms` is `leaseMs`, and nil is not given. */
function options(fields: Given): Given {
  const entries = Object.entries(fields).filter(([, value]) => isGiven(value));
  return Object.fromEntries(entries.map(([name, value]) => [camel(name), value]));
}

function camel(name: string): string {
  return name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
}

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** Fields that a method takes by place; the rest are its options. */
const BY_PLACE: Readonly<Partial<Record<Op, readonly string[]>>> = {
  append: ["session_id", "role", "content"],
  append_many: ["session_id", "messages"],
  close_session: ["session_id"],
  tails: ["session_ids"],
  read: ["session_id"],
  snapshot: ["session_id"],
  delta: ["session_id"],
  sync: ["token"],
  create_group: ["group"],
  lease: ["group"],
  ack: ["group", "leases"],
  nack: ["group", "leases"],
  extend: ["group", "leases"],
  dead_letters: ["group"],
  requeue: ["group"],
  discard: ["group"],
  drop_group: ["group"],
};

function call(client: Client, op: Op, fields: Given): Promise<unknown> {
  if (op === "session") {
    const { session_id: id, name } = fields;
    return client.session(isGiven(id) ? (id as Id) : { name: name as string });
  }
  const places = BY_PLACE[op] ?? [];
  const rest = Object.fromEntries(Object.entries(fields).filter(([name]) => !places.includes(name)));
  const method = client[camel(op) as "append"] as (...args: unknown[]) => Promise<unknown>;
  return method.apply(client, [...places.map((name) => fields[name]), options(rest)]);
}

// --- results as replies ---------------------------------------------------------------------------

function saidError(error: ArminError): Said {
  const { code, message, field, limit, reason, retry, key, position } = error;
  const sent = "sent" in error ? error.sent : null;
  const fields = onWire({ code, message, field, limit, reason, key, sent, position }) as Given;
  const reply = { ok: false, error: { ...fields, retry, kind: error.name } };
  return position === null
    ? { fields: reply, hidden: ["position"] } // the client refused it without asking
    : { fields: { ...reply, position }, hidden: [] };
}

/** How a result that is no map of fields stands in its reply. */
const NAMED: Readonly<Partial<Record<Op, string>>> = {
  ping: "position",
  sync: "position",
  requeue: "requeued",
  discard: "discarded",
  drop_group: "dropped",
  groups: "groups",
};

function said(op: Op, result: unknown): Said {
  const fields = op === "stats" ? (result as Given) : (shaped(op, result) as Given);
  return { fields: { ok: true, ...fields }, hidden: "position" in fields ? [] : ["position"] };
}

function shaped(op: Op, result: unknown): unknown {
  const name = NAMED[op];
  const fields = onWire(name === undefined ? result : { [name]: result }) as Given;
  if (op === "session" || op === "create_session" || op === "create_group") {
    const { position, duplicate, ...rest } = fields;
    return given({ [op === "create_group" ? "group" : "session"]: rest, position, duplicate });
  }
  if (op === "tails") {
    const tails = fields["tails"] as Given[];
    return { ...fields, tails: tails.map((tail) => Object.values(tail)) };
  }
  return fields;
}

function given(fields: Given): Given {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}

/** Flags that are only there where they are true. */
const FLAGS: ReadonlySet<string> = new Set(["duplicate", "dead", "elided"]);

/** A result as the wire has it: names with underscores, what is null left out. A meta is left as it is. */
function onWire(value: unknown): unknown {
  if (Array.isArray(value)) {
    return value.map(onWire);
  }
  if (value instanceof ArminError) {
    return { code: value.code, message: value.message, retry: value.retry };
  }
  if (typeof value !== "object" || value === null) {
    return value;
  }
  const fields = Object.entries(value)
    .filter(([name, item]) => item !== null && !(FLAGS.has(name) && item === false))
    .map(([name, item]) => [snake(name), name === "meta" ? item : onWire(item)]);
  const { elided, content, ...rest } = Object.fromEntries(fields) as Given;
  return elided === true ? { ...rest, elided } : content === undefined ? rest : { ...rest, content };
}
