/**
 * How to follow without a gap and without a repeat, from a live stream that loses things.
 *
 * A state machine without sockets and without a clock: `next` says what to do, the other methods say what came
 * of it, and time is passed in. live.ts drives it.
 *
 *     syncing    subscribed; `sync` is repeated until it comes back live, so that nothing after it is missed
 *     reading    page by page from the cursor, until there is no more
 *     live       events in order; a gap, a doubtful heartbeat or silence leads back
 *     greeting   the engine may be another one: ask who it is before reading on
 *     ended      everything there will ever be was delivered
 *
 *     syncing -> reading -> live -> ended
 *                   ^        |  lost something
 *                   +--------+
 *     any of them -> greeting -> reading -> syncing -> reading -> live    after silence or a restart
 *
 * Whoever follows can be told (FollowState): `live` in live, `engine gone` in greeting unless another engine was
 * just heard, `catching up` otherwise. Fetching one message that was too large for the stream is no change of
 * state.
 */

import * as absence from "./absence.js";
import type { Call } from "./calls.js";
import * as calls from "./calls.js";
import type { ArminError } from "./errors.js";
import { CursorInvalid, ProtocolError } from "./errors.js";
import { type Doubt, epochToKeep, type Feed, HEAL, type Verdict } from "./feeds.js";
import * as protocol from "./protocol.js";
import * as replies from "./replies.js";
import type { FollowState, Hello, Id, Tails } from "./results.js";

export const SYNC_INTERVAL = protocol.SYNC_RESEND_MS;
export const LOST_AFTER = protocol.HEARTBEAT_LOST_MS; // of silence
export const RETRY_PAUSE = 250; // ms between two looks for an engine that is away
export const GRACE = 250; // ms that an event may come later than a reply which counts it

/** Subscribe to a topic. */
export interface Subscribe {
  readonly kind: "subscribe";
  readonly topic: string;
}

/** Undo it. */
export interface Unsubscribe {
  readonly kind: "unsubscribe";
  readonly topic: string;
}

/** Send a command; then call `answered(result, now)`, or the follower's `unanswered` if there is no engine. */
export interface Ask<R = unknown> {
  readonly kind: "ask";
  readonly call: Call<R>;
  answered(result: R, now: number): void;
}

/** Find out where a session ends at `position` or later; then as for Ask. */
export interface AskTail {
  readonly kind: "ask tail";
  readonly sessionId: Id;
  readonly position: number;
  answered(result: Tails, now: number): void;
}

/** Wait for a live message until this time; then call `received`, or `idle` if there was none. */
export interface Wait {
  readonly kind: "wait";
  readonly until: number;
}

/** Hand these to the caller, in this order. */
export interface Deliver<T> {
  readonly kind: "deliver";
  readonly items: readonly T[];
}

/** Tell whoever wants to know how the following stands; never the same twice in a row. */
export interface Tell {
  readonly kind: "tell";
  readonly state: FollowState;
}

export type Action<T> = Subscribe | Unsubscribe | Ask | AskTail | Wait | Deliver<T> | Tell;

/** Where a follower stands; see the module's text. */
type Phase = "syncing" | "reading" | "live" | "greeting" | "ended";

/** An answer spoke of more than was delivered. It may be under way still, until `due`. */
interface Suspicion {
  readonly due: number;
  stands(): boolean;
}

export interface FollowerOptions {
  /** The time, in milliseconds of any clock that never goes back. */
  readonly now: number;
  /** Milliseconds until the first `sync` must have come back. */
  readonly timeoutMs: number;
  /** The live socket's endpoint, for the message if it does not. */
  readonly endpoint: string;
  /** Makes a new token of a-z, 0-9 for each handshake. */
  readonly tokens: () => string;
}

/** Follows one feed on one live socket, that of the engine which `hello` describes. */
export class Follower<T> {
  readonly #feed: Feed<T>;
  readonly #options: FollowerOptions;
  readonly #actions: Action<T>[] = [];
  #hello: Hello;
  #established = false; // the live socket has worked once: from then on, patience
  #synced = false;
  #reason: string | undefined;
  #doubt: Doubt | undefined;
  #suspicion: Suspicion | undefined;
  #lastSign: number; // of life, on the live socket
  #due: number; // when the present phase does its next thing
  #giveUp: number;
  #token = "";
  #phase: Phase = "syncing";
  #state: FollowState | undefined;

