/** What a follower follows: one session, or the whole log. Each keeps its cursor and says what it lacks. */

import type { Call } from "./calls.js";
import * as calls from "./calls.js";
import { BadRequest, CursorInvalid, ProtocolError } from "./errors.js";
import * as protocol from "./protocol.js";
import type { Cursor, Event, EventPage, EventType, Hello, Id, Message, MessagePage, Tails } from "./results.js";
import { canonical } from "./wire.js";

/** Items asked for at once when the client pages by itself. */
const EPOCHS = "epochs"; // the engine's feature that pages are asked for with an epoch
export const PAGE_ITEMS = 1000;

/** The reason of a read that makes up for what the live socket lost. */
export const HEAL = "heal";

/**
 * What an event or a heartbeat means for whoever follows: nothing is missing (`fine`), something is to be read
 * that the live socket does not carry (`read`), or something was lost and is to be read again (`lost`).
 */
export type Verdict = "fine" | "read" | "lost";

/**
 * The log has moved on to `position`, perhaps elsewhere.
 *
 * `lacks` says of where the session ends, then or later, whether something of it is still awaited.
 */
export interface Doubt {
  readonly sessionId: Id;
  readonly position: number;
  lacks(answer: Tails): boolean;
}

/** What a page brought: items to deliver, whether to read on, whether nothing will ever follow. */
export interface Taken<T> {
  readonly items: readonly T[];
  readonly more: boolean;
  readonly ended: boolean;
}

/** What a live event brought: an item to deliver, if it was the next one, and what it means. */
export interface Heard<T> {
  readonly item?: T;
  readonly verdict: Verdict;
}

/** A cursor over something that grows; `T` is what it delivers, `P` the pages that it is read in. */
export interface Feed<T, P = unknown> {
  readonly topics: readonly string[];
  /** Sessions of which it may have to ask where they end. */
  readonly sessionIds: readonly Id[];
  /** The read that continues from the cursor, which belongs to `epoch` where that is known. */
  pageCall(reason: string | undefined, epoch: string | undefined): Call<P>;
  /** Move the cursor over a page. */
  takePage(page: P): Taken<T>;
  /** Move the cursor over a live event, if it is the next one. */
  takeEvent(event: Event): Heard<T>;
  /** Whether a heartbeat at `position` shows that something was missed. */
  check(position: number): Verdict | Doubt;
}

/** The messages of one session by seq; `cursor` is the seq of the last one delivered. */
export class SessionFeed implements Feed<Message, MessagePage> {
  readonly topics: readonly string[];
  readonly sessionIds: readonly Id[];
  cursor: number;
  readonly #sessionId: Id;
  #checked = 0; // nothing of this session was missed up to this position

  constructor(sessionId: Id, cursor: Cursor) {
    const id = typeof sessionId === "bigint" ? canonical(sessionId) : sessionId;
    this.#sessionId = id;
    this.topics = [protocol.messageTopic(id), protocol.closedTopic(id)];
    this.sessionIds = [id];
    this.cursor = exactCursor(cursor);
  }

  /** The read that continues from the cursor. */
  pageCall(reason: string | undefined, epoch: string | undefined): Call<MessagePage> {
    return calls.read(this.#sessionId, { after: this.cursor, limit: PAGE_ITEMS, reason, epoch });
  }

  /** Move the cursor over a page. */
  takePage(page: MessagePage): Taken<Message> {
    for (const message of page.messages) {
      if (message.seq !== this.cursor + 1) {
        throw new ProtocolError(`a read after seq ${this.cursor} gave seq ${message.seq}`);
      }
      this.cursor = message.seq;
    }
    refuseEndless(page.more, page.messages);
    if (!page.more) {
      this.#checked = Math.max(this.#checked, page.position);
    }
    return { items: page.messages, more: page.more, ended: page.closed && !page.more };
  }

  /** Deliver the next message; a closure calls for a last look at the session. */
  takeEvent(event: Event): Heard<Message> {
    const message = event.message;
    if (message === null) {
      return { verdict: event.type === protocol.SESSION_CLOSED ? "read" : "fine" };
    }
    if (message.seq <= this.cursor) {
      return { verdict: "fine" };
    }
    if (message.seq > this.cursor + 1) {
      return { verdict: "lost" };
    }
    if (message.elided) {
      return { verdict: "read" };
    }
    this.cursor = message.seq;
    this.#checked = Math.max(this.#checked, event.position);
    return { item: message, verdict: "fine" };
  }

  /** The log has moved on: only the engine knows whether in this session. */
  check(position: number): Verdict | Doubt {
    if (position <= this.#checked) {
      return "fine";
    }
    return { sessionId: this.#sessionId, position, lacks: (answer) => this.#lacks(answer) };
  }

  /** Whether the session ends behind the cursor, or is closed. */
  #lacks(answer: Tails): boolean {
    const [tail] = answer.tails;
    if (tail === undefined || tail.closed || tail.seq > this.cursor) {
      return true;
    }
    this.#checked = Math.max(this.#checked, answer.position);
    return false;
  }
}

/**
 * Every fact by position; `cursor` is that of the last one delivered, or passed over.
 *
 * `types` are the event types to deliver, undefined for all. The cursor moves over every fact all the same: only
 * positions without a gap show that nothing was lost.
 */
export class LogFeed implements Feed<Event, EventPage> {
  readonly topics: readonly string[] = protocol.FACT_TOPICS;
  readonly sessionIds: readonly Id[] = [];
  cursor: number;
  readonly #types: ReadonlySet<string> | undefined;

