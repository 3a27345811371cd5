/** What can be asked of the engine: each function makes one call, without sending it. */

import { BadRequest, TooLarge } from "./errors.js";
import { difference, type Head } from "./heads.js";
import { newKey } from "./keys.js";
import { COMMAND_BYTES_MAX, type Op } from "./protocol.js";
import * as replies from "./replies.js";
import type {
  Appended,
  AppendedMany,
  BackupReport,
  BadRow,
  Closed,
  Cursor,
  EventPage,
  Health,
  Hello,
  Id,
  MessagePage,
  NewMessage,
  NewMeta,
  Refreshed,
  Role,
  Session,
  SessionPage,
  SnapshotPage,
  Tails,
  VerifyReport,
} from "./results.js";
import * as wire from "./wire.js";

const WRITES: ReadonlySet<Op> = new Set<Op>([
  ...(["create_session", "append", "append_many", "close_session"] as const),
  ...(["create_group", "lease", "ack", "nack", "extend", "requeue", "discard", "drop_group"] as const),
]);

/** Writes with a key, or that need none. */
const KEYED: ReadonlySet<Op> = new Set<Op>(["create_session", "append", "append_many", "close_session"]);

/** Writes in order within their session. */
const IN_LINE: ReadonlySet<Op> = new Set<Op>(["append", "append_many", "close_session"]);

/** What a worker sends again by itself, or what another answer comes of the second time. */
const ONCE: ReadonlySet<Op> = new Set<Op>([
  ...(["backup", "lease", "nack", "extend", "requeue", "discard", "drop_group"] as const),
]);

/** Fields of a command; those that are undefined or null were not given and are not sent. */
export type Given = Readonly<Record<string, unknown>>;

/** One command and how to read its reply. */
export class Call<T> {
  readonly op: Op;
  readonly fields: Given;
  readonly parse: (fields: replies.Fields) => T;

  constructor(op: Op, fields: Given, parse: (fields: replies.Fields) => T) {
    this.op = op;
    this.fields = fields;
    this.parse = parse;
  }

  /** Whether it would change anything. */
  get writes(): boolean {
    return WRITES.has(this.op);
  }

  /** The idempotency key of a write that has one. */
  get key(): string | null {
    const key = this.fields["key"];
    return typeof key === "string" ? key : null;
  }

  /** Whether it may wait for the next engine where this one is shutting down. */
  get outlasts(): boolean {
    return KEYED.has(this.op);
  }

  /** The session whose writes stand in line with this one. */
  get line(): Id | null {
    const sessionId = IN_LINE.has(this.op) ? this.fields["session_id"] : null;
    return typeof sessionId === "number" || typeof sessionId === "bigint" ? wire.canonical(sessionId) : null;
  }

  /** Whether it closes its session, which a key is not needed for. */
  get closes(): boolean {
    return this.op === "close_session";
  }

  /** Whether it may be sent again without doing anything twice. */
  get repeatable(): boolean {
    return !ONCE.has(this.op) || this.fields["job"] !== undefined;
  }

  /**
   * The command as it goes over the wire.
   *
   * @throws BadRequest a value that cannot be sent as it is; `field` names it.
   * @throws TooLarge the engine would close the connection instead of answering.
   */
  encode(): Uint8Array {
    const given = Object.entries(this.fields).filter(([, value]) => value !== undefined && value !== null);
    for (const [name, value] of given) {
      refuseFaults(name, value);
    }
    const packed = wire.encode({ op: this.op, ...Object.fromEntries(given) });
    if (packed.length > COMMAND_BYTES_MAX) {
      throw tooLarge(given, packed.length);
    }
    return packed;
  }

  /**
   * The result that a reply holds.
   *
   * @throws ArminError what the reply says went wrong, or ProtocolError.
   */
  decode(reply: Uint8Array): T {
    return this.parse(replies.decode(reply));
  }
}

function refuseFaults(name: string, value: unknown): void {
  if (name === "messages" && Array.isArray(value)) {
    for (const [index, message] of value.entries()) {
      refuseMessageFaults(`messages[${index}]`, message);
    }
    return;
  }
  const found = wire.fault(value) ?? (name === "meta" ? null : inexact(value));
  if (found) {
    throw new BadRequest(`${name} cannot be sent: ${found}`, { field: name });
  }
}

function refuseMessageFaults(name: string, message: unknown): void {
  for (const [field, value] of Object.entries(message as object)) {
    const found = wire.fault(value);
    if (found !== undefined && value !== undefined) {
      throw new BadRequest(`${name}.${field} cannot be sent: ${found}`, { field: `${name}.${field}` });
    }
  }
}

/** An id or a cursor that a number may have rounded already. In a meta, such a number is a float. */
function inexact(value: unknown): string | null {
  const numbers = Array.isArray(value) ? value : [value];
  const rounded = numbers.find((number) => Number.isInteger(number) && !Number.isSafeInteger(number));
  return rounded === undefined ? null : `${rounded} is no exact integer; give one beyond 2^53-1 as a bigint`;
}

