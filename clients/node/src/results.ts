/**
 * What the client gives back: one shape for each on the wire, to be read and not to be changed.
 *
 * Times are integer milliseconds since the Unix epoch, UTC. `position` is a place in the log of the whole
 * database, from 1, dense; on a result that does not describe one fact it is the last committed position
 * when the engine answered. What is not there is null.
 */

import type { ArminError } from "./errors.js";

/** An id from 1 to 2^63-1: a number where that is exact (to 2^53-1), else a bigint; so `===` compares ids. */
export type Id = number | bigint;

/** A seq or a position to go on from. */
export type Cursor = number | bigint;

/** `user`, `assistant`, `system` or `tool`. */
export type Role = "user" | "assistant" | "system" | "tool" | (string & {});

/** `session_created`, `message_appended` or `session_closed`. */
export type EventType = "session_created" | "message_appended" | "session_closed" | (string & {});

/** A value in a meta. Integers beyond 2^53-1 are bigints. */
export type MetaValue = string | number | bigint | boolean | null | MetaValue[] | Meta;

/** What a caller attached to a session or a message, as it was given. */
export type Meta = { [key: string]: MetaValue };

/** A meta to be sent: JSON values, and bigints of 64 bits. Properties that are undefined are left out. */
export type NewMeta = { readonly [key: string]: unknown };

/** A message to be appended. */
export interface NewMessage {
  readonly role: Role;
  readonly content: string;
  readonly meta?: NewMeta | undefined;
}

/**
 * A committed message. `seq` is its place in its session, from 1, dense.
 *
 * `elided` is true only inside an event whose content was too large for a stream: then `content` is empty
 * and `meta` null, and `read` has both.
 */
export interface Message {
  readonly id: Id;
  readonly sessionId: Id;
  readonly seq: number;
  readonly role: Role;
  readonly content: string;
  readonly createdAt: number;
  readonly meta: Meta | null;
  readonly elided: boolean;
}

/**
 * A session as it stood at `position`. `seq` is its last message's, 0 if it has none.
 *
 * `duplicate` is true only where `createSession` found a session of this name, or this key was used before.
 */
export interface Session {
  readonly id: Id;
  readonly name: string | null;
  readonly closed: boolean;
  readonly createdAt: number;
  readonly seq: number;
  readonly meta: Meta | null;
  readonly position: number;
  readonly duplicate: boolean;
}

/** One message is on disk: its id, its seq in the session, and `at`, its position in the log. */
export interface Appended {
  readonly id: Id;
  readonly seq: number;
  readonly at: number;
  readonly createdAt: number;
  readonly position: number;
  readonly duplicate: boolean;
}

/** `count` messages are on disk; their ids, seqs and positions run up from the first ones. */
export interface AppendedMany {
  readonly firstId: Id;
  readonly firstSeq: number;
  readonly firstAt: number;
  readonly count: number;
  readonly createdAt: number;
  readonly position: number;
  readonly duplicate: boolean;
}

/** The session is closed. `at` is the position of its closure; `duplicate` if it was closed before. */
export interface Closed {
  readonly at: number;
  readonly position: number;
  readonly duplicate: boolean;
}

/** Sessions by ascending id. `more` says whether others follow in the paging direction. */
export interface SessionPage {
  readonly sessions: readonly Session[];
  readonly more: boolean;
  readonly position: number;
}

/**
 * Messages by ascending seq. `seq` is the session's last, `closed` its state at `position`.
 *
 * `more` says whether others follow in the paging direction.
 */
export interface MessagePage {
  readonly messages: readonly Message[];
  readonly more: boolean;
  readonly seq: number;
  readonly closed: boolean;
  readonly position: number;
}

/**
 * Messages of the snapshot, or of what came after it (`delta`), by ascending seq.
 *
 * `snapshotPosition` is the log position that the snapshot stands at, `snapshotSeq` the seq of the session's
 * last message in it, 0 if it has none there.
 */
export interface SnapshotPage {
  readonly messages: readonly Message[];
  readonly more: boolean;
  readonly snapshotPosition: number;
  readonly snapshotSeq: number;
  readonly position: number;
}

/** The snapshot now stands at `snapshotPosition`. */
export interface Refreshed {
  readonly snapshotPosition: number;
  readonly position: number;
}

/**
 * One committed fact.
 *
 * `message` is there for an append, `name` and `meta` (the session's) for a creation where it has them.
 * `createdAt` is the session's or the message's; null for a closure.
 */
export interface Event {
  readonly position: number;
  readonly type: EventType;
  readonly sessionId: Id;
  readonly message: Message | null;
  readonly createdAt: number | null;
  readonly name: string | null;
  readonly meta: Meta | null;
}

/** Events by ascending position. `more` says whether others follow. */
export interface EventPage {
  readonly events: readonly Event[];
  readonly more: boolean;
  readonly position: number;
}

/** Where a session ends: the seq of its last message (0 if it has none) and whether it is closed. */
export interface Tail {
  readonly sessionId: Id;
  readonly seq: number;
  readonly closed: boolean;
}

/** The tails asked for, in the order asked. */
export interface Tails {
  readonly tails: readonly Tail[];
  readonly position: number;
}

/** How a `follow` stands, as its `onState` is told. */
export const FollowState = {
  /** Reading what is on disk: at the start, and after a loss or a restart. */
  CATCHING_UP: "catching up",
  /** All that there was is delivered; what comes is delivered as it comes. */
  LIVE: "live",
  /** The engine said goodbye, was not heard for 3 s, or does not answer; waiting for it. */
  ENGINE_GONE: "engine gone",
} as const;

