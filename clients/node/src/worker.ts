/** The side of working that does the I/O: does what a Work says, with a promise for each handler. */

import { setTimeout as sleep } from "node:timers/promises";
import { onAbort } from "./aborting.js";
import type { Call } from "./calls.js";
import type { Channel, Sockets } from "./channel.js";
import {
  type Counters,
  completed,
  type Effect,
  type Failure,
  failure,
  type HeldEffect,
  missing,
  Retry,
} from "./effect.js";
import { ArminError } from "./errors.js";
import type { GroupFields } from "./groupCalls.js";
import * as groupCalls from "./groupCalls.js";
import { newToken } from "./live.js";
import { patience } from "./patience.js";
import { LEASE_MS_DEFAULT } from "./protocol.js";
import { type Line, POLL_MS, Work } from "./working.js";

const READ_ATTEMPTS = 3; // to fetch a large message, before the attempt counts as failed
const READ_PAUSE = 200; // ms between two of these
const TIMER_MS_MAX = 0x7fffffff; // beyond, setTimeout fires at once

/** Called for each effect; it has handled it when what it returns is settled without an error. */
export type Handler = (effect: Effect) => unknown;

/** How a worker works; the settings of its group are fixed by who creates it first. */
export interface WorkerOptions extends GroupFields {
  /** Effects handled at a time; 1 by default. */
  readonly concurrency?: number | undefined;
  /**
   * Milliseconds that an effect lies still if its worker dies; 30,000 by default. The lease of a handler that runs
   * longer is extended.
   */
  readonly leaseMs?: number | undefined;
  /** Whether a message that was too large for its event is fetched before the handler is called; true by default. */
  readonly whole?: boolean | undefined;
  /**
   * Told what a handler threw, unless it was a Retry or the reason of the effect's signal; by default it is written
   * to the console. What this throws ends the worker.
   */
  readonly onFailure?: ((effect: Effect, error: unknown) => void) | undefined;
  /** Ends the worker before its work is done: `run` rejects with its reason. `stop` is the better way. */
  readonly signal?: AbortSignal | undefined;
}

/** Handles the effects of one group, made by `Client.worker`. Runs once. */
export class Worker {
  readonly group: string;
  readonly #sockets: Sockets;
  readonly #handler: Handler;
  readonly #options: WorkerOptions;
  readonly #patience: number;
  readonly #work: Work;
  readonly #running = new Set<Promise<void>>();
  readonly #handling = new Set<HeldEffect>();
  #channels: Record<Line, Channel> | undefined;
  #wake: () => void = () => {};
  #said = false; // something came of it since the last wait
  #end: { readonly error: unknown } | undefined; // why it is not to go on at all
  #begun = false;
  #ended = false; // what is said from then on changes nothing

  constructor(sockets: Sockets, group: string, handler: Handler, options: WorkerOptions = {}) {
    const { concurrency = 1, leaseMs = LEASE_MS_DEFAULT } = options;
    if (!Number.isInteger(concurrency) || concurrency < 1) {
      throw new RangeError(`concurrency must be a whole number of at least 1, not ${concurrency}`);
    }
    this.group = group;
    this.#sockets = sockets;
    this.#handler = handler;
    this.#options = options;
    this.#patience = patience(sockets.timeoutMs, leaseMs);
    const { timeoutMs } = sockets;
    this.#work = new Work(group, { concurrency, leaseMs, timeoutMs, tokens: newToken });
  }

  /** What was done so far. */
  get counters(): Counters {
    return this.#work.counters;
  }

  /** Lease no more; `run` returns when what is held is finished. */
  stop(): void {
    this.#work.stop();
    this.#say();
  }

