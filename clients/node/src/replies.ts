/** Bytes from the engine, made into results: everything is checked here, once. */

import * as errors from "./errors.js";
import { ProtocolError } from "./errors.js";
import { PROTOCOL } from "./protocol.js";
import type {
  Appended,
  AppendedMany,
  Closed,
  Event,
  EventPage,
  Health,
  Hello,
  Id,
  Message,
  MessagePage,
  Meta,
  Refreshed,
  Session,
  SessionPage,
  SnapshotPage,
  Tail,
  Tails,
} from "./results.js";
import * as wire from "./wire.js";

/** A map of the wire. */
export type Fields = Readonly<Record<string, unknown>>;

/**
 * The fields of a reply that says ok.
 *
 * @throws ArminError the reply says what went wrong, or it is none (ProtocolError).
 */
export function decode(reply: Uint8Array): Fields {
  const fields = unpackMap(reply, "reply");
  if (fields["ok"] === true) {
    return fields;
  }
  if (fields["ok"] !== false || !isMap(fields["error"])) {
    throw new ProtocolError("the reply says neither ok nor what went wrong");
  }
  const at = fields["position"];
  throw errors.fromWire(fields["error"], typeof at === "number" ? at : null);
}

/** An event as the live socket carries it behind its topic. */
export function decodeEvent(packed: Uint8Array): Event {
  return event(unpackMap(packed, "event"));
}

/** An event as the effects socket carries it. */
export function decodeEffect(frames: readonly Uint8Array[]): Event {
  const [frame] = frames;
  if (frame === undefined || frames.length !== 1) {
    throw new ProtocolError(`an effect has ${frames.length} frames, not 1`);
  }
  return decodeEvent(frame);
}

/** The fields of a heartbeat. */
export function decodeBeat(packed: Uint8Array): Fields {
  return unpackMap(packed, "heartbeat");
}

function unpackMap(packed: Uint8Array, what: string): Fields {
  let fields: unknown;
  try {
    fields = wire.decode(packed);
  } catch (error) {
    throw new ProtocolError(`the ${what} is not msgpack: ${error instanceof Error ? error.message : error}`);
  }
  if (!isMap(fields)) {
    throw new ProtocolError(`the ${what} is ${wire.kind(fields)}, not a map`);
  }
  return fields;
}

