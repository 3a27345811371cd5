/** What a handler gets, what it may say, and what a worker counts. */

import type { Call } from "./calls.js";
import * as calls from "./calls.js";
import { LeaseLost, ProtocolError } from "./errors.js";
import { NACK_REASON_BYTES_MAX } from "./protocol.js";
import type { Event, EventType, Id, Lease, Message, MessagePage } from "./results.js";

/**
 * Thrown by a handler: not done, again after the group's backoff, or in `delayMs` milliseconds.
 *
 * Any other error does as well; this one is no surprise, so it is not reported, and its message alone is the
 * nack's reason. The attempt counts as failed all the same.
 */
export class Retry extends Error {
  readonly delayMs: number | undefined;

  constructor(reason = "", options: { delayMs?: number } = {}) {
    super(reason);
    this.name = "Retry";
    this.delayMs = options.delayMs;
  }
}

/** One committed fact that is to be handled, as a handler gets it. */
export interface Effect {
  readonly lease: Lease;
  readonly event: Event;
  /** The fact's position in the log: the same each time, so fit to tell repetitions. */
  readonly position: number;
  /** 1 for the first time; above it, the effect may have been handled before. */
  readonly attempt: number;
  /** `session_created`, `message_appended` or `session_closed`. */
  readonly type: EventType;
  /** The session that it happened to. */
  readonly sessionId: Id;
  /** What was appended; null if something else happened. */
  readonly message: Message | null;
  /**
   * Turns true if the effect went to another worker while it was being handled: whatever is still to be done
   * here will be done there, too.
   */
  readonly lost: boolean;
  /** Aborts when the effect is lost (its reason is a LeaseLost), or the whole worker is aborted. */
  readonly signal: AbortSignal;
}

/** An effect that this worker holds. */
export class HeldEffect implements Effect {
  event: Event;
  lost = false;
  readonly #controller = new AbortController();

  constructor(readonly lease: Lease) {
    this.event = lease.event;
  }

  get position(): number {
    return this.lease.position;
  }

  get attempt(): number {
    return this.lease.attempt;
  }

  get type(): EventType {
    return this.event.type;
  }

  get sessionId(): Id {
    return this.event.sessionId;
  }

  get message(): Message | null {
    return this.event.message;
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** It went to another worker. */
  lose(): void {
    this.lost = true;
    this.abort(new LeaseLost(`the effect at position ${this.position} went to another worker`));
  }

  /** Tell the handler that its work is wanted no more. */
  abort(reason: unknown): void {
    this.#controller.abort(reason);
  }
}

/**
 * What a worker has done so far.
 *
 * `handled`: the handler returned and the engine took the ack. `failed`: it threw, and the engine took the nack;
 * `dead` of these were the last attempt. `lost`: the lease was gone when it was to be extended, acked or nacked;
 * after an engine restart that may be an ack that had arrived. `redelivered`: begun with an attempt above 1.
 */
export interface Counters {
  readonly handled: number;
  readonly failed: number;
  readonly dead: number;
  readonly lost: number;
  readonly redelivered: number;
}

/** Why a handler did not handle its effect, and when to try again if it chose so. */
export interface Failure {
  readonly reason: string;
  readonly delayMs: number | undefined;
}

/** What a nack says of whatever a handler threw. */
export function failure(error: unknown): Failure {
  if (error instanceof Retry) {
    const delayMs = error.delayMs === undefined ? undefined : Math.max(0, error.delayMs);
    return { reason: cut(error.message), delayMs };
  }
  return { reason: cut(described(error)), delayMs: undefined };
}

function described(error: unknown): string {
  if (!(error instanceof Error)) {
    return String(error);
  }
  return error.message === "" ? error.name : `${error.name}: ${error.message}`;
}

/** As much of a reason as a nack may carry: whole characters, lone surrogates replaced. */
function cut(reason: string): string {
  const bytes = Buffer.from(reason, "utf8").subarray(0, NACK_REASON_BYTES_MAX);
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes, { stream: true });
}

/** The read that completes an event whose message was elided. */
export function missing(event: Event): Call<MessagePage> | undefined {
  if (event.message === null || !event.message.elided) {
    return undefined;
  }
  return calls.read(event.sessionId, { after: event.message.seq - 1, limit: 1 });
}

/** The event with the message that was read. */
export function completed(event: Event, page: MessagePage): Event {
  const [message] = page.messages;
  if (message === undefined || message.id !== event.message?.id) {
    throw new ProtocolError(`the message of the event at position ${event.position} cannot be read`);
  }
  return { ...event, message };
}
