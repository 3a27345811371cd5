/**
 * What can go wrong for a client, by cause.
 *
 *     ArminError
 *     ├── BadRequest          a value of the wrong shape; `field` names it
 *     ├── UnknownOp           the engine does not know this command: it is older than the client
 *     ├── SessionNotFound     no session has this id or name
 *     ├── SessionClosed       the session takes no more messages, ever
 *     ├── Conflict            the caller expected another state; `reason` says which
 *     ├── TooLarge            a value over its limit; `field` and `limit` name them
 *     ├── CursorInvalid       a cursor of another database, of another epoch, or ahead of what exists
 *     ├── StorageFailed       the engine could not commit: not visible now, outcome unknown after a crash
 *     ├── ShuttingDown        the engine is going away; nothing was done
 *     ├── NotAuthorized       the engine refuses this caller
 *     ├── LeaseLost           the effect went to another worker meanwhile
 *     ├── GroupNotFound       no worker group has this name, or it was dropped
 *     ├── InternalError       a bug in the engine
 *     ├── NoReply             nobody answered in time; `reason` says why, `sent` whether a write may have happened
 *     ├── ProtocolError       something answered, but not in Armin's language
 *     ├── ClientClosed        this client was closed before
 *     └── TargetError         `connect` cannot tell, or cannot reach, where the engine should be
 *
 * Everything from BadRequest to InternalError is one code of the wire; a code that this client does not
 * know yet arrives as a plain ArminError.
 */

import { ErrorCode } from "./protocol.js";

/** What an error may say besides its message. */
export interface ErrorDetails {
  code?: string | undefined;
  field?: string | null | undefined;
  limit?: number | null | undefined;
  reason?: string | null | undefined;
  retry?: boolean | undefined;
  position?: number | null | undefined;
}

/**
 * Base of everything that the client throws on purpose.
 *
 * `code` is the name on the wire; `retry` tells whether the same call may succeed later; `position` is the
 * engine's last committed position when it refused, where it said so. `key` is the idempotency key of the
 * write that failed: sent again with it, it cannot be done twice. What does not apply is null.
 */
export class ArminError extends Error {
  protected static readonly defaultCode: string = "unknown";
  protected static readonly defaultRetry: boolean = false;

  readonly code: string;
  readonly field: string | null;
  readonly limit: number | null;
  readonly reason: string | null;
  readonly retry: boolean;
  readonly position: number | null;
  key: string | null = null;

  constructor(message: string, details: ErrorDetails = {}) {
    super(message);
    const kind = new.target;
    this.name = kind.name;
    this.code = details.code ?? kind.defaultCode;
    this.field = details.field ?? null;
    this.limit = details.limit ?? null;
    this.reason = details.reason ?? null;
    this.retry = details.retry ?? kind.defaultRetry;
    this.position = details.position ?? null;
  }
}

/** A value of the wrong shape; `field` names it. Nothing changed. */
export class BadRequest extends ArminError {
  protected static override readonly defaultCode = ErrorCode.BAD_REQUEST;
}

/** The engine does not know this command: it is older than the client. */
export class UnknownOp extends ArminError {
  protected static override readonly defaultCode = ErrorCode.UNKNOWN_OP;
}

/** No session has this id or name. */
export class SessionNotFound extends ArminError {
  protected static override readonly defaultCode = ErrorCode.SESSION_NOT_FOUND;
}

/** The session takes no more messages, ever. */
export class SessionClosed extends ArminError {
  protected static override readonly defaultCode = ErrorCode.SESSION_CLOSED;
}

/** The caller expected another state; nothing changed. `reason`: `expect_seq`, `snapshot_moved`, ... */
export class Conflict extends ArminError {
  protected static override readonly defaultCode = ErrorCode.CONFLICT;
}

/** A value over its limit; `field` and `limit` name them. Nothing changed. */
export class TooLarge extends ArminError {
  protected static override readonly defaultCode = ErrorCode.TOO_LARGE;
}

/** A cursor of another database, of another epoch of it, or ahead of what exists. */
export class CursorInvalid extends ArminError {
  protected static override readonly defaultCode = ErrorCode.CURSOR_INVALID;
}