  /**
   * Create the group unless it exists, and handle its effects until `stop`.
   *
   * Engine restarts are waited for. An aborted worker tells its handlers by `effect.signal`, waits for them, and
   * what they held goes to other workers when the leases end.
   *
   * @throws NoReply no engine answers at the start.
   * @throws Conflict the group exists with other settings.
   * @throws GroupNotFound the group was dropped.
   * @throws ClientClosed the client was closed.
   */
  async run(): Promise<void> {
    if (this.#begun) {
      throw new Error("a worker runs once; make another one");
    }
    this.#begun = true;
    const { signal } = this.#options;
    signal?.throwIfAborted();
    const unlisten = onAbort(signal, () => this.#fail(signal?.reason));
    try {
      await this.#createGroup();
      await this.#loop();
    } finally {
      unlisten();
      await this.#close();
    }
    if (this.#work.error !== undefined) {
      throw this.#work.error;
    }
  }

  async #createGroup(): Promise<void> {
    const channel = this.#sockets.channel();
    try {
      await channel.request(groupCalls.createGroup(this.group, this.#options), this.#options.signal);
    } finally {
      channel.close();
    }
  }

  async #loop(): Promise<void> {
    const { clock } = this.#sockets;
    this.#channels = {
      leases: this.#sockets.channel(POLL_MS + this.#patience),
      outcomes: this.#sockets.channel(this.#patience),
    };
    for (;;) {
      const action = this.#work.next(clock());
      if (action === undefined) {
        return;
      }
      switch (action.kind) {
        case "begin":
          this.#start(this.#handle(action.effect));
          break;
        case "ask":
          this.#start(this.#ask(this.#channels[action.line], action.line, action.call));
          break;
        case "wait":
          await this.#wait(action.until);
          break;
      }
    }
  }

  async #wait(until: number): Promise<void> {
    if (!this.#said) {
      const left = Math.max(0, Math.ceil(until - this.#sockets.clock()));
      await new Promise<void>((resolve) => {
        const timer =
          until === Number.POSITIVE_INFINITY ? undefined : setTimeout(resolve, Math.min(left, TIMER_MS_MAX));
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    this.#said = false;
    if (this.#end !== undefined) {
      throw this.#end.error;
    }
  }

  #say(): void {
    this.#said = true;
    this.#wake();
  }

  /** Go no further: `run` rejects with this. */
  #fail(error: unknown): void {
    this.#end ??= { error };
    this.#say();
  }

  #start(task: Promise<void>): void {
    const running = task.catch((error: unknown) => this.#fail(error)).finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  async #ask(channel: Channel, line: Line, call: Call<unknown>): Promise<void> {
    const { clock } = this.#sockets;
    let result: unknown;
    try {
      result = await channel.request(call);
    } catch (error) {
      if (!(error instanceof ArminError)) {
        throw error;
      }
      this.#hear(() => this.#work.unanswered(line, error, clock()));
      return;
    }
    this.#hear(() => this.#work.answered(line, result, clock()));
  }

  #hear(said: () => void): void {
    if (!this.#ended) {
      said();
      this.#say();
    }
  }

  // --- handlers -------------------------------------------------------------------------------------

  async #handle(effect: HeldEffect): Promise<void> {
    this.#handling.add(effect);
    const outcome = await this.#outcome(effect);
    this.#handling.delete(effect);
    this.#hear(() => this.#work.finished(effect, outcome));
  }

  async #outcome(effect: HeldEffect): Promise<Failure | undefined> {
    try {
      if (this.#options.whole ?? true) {
        await this.#complete(effect);
      }
      await this.#handler(effect);
      return undefined;
    } catch (error) {
      const expected = error instanceof Retry || (effect.signal.aborted && error === effect.signal.reason);
      if (!expected) {
        (this.#options.onFailure ?? complain)(effect, error);
      }
      return failure(error);
    }
  }

  async #complete(effect: HeldEffect): Promise<void> {
    const call = missing(effect.event);
    if (call === undefined) {
      return;
    }
    for (let attempt = 1; ; attempt++) {
      const channel = this.#sockets.channel();
      try {
        effect.event = completed(effect.event, await channel.request(call, effect.signal));
        return;
      } catch (error) {
        if (!(error instanceof ArminError) || !error.retry || attempt === READ_ATTEMPTS) {
          throw error;
        }
      } finally {
        channel.close();
      }
      await sleep(READ_PAUSE, undefined, { signal: effect.signal });
    }
  }

  async #close(): Promise<void> {
    this.#ended = true;
    for (const effect of this.#handling) {
      effect.abort(this.#end?.error);
    }
    this.#channels?.leases.close();
    this.#channels?.outcomes.close();
    await Promise.allSettled(this.#running);
  }
}

function complain(effect: Effect, error: unknown): void {
  console.warn(`the effect at position ${effect.position} failed (attempt ${effect.attempt}):`, error);
}