  constructor(feed: Feed<T>, hello: Hello, options: FollowerOptions) {
    const { now } = options;
    this.#feed = feed;
    this.#hello = hello;
    this.#options = options;
    this.#lastSign = this.#due = this.#giveUp = now;
    const { HEARTBEAT_TOPIC, GOODBYE_TOPIC, WELCOME_TOPIC } = protocol;
    for (const topic of [...feed.topics, HEARTBEAT_TOPIC, GOODBYE_TOPIC, WELCOME_TOPIC]) {
      this.#actions.push({ kind: "subscribe", topic });
    }
    this.#tell("catching up");
    this.#beginSync(now);
  }

  // --- what to do -----------------------------------------------------------------------------------

  /**
   * What to do now; undefined at the end.
   *
   * @throws NoReply the live socket has never worked.
   */
  next(now: number): Action<T> | undefined {
    const action = this.#actions.shift();
    if (action !== undefined) {
      return action;
    }
    switch (this.#phase) {
      case "syncing":
        return this.#nextSync(now);
      case "reading":
        return ask(this.#feed.pageCall(this.#reason, this.#knownEpoch()), (page, at) => this.#paged(page, at));
      case "live":
        return this.#nextLive();
      case "greeting":
        return now < this.#due
          ? { kind: "wait", until: this.#due }
          : ask(calls.hello(), (hello) => this.#greeted(hello));
      case "ended":
        return undefined;
    }
  }

  #nextSync(now: number): Action<T> | undefined {
    if (now >= this.#giveUp) {
      if (!this.#established) {
        throw absence.noLive(this.#options.endpoint, this.#options.timeoutMs);
      }
      this.#lookAgain(now);
      return this.next(now);
    }
    if (now >= this.#due) {
      return ask(calls.sync(this.#token), (_position, at) => {
        this.#due = at + SYNC_INTERVAL;
      });
    }
    return { kind: "wait", until: Math.min(this.#due, this.#giveUp) };
  }

  #nextLive(): Action<T> {
    if (this.#doubt !== undefined) {
      const { sessionId, position } = this.#doubt;
      const answered = (answer: Tails, at: number) => this.#doubtAnswered(answer, at);
      return { kind: "ask tail", sessionId, position, answered };
    }
    const until = this.#lastSign + LOST_AFTER;
    return { kind: "wait", until: Math.min(until, this.#suspicion?.due ?? until) };
  }

  // --- what came of it ------------------------------------------------------------------------------

  /**
   * A live message came.
   *
   * @throws CursorInvalid it is another database, or a restored one.
   * @throws ProtocolError it is no message of Armin's.
   */
  received(frames: readonly Buffer[], now: number): void {
    this.#lastSign = now;
    const [first, body] = frames;
    const topic = first?.toString("latin1") ?? "";
    if (frames.length === 1 && topic.startsWith(protocol.WELCOME_TOPIC)) {
      this.#checkIdentity(this.#hello.database, topic.slice(protocol.WELCOME_TOPIC.length));
      return;
    }
    if (body === undefined || frames.length !== 2) {
      throw new ProtocolError(`a live message has ${frames.length} frames, not 2`);
    }
    if (this.#phase === "syncing") {
      // Events before the token are in the pages that are read after it.
      if (topic === protocol.syncTopic(this.#token)) {
        this.#syncCame(replies.decodeBeat(body), now);
      }
    } else if (this.#phase === "live") {
      this.#live(topic, body, now);
    }
  }

  #syncCame(sign: replies.Fields, now: number): void {
    this.#checkIdentity(replies.text(sign, "database"), replies.text(sign, "epoch"));
    if (replies.text(sign, "engine") !== this.#hello.engine) {
      this.#lookAgain(now);
      return;
    }
    this.#endSync();
    this.#established = this.#synced = true;
    this.#phase = "reading";
  }

  #live(topic: string, body: Buffer, now: number): void {
    if (topic === protocol.HEARTBEAT_TOPIC) {
      this.#beat(replies.decodeBeat(body), now);
    } else if (topic === protocol.GOODBYE_TOPIC) {
      this.#engineGone(now, RETRY_PAUSE);
    } else if (protocol.FACT_TOPICS.some((fact) => topic.startsWith(fact))) {
      const { item, verdict } = this.#feed.takeEvent(replies.decodeEvent(body));
      if (item !== undefined) {
        this.#actions.push({ kind: "deliver", items: [item] });
      }
      this.#heed(verdict);
    }
  }

  #beat(beat: replies.Fields, now: number): void {
    this.#checkIdentity(replies.text(beat, "database"), replies.text(beat, "epoch"));
    if (replies.text(beat, "engine") !== this.#hello.engine) {
      this.#lookAgain(now);
      return;
    }
    const verdict = this.#feed.check(replies.position(beat));
    if (typeof verdict === "string") {
      this.#heed(verdict);
    } else {
      this.#doubt = verdict;
    }
  }

  /** Nothing came in the time to wait. Only now can silence be told from a backlog. */
  idle(now: number): void {
    if (this.#phase !== "live") {
      return;
    }
    if (now >= this.#lastSign + LOST_AFTER) {
      this.#engineGone(now);
    } else if (this.#suspicion !== undefined && now >= this.#suspicion.due) {
      const { stands } = this.#suspicion;
      this.#suspicion = undefined;
      if (stands()) {
        this.#heed("lost");
      }
    }
  }

  /** There was no engine to answer what was asked. Before the first handshake that is an error. */
  unanswered(error: ArminError, now: number): void {
    if (!this.#established) {
      throw error;
    }
    this.#engineGone(now, RETRY_PAUSE);
  }

  #paged(page: unknown, now: number): void {
    const { items, more, ended } = this.#feed.takePage(page);
    if (items.length > 0) {
      this.#actions.push({ kind: "deliver", items });
    }
    if (ended) {
      this.#phase = "ended";
    } else if (more) {
      this.#tell("catching up");
    } else if (this.#synced) {
      this.#phase = "live";
      this.#lastSign = now;
      this.#tell("live");
    } else {
      this.#beginSync(now);
    }
  }

  #doubtAnswered(answer: Tails, now: number): void {
    const doubt = this.#doubt;
    this.#doubt = undefined;
    if (doubt?.lacks(answer)) {
      this.#suspicion = { due: now + GRACE, stands: () => doubt.lacks(answer) };
    }
  }

  #greeted(hello: Hello): void {
    this.#checkIdentity(hello.database, hello.epoch);
    this.#hello = hello;
    this.#reason = HEAL;
    this.#phase = "reading";
    this.#tell("catching up");
  }

  // --- from phase to phase --------------------------------------------------------------------------

  #heed(verdict: Verdict): void {
    if (verdict === "fine") {
      return;
    }
    this.#reason = verdict === "lost" ? HEAL : undefined;
    this.#doubt = this.#suspicion = undefined;
    this.#phase = "reading";
    if (verdict === "lost") {
      this.#tell("catching up");
    }
  }