function tooLarge(given: readonly [string, unknown][], size: number): TooLarge {
  const sizes = given.map(([name, value]) => [name, wire.encode(value).length] as const);
  const [field] = sizes.reduce((heaviest, one) => (one[1] > heaviest[1] ? one : heaviest));
  const message = `the command is ${size} bytes, over the limit of ${COMMAND_BYTES_MAX}`;
  return new TooLarge(message, { field, limit: COMMAND_BYTES_MAX });
}

// --- the engine -----------------------------------------------------------------------------------

/** Who the engine is and what it can do. */
export function hello(): Call<Hello> {
  return new Call("hello", {}, replies.hello);
}

/** Whether it answers. */
export function ping(): Call<number> {
  return new Call("ping", {}, replies.position);
}

/** Ask for `token` on the live socket. */
export function sync(token: string): Call<number> {
  return new Call("sync", { token }, replies.position);
}

/** Counters and gauges. */
export function stats(): Call<replies.Fields> {
  return new Call("stats", {}, replies.statistics);
}

/** Whether the engine can do its work. */
export function health(): Call<Health> {
  return new Call("health", {}, replies.health);
}

/** Begin a backup under this name, or ask how one gets on. */
export function backup({ name, job }: { name?: string | undefined; job?: number } = {}): Call<replies.Fields> {
  return new Call("backup", { name, job }, (fields) => fields);
}

/** Fold the delta into the next snapshot. */
export function refreshSnapshot(): Call<Refreshed> {
  return new Call("refresh_snapshot", {}, replies.refreshed);
}

/** Begin a comparison of memory and file, or ask how one gets on. */
export function verify(job?: number, expect?: Head): Call<replies.Fields> {
  return new Call("verify", { job, at: expect?.position }, (fields) => fields);
}

// --- writes ---------------------------------------------------------------------------------------

/** What may be said of a new session. */
export interface CreateSessionFields {
  readonly name?: string | undefined;
  readonly meta?: NewMeta | undefined;
  readonly key?: string | undefined;
}

/** Create a session, or find the one of this name. */
export function createSession({ name, meta, key }: CreateSessionFields = {}): Call<Session> {
  return new Call("create_session", { name, meta: plainMeta(meta, "meta"), key: key ?? newKey() }, replies.session);
}

/** What may be said of an append. */
export interface AppendFields {
  readonly meta?: NewMeta | undefined;
  readonly expectSeq?: Cursor | undefined;
  readonly key?: string | undefined;
}

/** Append one message. */
export function append(sessionId: Id, role: Role, content: string, options: AppendFields = {}): Call<Appended> {
  const fields = {
    session_id: sessionId,
    role,
    content,
    meta: plainMeta(options.meta, "meta"),
    expect_seq: options.expectSeq,
    key: options.key ?? newKey(),
  };
  return new Call("append", fields, replies.appended);
}

/** What may be said of a batch. */
export interface AppendManyFields {
  readonly expectSeq?: Cursor | undefined;
  readonly key?: string | undefined;
}

/** Append messages to one session, all or nothing. */
export function appendMany(
  sessionId: Id,
  messages: Iterable<NewMessage>,
  { expectSeq, key }: AppendManyFields = {},
): Call<AppendedMany> {
  const batch = iterated(messages, "messages").map(newMessage);
  const fields = { session_id: sessionId, messages: batch, expect_seq: expectSeq, key: key ?? newKey() };
  return new Call("append_many", fields, replies.appendedMany);
}

function newMessage(message: unknown, index: number): Given {
  const name = `messages[${index}]`;
  if (typeof message !== "object" || message === null || Array.isArray(message)) {
    throw new BadRequest(`${name} is ${wire.kind(message)}, not a map`, { field: name });
  }
  const { meta, ...fields } = message as NewMessage;
  return meta === undefined || meta === null ? fields : { ...fields, meta: plainMeta(meta, `${name}.meta`) };
}

function plainMeta(meta: unknown, field: string): NewMeta | undefined {
  if (meta === undefined || meta === null) {
    return undefined;
  }
  if (!wire.isPlain(meta)) {
    throw new BadRequest(`${field} is ${wire.kind(meta)}, not a plain object`, { field });
  }
  return meta;
}

/** The items of whatever can be iterated, a string excepted. */
export function iterated<T>(items: Iterable<T>, field: string): T[] {
  if (typeof items === "string") {
    throw new BadRequest(`${field} is one string, not several; put it in an array`, { field });
  }
  if (typeof items !== "object" || items === null || typeof items[Symbol.iterator] !== "function") {
    throw new BadRequest(`${field} is ${wire.kind(items)}, not an array`, { field });
  }
  return [...items];
}

/** Close a session for good. */
export function closeSession(sessionId: Id): Call<Closed> {
  return new Call("close_session", { session_id: sessionId }, replies.closed);
}

