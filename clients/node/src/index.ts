/**
 * Armin's client: durable ordered conversations, shared by many processes.
 *
 *     import { connect } from "armin";
 *
 *     const client = connect("DIR");
 *     const session = await client.createSession();
 *     await client.append(session.id, "user", "hello");
 *     await client.close();
 */

export type { Progress } from "./calls.js";
export {
  type AfterOptions,
  type AppendManyOptions,
  type AppendOptions,
  type BackupOptions,
  Client,
  type ConnectOptions,
  type CreateSessionOptions,
  connect,
  type DeltaOptions,
  type EffectsOptions,
  type FollowAllOptions,
  type FollowOptions,
  type LogOptions,
  type PageOptions,
  type ReadOptions,
  type SessionsOptions,
  type VerifyOptions,
} from "./client.js";
export { type Counters, type Effect, Retry } from "./effect.js";
export {
  ArminError,
  BadRequest,
  ClientClosed,
  Conflict,
  CursorInvalid,
  GroupNotFound,
  InternalError,
  LeaseLost,
  NoReply,
  NotAuthorized,
  ProtocolError,
  SessionClosed,
  SessionNotFound,
  ShuttingDown,
  StorageFailed,
  TargetError,
  TooLarge,
  UnknownOp,
} from "./errors.js";
export type { LeaseNames } from "./groupCalls.js";
export type {
  Abortable,
  CreateGroupOptions,
  DeadLettersOptions,
  ExtendOptions,
  GroupsOptions,
  LeaseOptions,
  NackOptions,
  PositionsOptions,
} from "./groups.js";
export {
  type Appended,
  type AppendedMany,
  type BackupReport,
  type BadRow,
  type Closed,
  type Cursor,
  type DeadLetter,
  type DeadLetterPage,
  type Event,
  type EventPage,
  type EventType,
  FollowState,
  type Group,
  type Health,
  type Hello,
  type Id,
  type KeyContent,
  type Lease,
  type Leases,
  type Message,
  type MessagePage,
  type Meta,
  type MetaValue,
  type NewMessage,
  type NewMeta,
  type Outcome,
  type Outcomes,
  type Refreshed,
  type Role,
  type Session,
  type SessionPage,
  type SnapshotPage,
  type Tail,
  type Tails,
  type VerifyReport,
} from "./results.js";
export { type Handler, Worker, type WorkerOptions } from "./worker.js";