  #engineGone(now: number, pause = 0): void {
    this.#lookAgain(now, pause, "engine gone");
  }

  #lookAgain(now: number, pause = 0, state: FollowState = "catching up"): void {
    if (this.#phase === "syncing") {
      this.#endSync();
    }
    this.#synced = false;
    this.#doubt = this.#suspicion = undefined;
    this.#due = now + pause;
    this.#phase = "greeting";
    this.#tell(state);
  }

  #tell(state: FollowState): void {
    if (state !== this.#state) {
      this.#state = state;
      this.#actions.push({ kind: "tell", state });
    }
  }

  #beginSync(now: number): void {
    this.#token = this.#options.tokens();
    this.#actions.push({ kind: "subscribe", topic: protocol.syncTopic(this.#token) });
    this.#due = now;
    this.#giveUp = now + (this.#established ? LOST_AFTER : this.#options.timeoutMs);
    this.#phase = "syncing";
  }

  #endSync(): void {
    this.#actions.push({ kind: "unsubscribe", topic: protocol.syncTopic(this.#token) });
  }

  /** To be told where the engine takes it: then no page can be of another epoch. */
  #knownEpoch(): string | undefined {
    return epochToKeep(this.#hello);
  }

  #checkIdentity(database: string, epoch: string): void {
    if (database !== this.#hello.database || epoch !== this.#hello.epoch) {
      const what = database === this.#hello.database ? "a restored database" : "another database";
      throw new CursorInvalid(`the engine now serves ${what}; what was followed has ended`);
    }
  }
}

function ask<R>(call: Call<R>, answered: (result: R, now: number) => void): Ask<R> {
  return { kind: "ask", call, answered };
}