export type FollowState = (typeof FollowState)[keyof typeof FollowState];

/**
 * What the engine says of itself.
 *
 * `features` lists what it can do beyond the first version of the protocol. `database` is the file's random
 * id, `epoch` is renewed by a restore, `engine` at every start. `endpoints` has a key `ipc`, `tcp` or both,
 * each a map of `commands`, `live` and `effects` to a file path or a port. `limits` are counts and bytes,
 * named as in docs/protocol.md. `role` is what this client may do: `reader`, `writer`, `worker` or `admin`; null
 * where the engine does not say.
 */
export interface Hello {
  readonly protocol: string;
  readonly version: string;
  readonly features: readonly string[];
  readonly database: string;
  readonly epoch: string;
  readonly engine: string;
  readonly endpoints: Readonly<Record<string, unknown>>;
  readonly limits: Readonly<Record<string, number>>;
  readonly durability: Readonly<Record<string, unknown>>;
  readonly role: string | null;
  readonly position: number;
}

/** What a key file holds. `server` is the engine's public key, so that nobody can pass for the engine. */
export interface KeyContent {
  readonly armin_key: number;
  readonly name: string;
  readonly role: string;
  readonly public: string;
  readonly secret: string;
  readonly server: string;
}

/**
 * Whether the engine can do its work: `ready`, or the `reasons` why not.
 *
 * `state` is `serving`, `degraded` or `refusing_writes`; later engines may know others.
 */
export interface Health {
  readonly live: boolean;
  readonly ready: boolean;
  readonly state: string;
  readonly reasons: readonly string[];
  readonly position: number;
}

/**
 * A backup that was made and verified: the file's `name` among the engine's backups and its size in `bytes`.
 *
 * It holds the log up to `position`; `head` is the digest chain's head there, `POSITION:DIGEST`.
 */
export interface BackupReport {
  readonly name: string;
  readonly bytes: number;
  readonly position: number;
  readonly head: string;
  readonly durationMs: number;
}

/** A row of the log that is not as it should be; 0 where a session, message or seq does not apply. */
export interface BadRow {
  readonly position: number;
  readonly sessionId: Id;
  readonly messageId: Id;
  readonly seq: number;
}

/**
 * Memory compared with the file at `position`: `checked` facts, and in words what differs.
 *
 * Of many differences the last entry says how many more there are. `head` is the digest chain's head,
 * `POSITION:DIGEST`, to be kept elsewhere; null if the log could not be read to its end. `firstBad` is the
 * first row that is wrong, where a difference is about one.
 */
export interface VerifyReport {
  readonly equal: boolean;
  readonly position: number;
  readonly checked: number;
  readonly differences: readonly string[];
  readonly head: string | null;
  readonly firstBad: BadRow | null;
}

/**
 * A worker group: its settings, and how it stands.
 *
 * `types` are the event types that it takes. `cursor` is a position: every fact up to it was taken or passed
 * over; `behind` counts those after it. Of the taken ones, `waiting` have no worker at the moment, `leased`
 * have one; `dead` are dead letters. `halted` is a group with `onDead: "halt"` that has one. `pollers` wait
 * for something to do. `duplicate` is true only where `createGroup` found it there.
 */
export interface Group {
  readonly group: string;
  readonly start: string;
  readonly types: readonly EventType[];
  readonly ordered: boolean;
  readonly maxAttempts: number;
  readonly backoffMs: number;
  readonly onDead: string;
  readonly createdAt: number;
  readonly cursor: number;
  readonly behind: number;
  readonly waiting: number;
  readonly leased: number;
  readonly dead: number;
  readonly halted: boolean;
  readonly pollers: number;
  readonly duplicate: boolean;
}

/**
 * One effect, ours until `until` (milliseconds since the epoch, the engine's clock).
 *
 * `lease` is opaque: `ack`, `nack` and `extend` take it. `attempt` counts from 1; above it the effect was
 * leased before, and may have been handled.
 */
export interface Lease {
  readonly lease: string;
  readonly position: number;
  readonly attempt: number;
  readonly until: number;
  readonly event: Event;
}

/** What `lease` gave, by position; empty if there was nothing within the wait. */
export interface Leases {
  readonly leases: readonly Lease[];
  readonly position: number;
}

/**
 * What became of one lease in `ack`, `nack` or `extend`; `error` says why if not `ok`.
 *
 * `duplicate` if it was acked before, `dead` if the nack made a dead letter of its effect, `until` the new
 * end of an extended lease.
 */
export interface Outcome {
  readonly lease: string;
  readonly ok: boolean;
  readonly duplicate: boolean;
  readonly dead: boolean;
  readonly until: number | null;
  readonly error: ArminError | null;
}

/** One outcome for each lease, in the order given. */
export interface Outcomes {
  readonly outcomes: readonly Outcome[];
  readonly position: number;
}

/** An effect that was given up after `attempts`; `reason` is what the last nack said. */
export interface DeadLetter {
  readonly position: number;
  readonly attempts: number;
  readonly reason: string | null;
  readonly diedAt: number;
  readonly event: Event;
}

/** Dead letters by ascending position. `more` says whether others follow. */
export interface DeadLetterPage {
  readonly deadLetters: readonly DeadLetter[];
  readonly more: boolean;
  readonly position: number;
}
