/** The side of requests that does the I/O: one reader hands each reply to whoever asked, so requests overlap. */

import { performance } from "node:perf_hooks";
import type { Dealer, EventType, Pull, Subscriber } from "zeromq";
import { onAbort } from "./aborting.js";
import * as absence from "./absence.js";
import type { Call } from "./calls.js";
import { Connection } from "./connection.js";
import { ArminError, ClientClosed } from "./errors.js";
import { Inlet } from "./inlet.js";
import { Outbox, type Request, type Transmission } from "./outbox.js";
import { type Clock, Plug, received, TIMER_MS_MAX } from "./plug.js";
import type * as replies from "./replies.js";
import * as sockets from "./sockets.js";
import type { Target } from "./target.js";

const BLOCKED = 20; // ms until a socket that takes nothing is tried again

/**
 * A DEALER to the commands socket; requests overlap, each is answered or given up in time.
 *
 * Writes of one session are made in the order in which they were asked for.
 */
export class Channel extends Plug<Dealer> {
  readonly #open: () => Dealer;
  readonly #clock: Clock;
  readonly #givenUp: (request: Request) => ArminError;
  readonly #outbox: Outbox;
  readonly #connection = new Connection();
  #renewal: NodeJS.Timeout | undefined;
  #isSending = false;
  #timer: NodeJS.Timeout | undefined;
  #timerDue = Number.POSITIVE_INFINITY;
  #afterPoll: NodeJS.Immediate | undefined;

  constructor(open: () => Dealer, forget: (plug: unknown) => void, target: Target, timeoutMs: number, clock: Clock) {
    super(open(), forget);
    this.#open = open;
    this.#clock = clock;
    this.#givenUp = ({ call, wasSent }) => {
      const unanswered = { sent: wasSent, writes: call.writes, key: call.key };
      return absence.noReply(target, timeoutMs, unanswered, this.#connection.obstacle);
    };
    this.#outbox = new Outbox(timeoutMs, this.#givenUp);
    this.#attend(this.socket);
  }

