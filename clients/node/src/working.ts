/**
 * How to work for a group: what to lease, begin, extend, ack and nack, and when.
 *
 * A state machine without sockets and clocks, as following.ts has one: `next` says what to do, the other methods
 * say what came of it, and time is passed in, in milliseconds. worker.ts drives it.
 *
 * It asks on two lines, one command at a time on each:
 *
 *     leases      long polls, for no more effects than there are free places
 *     outcomes    extensions, acks and nacks; what comes up while one is under way goes together in the next
 *
 * What was not answered is asked again in the same words: a poll keeps its token, and acks may be repeated.
 */

import type { Call } from "./calls.js";
import { type Counters, type Failure, HeldEffect } from "./effect.js";
import { type ArminError, ProtocolError } from "./errors.js";
import * as groupCalls from "./groupCalls.js";
import { Pause, RENEWALS } from "./patience.js";
import { LEASES_MAX } from "./protocol.js";
import type { Leases, Outcomes } from "./results.js";

export const POLL_MS = 1000; // a poll is asked anew after this long: an engine that restarted forgot the last one

/** Where a command is asked; see the module's text. */
export type Line = "leases" | "outcomes";

/** Call the handler; then say `finished`. */
export interface Begin {
  readonly kind: "begin";
  readonly effect: HeldEffect;
}

/** Send a command; then say `answered`, or `unanswered` with the error. */
export interface Ask {
  readonly kind: "ask";
  readonly line: Line;
  readonly call: Call<unknown>;
}

/** Wait until something is said, or until this time. */
export interface Wait {
  readonly kind: "wait";
  readonly until: number;
}

export type Action = Begin | Ask | Wait;

/** A lease whose handler runs; extended when `renewAt` has come. */
interface Held {
  readonly effect: HeldEffect;
  renewAt: number;
}

/** A poll that may have been given leases, whether an answer came or not; `taken` are those we know. */
interface Poll {
  readonly places: number;
  readonly token: string;
  repeated: boolean;
  readonly taken: Set<string>;
}

/** A command on the line of outcomes: what to do with its result, and how to take it back or let it be. */
interface Settlement {
  readonly call: Call<unknown>;
  answered(result: unknown, now: number): void;
  again(): void;
  giveUp(): void;
}

interface Failed {
  readonly effect: HeldEffect;
  readonly failure: Failure;
}

export interface WorkOptions {
  /** Effects handled at a time. */
  readonly concurrency: number;
  /** How long each lease runs, unless extended. */
  readonly leaseMs: number;
  /** Milliseconds after a stop until it gives up on an engine that does not answer. */
  readonly timeoutMs: number;
  /** Makes a new token for each poll. */
  readonly tokens: () => string;
}

/** One worker's share of a group. */
export class Work {
  counters: Counters = { handled: 0, failed: 0, dead: 0, lost: 0, redelivered: 0 };
  error: ArminError | undefined; // why it stopped by itself
  readonly #group: string;
  readonly #options: WorkOptions;
  readonly #renewal: number; // milliseconds between two extensions
  readonly #fresh: HeldEffect[] = []; // held, not begun yet
  readonly #held = new Map<string, Held>(); // by lease
  #acks: HeldEffect[] = [];
  #nacks: Failed[] = [];
  #poll: Poll | undefined;
  #polling = false; // an answer is to come on the line of leases
  #recalling = false; // and one to the recall, on the line of outcomes
  #recalled = false;
  readonly #pollPause = new Pause();
  #settlement: Settlement | undefined; // its answer is to come on the line of outcomes
  readonly #settlePause = new Pause();
  #stopping = false;
  #giveUpAt = Number.POSITIVE_INFINITY;

  constructor(group: string, options: WorkOptions) {
    this.#group = group;
    this.#options = options;
    this.#renewal = options.leaseMs / RENEWALS;
  }

  // --- what to do -----------------------------------------------------------------------------------