// --- reads ----------------------------------------------------------------------------------------

/** One session, by id or by name. */
export function session(which: Id | { name: string }): Call<Session> {
  const fields = typeof which === "object" && which !== null ? { name: which.name } : { session_id: which };
  return new Call("session", fields, replies.session);
}

/** Which sessions. */
export interface SessionsFields {
  readonly after?: Id | undefined;
  readonly before?: Id | undefined;
  readonly limit?: number | undefined;
  readonly closed?: boolean | undefined;
}

/** A page of sessions. */
export function sessions({ after, before, limit, closed }: SessionsFields = {}): Call<SessionPage> {
  return new Call("sessions", { after, before, limit, closed }, replies.sessionPage);
}

/** Where sessions end. */
export function tails(sessionIds: Iterable<Id>): Call<Tails> {
  return new Call("tails", { session_ids: iterated(sessionIds, "session_ids") }, replies.tails);
}

/** Which messages; `reason` is "heal" where the live socket lost something. */
export interface ReadFields {
  readonly after?: Cursor | undefined;
  readonly before?: Cursor | undefined;
  readonly limit?: number | undefined;
  readonly reason?: string | undefined;
  readonly epoch?: string | undefined;
}

/** A page of a session's messages. */
export function read(sessionId: Id, { after, before, limit, reason, epoch }: ReadFields = {}): Call<MessagePage> {
  return new Call("read", { session_id: sessionId, after, before, limit, reason, epoch }, replies.messagePage);
}

/** Where a page begins and what it holds at most. */
export interface PageFields {
  readonly after?: Cursor | undefined;
  readonly limit?: number | undefined;
}

/** A page of what the snapshot holds of a session. */
export function snapshot(sessionId: Id, { after, limit }: PageFields = {}): Call<SnapshotPage> {
  return new Call("snapshot", { session_id: sessionId, after, limit }, replies.snapshotPage);
}

/** Which part of the delta, and of which one. */
export interface DeltaFields extends PageFields {
  readonly snapshotPosition?: Cursor | undefined;
}

/** A page of what a session gained since the snapshot. */
export function delta(sessionId: Id, { after, limit, snapshotPosition }: DeltaFields = {}): Call<SnapshotPage> {
  const fields = { session_id: sessionId, after, limit, snapshot_position: snapshotPosition };
  return new Call("delta", fields, replies.snapshotPage);
}

/** Which part of the log. */
export interface LogFields extends PageFields {
  readonly epoch?: string | undefined;
}

/** A page of the whole log. */
export function log({ after, limit, epoch }: LogFields = {}): Call<EventPage> {
  return new Call("log", { after, limit, epoch }, replies.eventPage);
}

// --- verify and backup ---------------------------------------------------------------------------

/** The report of a backup that is done, null for one that goes on. */
export function backupReport(state: replies.Fields): BackupReport | null {
  if (state["done"] !== true) {
    return null;
  }
  return {
    name: replies.text(state, "name"),
    bytes: replies.integer(state, "bytes"),
    position: replies.integer(state, "backup_position"),
    head: replies.text(state, "head"),
    durationMs: replies.integer(state, "duration_ms"),
  };
}

/** Told how far a comparison is: facts checked, and their total. */
export type Progress = (checked: number, total: number) => unknown;

/** The report of a comparison that is done, null for one that goes on; tells `progress` either way. */
export function verifyReport(state: replies.Fields, progress?: Progress, expect?: Head): VerifyReport | null {
  if (progress !== undefined && "total" in state) {
    progress(replies.integer(state, "checked"), replies.integer(state, "total"));
  }
  return state["done"] === true ? report(state, expect) : null;
}

function report(state: replies.Fields, expect: Head | undefined): VerifyReport {
  const position = replies.integer(state, "verified_position" in state ? "verified_position" : "position");
  const lacking = expect === undefined ? null : difference(expect, position, replies.textOrNull(state, "digest"));
  const differences = saidDifferences(state);
  return {
    equal: replies.truth(state, "equal") && lacking === null,
    position,
    checked: replies.integer(state, "checked"),
    differences: lacking === null ? differences : [...differences, lacking],
    head: replies.textOrNull(state, "head"),
    firstBad: badRow(replies.tableOrNull(state, "first_bad")),
  };
}

/** The engine sends no more than so many differences, and their count. */
function saidDifferences(state: replies.Fields): string[] {
  const differences = replies.array(state, "differences").map(String);
  const unsaid = (replies.integerOrNull(state, "differences_count") ?? 0) - differences.length;
  return unsaid > 0 ? [...differences, `and ${unsaid.toLocaleString("en-US")} more`] : differences;
}

function badRow(row: replies.Fields | null): BadRow | null {
  if (row === null) {
    return null;
  }
  return {
    position: replies.integer(row, "position"),
    sessionId: replies.id(row, "session_id"),
    messageId: replies.id(row, "message_id"),
    seq: replies.integer(row, "seq"),
  };
}