  /** As long as the socket is open, so that an open client keeps the process alive. */
  #attend(socket: Dealer): void {
    void this.#watch(socket);
    void this.#read(socket);
  }

  /**
   * Send one command, again if need be, and wait for its reply.
   *
   * Aborted, it rejects with the signal's reason; a write that was sent may be made all the same.
   *
   * @throws ArminError the engine refused, nobody answered (NoReply), or this was closed (ClientClosed).
   */
  async request<T>(call: Call<T>, signal?: AbortSignal): Promise<T> {
    this.checkOpen();
    signal?.throwIfAborted();
    try {
      return call.parse(await this.#fields(call, signal));
    } catch (error) {
      if (error instanceof ArminError) {
        Error.captureStackTrace(error); // of whoever asked, not of the reader
      }
      throw error;
    }
  }

  #fields(call: Call<unknown>, signal: AbortSignal | undefined): Promise<replies.Fields> {
    return new Promise((resolve, reject) => {
      const request = this.#outbox.add(call, this.#clock(), (result) => {
        leave();
        if (result instanceof ArminError) {
          reject(result);
        } else {
          resolve(result);
        }
      });
      const leave = onAbort(signal, () => {
        this.#outbox.forget(request);
        reject(signal?.reason);
      });
      this.#pump();
    });
  }

  /** Know whether an engine is connected. */
  async #watch(socket: Dealer): Promise<void> {
    for await (const { type } of socket.events) {
      if (socket === this.socket) {
        this.#heard(type, socket);
      }
    }
  }

  #heard(type: EventType, socket: Dealer): void {
    switch (this.#connection.heard(type, this.#clock())) {
      case "send":
        this.#pump();
        break;
      case "tell":
        this.#outbox.fail(this.#givenUp); // the next one waits for the next attempt
        break;
      case "renew":
        setImmediate(() => this.#renew(socket)); // replies that have come are taken first
        break;
      case "renew later":
        this.#renewLater(socket);
        break;
    }
  }

  #renewLater(socket: Dealer): void {
    const pause = this.#connection.pauseLeft(this.#clock());
    this.#renewal = setTimeout(() => this.#renew(socket), pause);
  }

  /** What waits in a socket whose connection is gone would go to the next engine, even if it was given up since. */
  #renew(socket: Dealer): void {
    if (socket !== this.socket || socket.closed) {
      return;
    }
    try {
      this.socket = this.#open();
    } catch {
      // No socket is to be had now. Unless libzmq has given this one up, it connects again by itself.
      if (this.#connection.hasGivenUp) {
        this.#renewLater(socket);
      }
      return;
    }
    this.#connection.renewed();
    socket.close();
    this.#attend(this.socket);
  }

  /** Send what may be sent, and come again when something is due. */
  #pump(): void {
    if (!this.#isSending && !this.socket.closed) {
      void this.#send();
    }
  }

  /** The package allows one `send` at a time. */
  async #send(): Promise<void> {
    this.#isSending = true;
    let isBlocked = false;
    for (let next = this.#next(); next !== null; next = isBlocked ? null : this.#next()) {
      isBlocked = !(await this.#handOver(next));
    }
    this.#isSending = false;
    this.#setTimer(isBlocked);
  }

  /** What is sent while no engine is connected would wait for the next one, even if it was given up since. */
  #next(): Transmission | null {
    return this.#connection.isThere ? this.#outbox.nextToSend() : null;
  }

  /** Whether the socket took it. */
  async #handOver({ request, frames }: Transmission): Promise<boolean> {
    this.#outbox.sent(request, this.#clock());
    try {
      await this.socket.send(frames as Uint8Array[]);
      return true;
    } catch {
      this.#outbox.unsent(request); // as many wait in the socket as may, as the engine takes nothing for now
      return false;
    }
  }

  #setTimer(isBlocked: boolean): void {
    const due = this.#outbox.nextDue();
    if (due === null || this.socket.closed) {
      return;
    }
    const now = this.#clock();
    const wanted = Math.max(now, isBlocked ? Math.min(due, now + BLOCKED) : due);
    if (wanted < this.#timerDue) {
      clearTimeout(this.#timer);
      this.#timerDue = wanted;
      this.#timer = setTimeout(() => this.#rang(), Math.min(Math.ceil(wanted - now), TIMER_MS_MAX));
    }
  }

  /** Replies that wait, as this process was busy or asleep, are taken before any request is given up. */
  #rang(): void {
    this.#afterPoll = setImmediate(() => this.#tick());
  }

  #tick(): void {
    this.#timerDue = Number.POSITIVE_INFINITY;
    this.#outbox.tick(this.#clock());
    this.#pump();
  }

  async #read(socket: Dealer): Promise<void> {
    for (;;) {
      const frames = await received(socket);
      if (frames === null) {
        return;
      }
      this.#outbox.received(frames, this.#clock());
      this.#pump();
    }
  }

  /** Close its socket; requests under way reject with ClientClosed. */
  override close(): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#renewal);
    clearImmediate(this.#afterPoll);
    super.close();
    this.#outbox.fail(() => new ClientClosed("this client was closed before the reply came"));
  }
}

/** Every socket of one client. */
export class Sockets {
  readonly target: Target;
  readonly timeoutMs: number;
  readonly clock: Clock;
  readonly #open = new Set<{ close(): void }>();
  #isClosed = false;

  constructor(target: Target, timeoutMs: number, clock: Clock = () => performance.now()) {
    this.target = target;
    this.timeoutMs = timeoutMs;
    this.clock = clock;
  }

  /** A new connection to the commands socket; `timeoutMs` is the client's unless given. */
  channel(timeoutMs: number = this.timeoutMs): Channel {
    return this.#keep(
      (forget) =>
        new Channel(
          () => sockets.openCommands(this.target.commands, this.target.key),
          forget,
          this.target,
          timeoutMs,
          this.clock,
        ),
    );
  }

  /** A new connection to the live socket. */
  live(endpoint: string): Inlet {
    return this.#inlet(() => sockets.openLive(endpoint, this.target.key), "the live socket");
  }

  /** A new connection to the effects socket. */
  effects(endpoint: string): Inlet {
    return this.#inlet(() => sockets.openEffects(endpoint, this.target.key), "the effects socket");
  }

  #inlet(open: () => Subscriber | Pull, place: string): Inlet {
    const { target } = this;
    const refusal = (): ArminError => absence.refused(target, place);
    const source = { open, refusal, isWatched: target.key !== null };
    return this.#keep((forget) => new Inlet(source, forget, this.clock));
  }

  #keep<P extends { close(): void }>(open: (forget: (plug: unknown) => void) => P): P {
    if (this.#isClosed) {
      throw new ClientClosed();
    }
    const plug = open(() => this.#open.delete(plug));
    this.#open.add(plug);
    return plug;
  }

  /** Close every socket. Closing twice is fine. */
  close(): void {
    this.#isClosed = true;
    for (const plug of [...this.#open]) {
      plug.close();
    }
  }
}
