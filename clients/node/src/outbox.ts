/**
 * Requests on their way: sent, sent again, answered or given up, and per session in their order.
 *
 * Without sockets and without a clock: `nextToSend` says what to send, `received` takes what came, time is passed
 * in. channel.ts drives it.
 *
 * A write carries a key, so sending it again doubles nothing. Writes of one session stand in a line: each is sent
 * with `after_key`, the key of the unanswered write before it, so that the engine refuses it (`out_of_order`)
 * where that one was lost; then the whole line is sent again. A closure waits until it is first in its line. What
 * was sent carries the number of its transmission: a refusal of an earlier one is no news, a success always is.
 */

import type { Call } from "./calls.js";
import { ArminError, Conflict, ShuttingDown } from "./errors.js";
import { Queue } from "./queue.js";
import * as replies from "./replies.js";
import type { Id } from "./results.js";
import * as wire from "./wire.js";

export const RESEND_FIRST = 500; // ms until a request is sent again
export const RESEND_MAX = 2000; // what that doubles up to
export const PAUSE = 250; // ms before a write is sent again to an engine that was shutting down
export const WINDOW = 256; // requests on the wire at a time
export const WINDOW_BYTES = 16 << 20; // of them, at least one

const NUMBER_BYTES = 8;
const CORRELATION_BYTES = NUMBER_BYTES + 4; // then the number of the transmission
const AFTER_KEY = wire.encode("after_key");

/** The fields of a reply, or why there are none. */
export type Result = replies.Fields | ArminError;

/** One call; `done` gets its result. Times are milliseconds. */
export class Request {
  readonly call: Call<unknown>;
  readonly number: number;
  readonly payload: Uint8Array;
  readonly deadline: number;
  readonly done: (result: Result) => void;
  /** Its neighbours among the unanswered writes of its session. */
  before: Request | null = null;
  after: Request | null = null;
  /** The closure that it has to wait for. */
  closing: Request | null = null;
  transmission = 0;
  /** For its turn to be sent. */
  waits = true;
  wasSent = false;
  /** Its last transmission was refused for now, so it was not lost. */
  wasHeard = false;
  /** When it is sent again. */
  due = 0;
  isAnswered = false;
  /** Nobody waits for its result. */
  isForgotten = false;

  constructor(
    call: Call<unknown>,
    number: number,
    payload: Uint8Array,
    deadline: number,
    done: (result: Result) => void,
  ) {
    this.call = call;
    this.number = number;
    this.payload = payload;
    this.deadline = deadline;
    this.done = done;
  }

  /** A closure waits for all before it, and all behind a closure wait for it. */
  get isHeld(): boolean {
    if (this.closing !== null && !this.closing.isAnswered) {
      return true;
    }
    return this.before !== null && this.call.closes;
  }
}

/** What to send: whose it is, and the frames. */
export interface Transmission {
  readonly request: Request;
  readonly frames: readonly Uint8Array[];
}

/** The unanswered requests of one connection. */
export class Outbox {
  readonly #timeoutMs: number;
  readonly #givenUp: (request: Request) => ArminError;
  #lastNumber = 0;
  readonly #requests = new Map<number, Request>(); // in the order they were made, so by deadline
  readonly #wire = new Map<number, Request>(); // those that were sent, in the order of their last transmission
  #wireBytes = 0;
  readonly #fresh = new Queue<Request>(); // to be sent
  readonly #again = new Queue<Request>(); // to be sent again
  #stale = 0; // that left while they waited in one of these, at most
  readonly #tails = new Map<Id, Request>(); // the last unanswered write of each session
  readonly #careful = new Set<Id>(); // sessions whose writes are refused: one at a time, until one is made
  #nextDue = Number.POSITIVE_INFINITY; // when something is due, at the earliest: it may be answered by then

  /** `givenUp` makes the error for a request that nobody answered in time. */
  constructor(timeoutMs: number, givenUp: (request: Request) => ArminError) {
    this.#timeoutMs = timeoutMs;
    this.#givenUp = givenUp;
  }

  /** How many are unanswered. */
  get size(): number {
    return this.#requests.size;
  }

  /**
   * Take a request.
   *
   * @throws BadRequest, TooLarge it cannot be sent.
   */
  add(call: Call<unknown>, now: number, done: (result: Result) => void): Request {
    const request = new Request(call, ++this.#lastNumber, call.encode(), now + this.#timeoutMs, done);
    this.#requests.set(request.number, request);
    if (call.line !== null) {
      this.#standInLine(request, call.line);
    }
    this.#fresh.push(request);
    this.#nextDue = Math.min(this.#nextDue, request.deadline);
    return request;
  }

  #standInLine(request: Request, line: Id): void {
    const before = this.#tails.get(line);
    if (before !== undefined) {
      before.after = request;
      request.before = before;
      request.closing = before.call.closes ? before : before.closing;
    }
    this.#tails.set(line, request);
  }