  /** What to do now; undefined: nothing is left to be done, ever. */
  next(now: number): Action | undefined {
    const fresh = this.#fresh.shift();
    if (fresh !== undefined) {
      return this.#begin(fresh);
    }
    if (this.#wantsPoll() && now >= this.#pollPause.until) {
      return { kind: "ask", line: "leases", call: this.#askLeases() };
    }
    if (this.#settlement === undefined && now >= this.#settlePause.until) {
      this.#settlement = this.#nextSettlement(now);
      if (this.#settlement !== undefined) {
        return { kind: "ask", line: "outcomes", call: this.#settlement.call };
      }
    }
    if (this.#stopping && this.#held.size === 0 && this.#ends(now)) {
      return undefined;
    }
    return { kind: "wait", until: this.#deadline() };
  }

  #begin(effect: HeldEffect): Begin {
    if (effect.attempt > 1) {
      this.#count({ redelivered: 1 });
    }
    return { kind: "begin", effect };
  }

  #wantsPoll(): boolean {
    if (this.#stopping || this.#polling) {
      return false;
    }
    return this.#poll !== undefined || this.#places() > 0;
  }

  /** Effects that could be begun at once; none while outcomes pile up that the engine does not take. */
  #places(): number {
    const unsaid = this.#acks.length + this.#nacks.length;
    return Math.min(this.#options.concurrency - this.#held.size, LEASES_MAX - unsaid);
  }

  #askLeases(): Call<Leases> {
    this.#poll ??= {
      places: this.#places(),
      token: this.#options.tokens(),
      repeated: false,
      taken: new Set(),
    };
    this.#polling = true;
    return this.#leaseCall(this.#poll, POLL_MS);
  }

  #leaseCall(poll: Poll, waitMs: number): Call<Leases> {
    const { leaseMs } = this.#options;
    return groupCalls.lease(this.#group, { max: poll.places, leaseMs, waitMs, request: poll.token });
  }

  /** What is most urgent on the line of outcomes. */
  #nextSettlement(now: number): Settlement | undefined {
    if (this.#wantsRecall()) {
      return this.#recall();
    }
    const due = [...this.#held.values()].filter((held) => held.renewAt <= now);
    if (due.length > 0) {
      return this.#extend(due, now);
    }
    if (this.#acks.length > 0) {
      return this.#ack();
    }
    return this.#nack();
  }

  #wantsRecall(): boolean {
    return this.#stopping && this.#poll !== undefined && !this.#recalled;
  }

  /** Whether the engine knows all that happened, and has given us nothing that we do not know of. */
  #ends(now: number): boolean {
    const unsaid = this.#acks.length + this.#nacks.length;
    if (unsaid === 0 && this.#settlement === undefined && this.#poll === undefined) {
      return true;
    }
    this.#giveUpAt = Math.min(this.#giveUpAt, now + this.#options.timeoutMs);
    if (now < this.#giveUpAt) {
      return false;
    }
    this.#settlement?.giveUp();
    this.#lose([...this.#acks, ...this.#nacks.map(({ effect }) => effect)]);
    return true;
  }

  #deadline(): number {
    const moments = [this.#giveUpAt];
    if (this.#wantsPoll()) {
      moments.push(this.#pollPause.until);
    }
    if (this.#settlement === undefined) {
      if (this.#acks.length > 0 || this.#nacks.length > 0 || this.#wantsRecall()) {
        moments.push(this.#settlePause.until);
      }
      const renewals = [...this.#held.values()].map((held) => held.renewAt);
      moments.push(Math.max(this.#settlePause.until, Math.min(...renewals)));
    }
    return Math.min(...moments);
  }

  // --- what came of it ------------------------------------------------------------------------------

  /** Lease no more; what is held is finished first. */
  stop(): void {
    this.#stopping = true;
  }

  /** The handler has returned (no failure), or failed. */
  finished(effect: HeldEffect, failure: Failure | undefined): void {
    this.#held.delete(effect.lease.lease);
    if (effect.lost) {
      return; // counted when that was found out
    }
    if (failure === undefined) {
      this.#acks.push(effect);
    } else {
      this.#nacks.push({ effect, failure });
    }
  }

  /** The engine has answered what was asked on this line. */
  answered(line: Line, result: unknown, now: number): void {
    if (line === "leases") {
      this.#pollPause.answered();
      this.#polling = false;
      this.#take(result as Leases, now);
    } else {
      this.#settlePause.answered();
      this.#endSettlement().answered(result, now);
    }
  }

  /** Nobody answered, or the engine refused: again if that may help, else this is the end. */
  unanswered(line: Line, error: ArminError, now: number): void {
    if (!error.retry) {
      this.error ??= error;
      this.stop();
    }
    if (line === "leases") {
      this.#pollPause.failed(now);
      this.#polling = false;
      if (!error.retry || this.#recalled) {
        this.#forgetPoll();
      } else if (this.#poll !== undefined) {
        this.#poll.repeated = true;
      }
    } else {
      this.#settlePause.failed(now);
      const settlement = this.#endSettlement();
      if (error.retry) {
        settlement.again();
      } else {
        settlement.giveUp();
      }
    }
  }

  #endSettlement(): Settlement {
    const settlement = this.#settlement;
    if (settlement === undefined) {
      throw new Error("an answer came on the line of outcomes, where nothing was asked");
    }
    this.#settlement = undefined;
    return settlement;
  }

  /** Hold what a poll was given. Its recall, and its repetition, may name the same leases again. */
  #take(found: Leases, now: number): void {
    const poll = this.#poll;
    if (poll === undefined) {
      throw new Error("leases came without a poll");
    }
    for (const lease of found.leases) {
      if (!poll.taken.has(lease.lease)) {
        poll.taken.add(lease.lease);
        const effect = new HeldEffect(lease);
        this.#fresh.push(effect);
        // A repeated poll may have been answered long ago, for all we know.
        this.#held.set(lease.lease, { effect, renewAt: poll.repeated ? now : now + this.#renewal });
      }
    }
    this.#forgetPoll();
  }

  /** Unless something may still come of it. */
  #forgetPoll(): void {
    if (!this.#polling && !this.#recalling) {
      this.#poll = undefined;
    }
  }

  // --- the line of outcomes ---------------------------------------------------------------------------

  /** End the parked poll, and learn of what it was given meanwhile. Tried once: then leases expire. */
  #recall(): Settlement {
    const poll = this.#poll;
    if (poll === undefined) {
      throw new Error("there is no poll to recall");
    }
    this.#recalled = this.#recalling = true;
    const giveUp = (): void => {
      this.#recalling = false;
      this.#forgetPoll();
    };
    const answered = (found: Leases, now: number): void => {
      this.#recalling = false;
      this.#take(found, now);
    };
    return settlement(this.#leaseCall(poll, 0), { answered, again: giveUp, giveUp });
  }

  #extend(due: readonly Held[], askedAt: number): Settlement {
    const batch = due.slice(0, LEASES_MAX);
    const effects = batch.map((held) => held.effect);
    const loseHeld = (lost: readonly HeldEffect[]): void =>
      this.#lose(lost.filter((effect) => this.#held.has(effect.lease.lease)));
    const answered = (found: Outcomes): void => {
      const lost = new Set(lostOf(effects, found));
      for (const held of batch) {
        held.renewAt = lost.has(held.effect) ? Number.POSITIVE_INFINITY : askedAt + this.#renewal;
      }
      loseHeld([...lost]);
    };
    const giveUp = (): void => {
      loseHeld(effects);
      for (const held of batch) {
        held.renewAt = Number.POSITIVE_INFINITY;
      }
    };
    const call = groupCalls.extend(this.#group, names(effects), { leaseMs: this.#options.leaseMs });
    return settlement(call, { answered, again: () => {}, giveUp });
  }

  #ack(): Settlement {
    const batch = this.#acks.splice(0, LEASES_MAX);
    const answered = (found: Outcomes): void => {
      const lost = lostOf(batch, found);
      this.#count({ handled: batch.length - lost.length });
      this.#lose(lost);
    };
    const again = (): void => {
      this.#acks.unshift(...batch);
    };
    const giveUp = (): void => this.#lose(batch);
    return settlement(groupCalls.ack(this.#group, names(batch)), { answered, again, giveUp });
  }

  /** All that failed for the same reason as the first. */
  #nack(): Settlement | undefined {
    const [first] = this.#nacks;
    if (first === undefined) {
      return undefined;
    }
    const { reason, delayMs } = first.failure;
    const alike = this.#nacks
      .filter(({ failure }) => failure.reason === reason && failure.delayMs === delayMs)
      .slice(0, LEASES_MAX);
    const chosen = new Set(alike);
    this.#nacks = this.#nacks.filter((one) => !chosen.has(one));
    const batch = alike.map(({ effect }) => effect);
    const answered = (found: Outcomes): void => {
      const lost = lostOf(batch, found);
      const dead = found.outcomes.filter((outcome) => outcome.dead).length;
      this.#count({ failed: batch.length - lost.length, dead });
      this.#lose(lost);
    };
    const again = (): void => {
      this.#nacks.unshift(...alike);
    };
    const giveUp = (): void => this.#lose(batch);
    const said = { reason: reason === "" ? undefined : reason, delayMs };
    return settlement(groupCalls.nack(this.#group, names(batch), said), { answered, again, giveUp });
  }

  #lose(effects: readonly HeldEffect[]): void {
    this.#count({ lost: effects.length });
    for (const effect of effects) {
      effect.lose();
    }
  }

  #count(more: Partial<Counters>): void {
    const names = Object.keys(more) as (keyof Counters)[];
    const changed = names.map((name) => [name, this.counters[name] + (more[name] ?? 0)]);
    this.counters = { ...this.counters, ...Object.fromEntries(changed) };
  }
}

/** One that forgets the type of its answer, which the driver hands through unseen. */
function settlement<R>(
  call: Call<R>,
  ways: { answered(result: R, now: number): void; again(): void; giveUp(): void },
): Settlement {
  return { call, ...ways };
}

function names(effects: readonly HeldEffect[]): string[] {
  return effects.map((effect) => effect.lease.lease);
}

/** The effects whose outcome says that the lease was gone. */
function lostOf(batch: readonly HeldEffect[], found: Outcomes): HeldEffect[] {
  const same = found.outcomes.length === batch.length;
  if (!same || found.outcomes.some((outcome, index) => outcome.lease !== batch[index]?.lease.lease)) {
    throw new ProtocolError("the outcomes are not those of the leases that were named");
  }
  return batch.filter((_, index) => found.outcomes[index]?.ok !== true);
}