  constructor(cursor: Cursor, types?: ReadonlySet<string>) {
    this.cursor = exactCursor(cursor);
    this.#types = types;
  }

  /** The read that continues from the cursor; the log has no field for the reason. */
  pageCall(_reason: string | undefined, epoch: string | undefined): Call<EventPage> {
    return calls.log({ after: this.cursor, limit: PAGE_ITEMS, epoch });
  }

  /** Move the cursor over a page. */
  takePage(page: EventPage): Taken<Event> {
    for (const event of page.events) {
      if (event.position !== this.cursor + 1) {
        throw new ProtocolError(`the log after position ${this.cursor} gave position ${event.position}`);
      }
      this.cursor = event.position;
    }
    refuseEndless(page.more, page.events);
    return { items: page.events.filter((event) => this.#wanted(event)), more: page.more, ended: false };
  }

  /** Deliver the next fact. */
  takeEvent(event: Event): Heard<Event> {
    if (event.position <= this.cursor) {
      return { verdict: "fine" };
    }
    if (event.position > this.cursor + 1) {
      return { verdict: "lost" };
    }
    this.cursor = event.position;
    return this.#wanted(event) ? { item: event, verdict: "fine" } : { verdict: "fine" };
  }

  #wanted(event: Event): boolean {
    return this.#types === undefined || this.#types.has(event.type);
  }

  /** A heartbeat comes behind every fact up to its position, so a cursor below it has lost some. */
  check(position: number): Verdict {
    return position > this.cursor ? "lost" : "fine";
  }
}

/** A page that promises more and brings nothing would be read again for ever. */
function refuseEndless(more: boolean, items: readonly unknown[]): void {
  if (more && items.length === 0) {
    throw new ProtocolError("a page says that more follows, but is empty");
  }
}

/** Seqs and positions are dense, so a cursor that a number cannot hold is ahead of whatever exists. */
function exactCursor(cursor: Cursor): number {
  if (typeof cursor !== "bigint") {
    return cursor;
  }
  if (cursor > Number.MAX_SAFE_INTEGER) {
    throw new CursorInvalid(`the cursor ${cursor} is ahead of what exists`);
  }
  return Number(cursor);
}

/** The log behind position `after`; "now" means the position that `hello` names. */
export function logFeed(
  after: Cursor | "now",
  types: ReadonlySet<string> | undefined,
  hello: Pick<Hello, "position">,
): LogFeed {
  return new LogFeed(after === "now" ? hello.position : after, types);
}

/**
 * Whether a cursor that was kept with `epoch` may be used.
 *
 * @throws CursorInvalid the engine's is another one.
 */
export function checkEpoch(hello: Pick<Hello, "epoch">, epoch: string | undefined): void {
  if (epoch !== undefined && epoch !== hello.epoch) {
    const whose = `the cursor is of epoch ${epoch}, the engine's is ${hello.epoch}`;
    throw new CursorInvalid(`${whose}: another or a restored database`);
  }
}

/** What the next pages are to be asked for with; undefined where the engine knows no `epoch` in pages. */
export function epochToKeep(hello: Pick<Hello, "epoch" | "features">): string | undefined {
  return hello.features.includes(EPOCHS) ? hello.epoch : undefined;
}

/**
 * The event types that a caller wants, undefined for all.
 *
 * @throws BadRequest one of them is none, or there are none at all.
 */
export function checkedTypes(types: Iterable<EventType> | undefined): ReadonlySet<string> | undefined {
  if (types === undefined) {
    return undefined;
  }
  const known: readonly string[] = protocol.EVENT_TYPES;
  if (typeof types === "string") {
    throw new BadRequest(`types is one string, not several of ${known.join(", ")}`, { field: "types" });
  }
  const wanted = new Set<string>(types);
  if (wanted.size === 0 || [...wanted].some((type) => !known.includes(type))) {
    const found = [...wanted].map(String).sort().join(", ");
    throw new BadRequest(`types must be some of ${known.join(", ")}, not [${found}]`, { field: "types" });
  }
  return wanted;
}