  // --- out ----------------------------------------------------------------------------------------

  /** The next request and its frames; null where nothing may be sent now. */
  nextToSend(): Transmission | null {
    for (let request = this.#again.shift(); request !== undefined; request = this.#again.shift()) {
      if (!request.isAnswered) {
        return { request, frames: frames(request) };
      }
    }
    return this.#nextFresh();
  }

  #nextFresh(): Transmission | null {
    for (let left = this.#fresh.length; left > 0; left--) {
      const request = this.#fresh.peek() as Request;
      if (!request.isAnswered && !this.#hasRoom(request)) {
        return null;
      }
      this.#fresh.shift();
      if (request.isAnswered) {
        continue;
      }
      if (!request.isHeld) {
        return { request, frames: frames(request) };
      }
      this.#fresh.push(request); // it is looked at again when its line has moved on
    }
    return null;
  }

  #hasRoom(request: Request): boolean {
    if (this.#wire.size === 0) {
      return true;
    }
    return this.#wire.size < WINDOW && this.#wireBytes + request.payload.length <= WINDOW_BYTES;
  }

  /** Its frames are being handed over: to be said before, as the reply may be here before the sender knows. */
  sent(request: Request, now: number): void {
    request.waits = false;
    request.wasHeard = false;
    request.wasSent = true;
    if (!this.#wire.delete(request.number)) {
      this.#wireBytes += request.payload.length;
    }
    this.#wire.set(request.number, request);
    const pause = Math.min(RESEND_FIRST * 2 ** Math.min(request.transmission, 8), RESEND_MAX);
    request.due = request.call.repeatable ? now + pause : request.deadline;
    this.#nextDue = Math.min(this.#nextDue, request.due);
  }

  /** Nobody took them: it is the next one again. */
  unsent(request: Request): void {
    if (request.isAnswered) {
      return;
    }
    request.waits = true;
    if (request.transmission > 0) {
      this.#again.unshift(request);
      return;
    }
    request.wasSent = false; // it never left
    if (this.#wire.delete(request.number)) {
      this.#wireBytes -= request.payload.length;
    }
    if (request.isForgotten) {
      this.#leave(request);
    } else {
      this.#fresh.unshift(request);
    }
  }

  // --- in -----------------------------------------------------------------------------------------

  /** A message came; whatever answers no request is ignored. */
  received(message: readonly Uint8Array[], now: number): void {
    const [correlation, reply] = message;
    if (message.length !== 2 || correlation?.length !== CORRELATION_BYTES || reply === undefined) {
      return;
    }
    const view = new DataView(correlation.buffer, correlation.byteOffset, CORRELATION_BYTES);
    const request = this.#requests.get(Number(view.getBigUint64(0)));
    if (request === undefined) {
      return;
    }
    const isNews = view.getUint32(NUMBER_BYTES) === request.transmission && !request.waits;
    if (isNews && request.call.outlasts) {
      this.#sendSkippedAgain(request);
    }
    const result = decoded(reply);
    if (!(result instanceof ArminError)) {
      this.#made(request, result);
    } else if (isNews) {
      this.#refused(request, result, now);
    }
  }

  /** Writes are answered in the order they came, so one that was sent earlier was lost, or its reply. */
  #sendSkippedAgain(request: Request): void {
    for (const earlier of this.#wire.values()) {
      if (earlier === request) {
        return;
      }
      // A poll for leases is answered when it can be.
      if (earlier.call.outlasts && !earlier.wasHeard) {
        this.#sendAgain(earlier);
      }
    }
  }

  #made(request: Request, fields: replies.Fields): void {
    const { line } = request.call;
    const { before, after } = request;
    this.#finish(request, fields);
    if (line !== null && before === null && this.#careful.delete(line) && after !== null) {
      this.#sendLineAgain(after);
    }
  }

  #refused(request: Request, error: ArminError, now: number): void {
    const { line } = request.call;
    request.wasHeard = true;
    if (error instanceof Conflict && error.reason === "out_of_order" && line !== null) {
      if (!this.#careful.has(line)) {
        this.#sendLineAgain(request);
      } else if (request.before === null) {
        this.#sendAgain(request);
      }
    } else if (error instanceof ShuttingDown && request.call.outlasts) {
      request.due = Math.min(now + PAUSE, request.deadline);
      this.#nextDue = Math.min(this.#nextDue, request.due);
    } else {
      const mate = request.before ?? request.after;
      this.#finish(request, error);
      if (line !== null && mate !== null) {
        this.#goOnCarefully(line, first(mate));
      }
    }
  }

  /**
   * Those behind a refused write follow one that is not there, and may be refused as it was.
   *
   * To send them all again for each of them would take the square of their number.
   */
  #goOnCarefully(line: Id, oldest: Request): void {
    if (oldest.wasSent) {
      this.#careful.add(line);
      this.#sendAgain(oldest);
    }
  }

  /** From the oldest unanswered write of its session on. */
  #sendLineAgain(request: Request): void {
    for (let late: Request | null = first(request); late?.wasSent; late = late.after) {
      this.#sendAgain(late);
    }
  }

  #sendAgain(request: Request): void {
    if (!request.waits) {
      request.transmission += 1;
      request.waits = true;
      this.#again.push(request);
    }
  }

  #finish(request: Request, result: Result): void {
    this.#leave(request);
    if (result instanceof ArminError) {
      result.key = request.call.key;
    }
    request.done(result);
  }

  #leave(request: Request): void {
    request.isAnswered = true;
    this.#requests.delete(request.number);
    if (this.#wire.delete(request.number)) {
      this.#wireBytes -= request.payload.length;
    }
    const { before, after } = request;
    const { line } = request.call;
    if (before !== null) {
      before.after = after;
    }
    if (after !== null) {
      after.before = before;
    } else if (line !== null && before !== null) {
      this.#tails.set(line, before);
    } else if (line !== null) {
      this.#tails.delete(line);
      this.#careful.delete(line);
    }
    request.before = request.after = request.closing = null; // nothing keeps the whole past alive
    if (request.waits) {
      this.#forgetStale();
    }
  }

  /** What was given up waits for no turn: where no engine is there, turns do not come. */
  #forgetStale(): void {
    this.#stale += 1;
    if (2 * this.#stale > this.#fresh.length + this.#again.length) {
      this.#stale = 0;
      this.#fresh.keep((request) => !request.isAnswered);
      this.#again.keep((request) => !request.isAnswered);
    }
  }

  // --- time -----------------------------------------------------------------------------------------

  /** Give up, and send again, what is due. */
  tick(now: number): void {
    if (now < this.#nextDue) {
      return;
    }
    for (const oldest of this.#requests.values()) {
      if (oldest.deadline > now) {
        break;
      }
      this.#finish(oldest, this.#givenUp(oldest));
    }
    let nextDue = Number.POSITIVE_INFINITY;
    for (const request of this.#wire.values()) {
      if (request.due <= now) {
        this.#sendAgain(request);
      }
      nextDue = request.waits ? nextDue : Math.min(nextDue, request.due);
    }
    const [oldest] = this.#requests.values();
    this.#nextDue = Math.min(nextDue, oldest?.deadline ?? Number.POSITIVE_INFINITY);
  }

  /** When `tick` has something to do, at the earliest; null where nothing is unanswered. */
  nextDue(): number | null {
    return this.#requests.size > 0 ? this.#nextDue : null;
  }

  /** Nobody waits for it any more. A write that was sent stays, so that its line keeps its order. */
  forget(request: Request): void {
    request.isForgotten = true;
    if (!request.isAnswered && !(request.wasSent && request.call.writes)) {
      this.#leave(request);
    }
  }

  /** End all requests so. */
  fail(error: (request: Request) => ArminError): void {
    for (const request of [...this.#requests.values()]) {
      this.#finish(request, error(request));
    }
  }
}

function decoded(reply: Uint8Array): Result {
  try {
    return replies.decode(reply);
  } catch (error) {
    if (error instanceof ArminError) {
      return error;
    }
    throw error;
  }
}

/** The oldest unanswered write of its session. */
function first(request: Request): Request {
  let oldest = request;
  while (oldest.before !== null) {
    oldest = oldest.before;
  }
  return oldest;
}

function frames(request: Request): Uint8Array[] {
  const correlation = Buffer.alloc(CORRELATION_BYTES);
  correlation.writeBigUInt64BE(BigInt(request.number));
  correlation.writeUInt32BE(request.transmission, NUMBER_BYTES);
  return [correlation, following(request)];
}

/** The payload, with `after_key` where an unanswered write comes before it. */
function following(request: Request): Uint8Array {
  const key = request.before?.call.key ?? null;
  if (key === null) {
    return request.payload;
  }
  // A command has fewer than 15 fields, so its map begins with one byte that counts them.
  const [size = 0] = request.payload;
  return Buffer.concat([Uint8Array.of(size + 1), request.payload.subarray(1), AFTER_KEY, wire.encode(key)]);
}