function isMap(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

// --- fields ---------------------------------------------------------------------------------------

/** A field that must be an integer which a number holds exactly: a seq, a position, a count or a time. */
export function integer(fields: Fields, name: string): number {
  const value = fields[name];
  if (typeof value === "bigint") {
    throw new ProtocolError(`\`${name}\` of the reply is beyond 2^53-1: ${value}`);
  }
  if (!Number.isInteger(value)) {
    throw new ProtocolError(`the reply has no integer \`${name}\``);
  }
  return value as number;
}

/** A field that must be an id. */
export function id(fields: Fields, name: string): Id {
  const value = fields[name];
  return typeof value === "bigint" ? value : integer(fields, name);
}

/** A field that must be a string. */
export function text(fields: Fields, name: string): string {
  const value = fields[name];
  if (typeof value !== "string") {
    throw new ProtocolError(`the reply has no string \`${name}\``);
  }
  return value;
}

/** A field that must be true or false. */
export function truth(fields: Fields, name: string): boolean {
  const value = fields[name];
  if (typeof value !== "boolean") {
    throw new ProtocolError(`the reply has no truth value \`${name}\``);
  }
  return value;
}

/** A field that must be a map. */
export function table(fields: Fields, name: string): Fields {
  const value = fields[name];
  if (!isMap(value)) {
    throw new ProtocolError(`the reply has no map \`${name}\``);
  }
  return value;
}

/** A field that must be an array. */
export function array(fields: Fields, name: string): readonly unknown[] {
  const value = fields[name];
  if (!Array.isArray(value)) {
    throw new ProtocolError(`the reply has no array \`${name}\``);
  }
  return value;
}

/** A field that must be an array of strings. */
export function texts(fields: Fields, name: string): readonly string[] {
  const items = array(fields, name);
  if (!items.every((item) => typeof item === "string")) {
    throw new ProtocolError(`\`${name}\` holds something that is not a string`);
  }
  return items;
}

/** A field that must be an array of maps, each parsed. */
export function each<T>(fields: Fields, name: string, parse: (item: Fields) => T): readonly T[] {
  return array(fields, name).map((item) => {
    if (!isMap(item)) {
      throw new ProtocolError(`\`${name}\` holds something that is not a map`);
    }
    return parse(item);
  });
}

/** A field that must be an integer, if it is there. */
export function integerOrNull(fields: Fields, name: string): number | null {
  return isThere(fields, name) ? integer(fields, name) : null;
}

/** A field that must be a string, if it is there. */
export function textOrNull(fields: Fields, name: string): string | null {
  return isThere(fields, name) ? text(fields, name) : null;
}

/** A field that must be a map, if it is there. */
export function tableOrNull(fields: Fields, name: string): Fields | null {
  return isThere(fields, name) ? table(fields, name) : null;
}

function isThere(fields: Fields, name: string): boolean {
  return fields[name] !== undefined && fields[name] !== null;
}

function meta(fields: Fields): Meta | null {
  return tableOrNull(fields, "meta") as Meta | null;
}

// --- results --------------------------------------------------------------------------------------

/** One message; one that was elided has no content and no meta. */
export function message(fields: Fields): Message {
  const elided = fields["elided"] === true;
  return {
    id: id(fields, "id"),
    sessionId: id(fields, "session_id"),
    seq: integer(fields, "seq"),
    role: text(fields, "role"),
    content: elided ? "" : text(fields, "content"),
    createdAt: integer(fields, "created_at"),
    meta: meta(fields),
    elided,
  };
}

/** One committed fact, of a type known or not. */
export function event(fields: Fields): Event {
  const inner = tableOrNull(fields, "message");
  const appended = inner === null ? null : message(inner);
  return {
    position: integer(fields, "position"),
    type: text(fields, "type"),
    sessionId: id(fields, "session_id"),
    message: appended,
    createdAt: appended === null ? integerOrNull(fields, "created_at") : appended.createdAt,
    name: textOrNull(fields, "name"),
    meta: meta(fields),
  };
}

function oneSession(fields: Fields, at: number, isDuplicate = false): Session {
  return {
    id: id(fields, "id"),
    name: textOrNull(fields, "name"),
    closed: truth(fields, "closed"),
    createdAt: integer(fields, "created_at"),
    seq: integer(fields, "seq"),
    meta: meta(fields),
    position: at,
    duplicate: isDuplicate,
  };
}

/** Whether it was done before. */
export function duplicate(fields: Fields): boolean {
  return fields["duplicate"] === true;
}

/** Reply of `ping` and `sync`. */
export function position(fields: Fields): number {
  return integer(fields, "position");
}

/**
 * Reply of `hello`.
 *
 * @throws ProtocolError the engine speaks another version of the protocol.
 */
export function hello(fields: Fields): Hello {
  const spoken = text(fields, "protocol");
  if (spoken !== PROTOCOL) {
    throw new ProtocolError(`the engine speaks ${JSON.stringify(spoken.slice(0, 40))}, this client "${PROTOCOL}"`);
  }
  return {
    protocol: spoken,
    version: text(fields, "version"),
    features: texts(fields, "features"),
    database: text(fields, "database"),
    epoch: text(fields, "epoch"),
    engine: text(fields, "engine"),
    endpoints: table(fields, "endpoints"),
    limits: table(fields, "limits") as Readonly<Record<string, number>>,
    durability: table(fields, "durability"),
    role: textOrNull(fields, "role"),
    position: position(fields),
  };
}

/** Reply of `session` and `create_session`. */
export function session(fields: Fields): Session {
  return oneSession(table(fields, "session"), position(fields), duplicate(fields));
}

/** Reply of `append`. */
export function appended(fields: Fields): Appended {
  return {
    id: id(fields, "id"),
    seq: integer(fields, "seq"),
    at: integer(fields, "at"),
    createdAt: integer(fields, "created_at"),
    position: position(fields),
    duplicate: duplicate(fields),
  };
}

/** Reply of `append_many`. */
export function appendedMany(fields: Fields): AppendedMany {
  return {
    firstId: id(fields, "first_id"),
    firstSeq: integer(fields, "first_seq"),
    firstAt: integer(fields, "first_at"),
    count: integer(fields, "count"),
    createdAt: integer(fields, "created_at"),
    position: position(fields),
    duplicate: duplicate(fields),
  };
}

/** Reply of `close_session`. */
export function closed(fields: Fields): Closed {
  return { at: integer(fields, "at"), position: position(fields), duplicate: duplicate(fields) };
}

/** Reply of `sessions`. */
export function sessionPage(fields: Fields): SessionPage {
  const at = position(fields);
  const sessions = each(fields, "sessions", (item) => oneSession(item, at));
  return { sessions, more: truth(fields, "more"), position: at };
}

/** Reply of `read`. */
export function messagePage(fields: Fields): MessagePage {
  return {
    messages: each(fields, "messages", message),
    more: truth(fields, "more"),
    seq: integer(fields, "seq"),
    closed: truth(fields, "closed"),
    position: position(fields),
  };
}

/** Reply of `snapshot` and `delta`. */
export function snapshotPage(fields: Fields): SnapshotPage {
  return {
    messages: each(fields, "messages", message),
    more: truth(fields, "more"),
    snapshotPosition: integer(fields, "snapshot_position"),
    snapshotSeq: integer(fields, "snapshot_seq"),
    position: position(fields),
  };
}

/** Reply of `refresh_snapshot`. */
export function refreshed(fields: Fields): Refreshed {
  return { snapshotPosition: integer(fields, "snapshot_position"), position: position(fields) };
}

/** Reply of `log`. */
export function eventPage(fields: Fields): EventPage {
  return { events: each(fields, "events", event), more: truth(fields, "more"), position: position(fields) };
}

/** Reply of `tails`. */
export function tails(fields: Fields): Tails {
  return { tails: array(fields, "tails").map(tail), position: position(fields) };
}

function tail(item: unknown): Tail {
  if (!Array.isArray(item) || item.length !== 3) {
    throw new ProtocolError("`tails` holds something that is not [session_id, seq, closed]");
  }
  const [sessionId, seq, isClosed]: unknown[] = item;
  const fields = { session_id: sessionId, seq, closed: isClosed };
  return { sessionId: id(fields, "session_id"), seq: integer(fields, "seq"), closed: truth(fields, "closed") };
}

/** Reply of `stats`: counters and gauges by name, as the engine names them. */
export function statistics(fields: Fields): Fields {
  return Object.fromEntries(Object.entries(fields).filter(([name]) => name !== "ok"));
}

/** Reply of `health`. */
export function health(fields: Fields): Health {
  return {
    live: truth(fields, "live"),
    ready: truth(fields, "ready"),
    state: text(fields, "state"),
    reasons: texts(fields, "reasons"),
    position: position(fields),
  };
}