/** The engine could not commit. Not visible now; the outcome is unknown if the engine crashes. */
export class StorageFailed extends ArminError {
  protected static override readonly defaultCode = ErrorCode.STORAGE_FAILED;
  protected static override readonly defaultRetry = true;
}

/** The engine is going away; nothing was done. */
export class ShuttingDown extends ArminError {
  protected static override readonly defaultCode = ErrorCode.SHUTTING_DOWN;
  protected static override readonly defaultRetry = true;
}

/**
 * The engine refuses this caller. `reason` is `role` where its key does not allow this command, `key` where the
 * engine takes no command from it at all: it does not know the key, or no longer.
 */
export class NotAuthorized extends ArminError {
  protected static override readonly defaultCode = ErrorCode.NOT_AUTHORIZED;
}

/** The effect went to another worker meanwhile. */
export class LeaseLost extends ArminError {
  protected static override readonly defaultCode = ErrorCode.LEASE_LOST;
}

/** No worker group has this name, or it was dropped meanwhile. */
export class GroupNotFound extends ArminError {
  protected static override readonly defaultCode = ErrorCode.GROUP_NOT_FOUND;
}

/** A bug in the engine; its log says more. */
export class InternalError extends ArminError {
  protected static override readonly defaultCode = ErrorCode.INTERNAL;
}

/**
 * Nobody answered in time.
 *
 * `reason` is `no_directory`, `not_running`, `recovering`, `unreachable`, `handshake` (no connection is
 * agreed on: a key is wanted, or is for another engine) or `silent`. `sent` is false where
 * the command never left this process, so nothing can have come of it; where it is true, the outcome of a
 * write is unknown.
 */
export class NoReply extends ArminError {
  protected static override readonly defaultCode = "no_reply";
  protected static override readonly defaultRetry = true;

  readonly sent: boolean;

  constructor(message: string, details: { reason: string; sent: boolean }) {
    super(message, { reason: details.reason });
    this.sent = details.sent;
  }
}

/** Something answered, but not in Armin's language: another program, or a bug. */
export class ProtocolError extends ArminError {
  protected static override readonly defaultCode = "protocol_error";
}

/** This client was closed before, or while it waited. */
export class ClientClosed extends ArminError {
  protected static override readonly defaultCode = "client_closed";

  constructor(message = "this client is closed") {
    super(message);
  }
}

/** `connect` cannot tell, or cannot reach, where the engine should be. */
export class TargetError extends ArminError {
  protected static override readonly defaultCode = "bad_target";
}

const BY_CODE: ReadonlyMap<string, typeof ArminError> = new Map<string, typeof ArminError>([
  [ErrorCode.BAD_REQUEST, BadRequest],
  [ErrorCode.UNKNOWN_OP, UnknownOp],
  [ErrorCode.SESSION_NOT_FOUND, SessionNotFound],
  [ErrorCode.SESSION_CLOSED, SessionClosed],
  [ErrorCode.CONFLICT, Conflict],
  [ErrorCode.TOO_LARGE, TooLarge],
  [ErrorCode.CURSOR_INVALID, CursorInvalid],
  [ErrorCode.STORAGE_FAILED, StorageFailed],
  [ErrorCode.SHUTTING_DOWN, ShuttingDown],
  [ErrorCode.NOT_AUTHORIZED, NotAuthorized],
  [ErrorCode.LEASE_LOST, LeaseLost],
  [ErrorCode.GROUP_NOT_FOUND, GroupNotFound],
  [ErrorCode.INTERNAL, InternalError],
]);

/**
 * The error that says what an error reply says. An unknown code gives the base class.
 *
 * @throws ProtocolError the error has no code or no message.
 */
export function fromWire(error: Readonly<Record<string, unknown>>, position: number | null): ArminError {
  const { code, message, field, limit, reason, retry } = error;
  if (typeof code !== "string" || typeof message !== "string") {
    throw new ProtocolError("the reply holds an error without code or message");
  }
  const Kind = BY_CODE.get(code) ?? ArminError;
  return new Kind(message, {
    code,
    field: typeof field === "string" ? field : null,
    limit: typeof limit === "number" ? limit : null,
    reason: typeof reason === "string" ? reason : null,
    retry: typeof retry === "boolean" ? retry : undefined,
    position,
  });
}
