/** The side of requests that does the I/O: one reader hands each reply to whoever asked, so requests overlap. */

import { performance } from "node:perf_hooks";
import type { Dealer, EventType, Pull, Subscriber } from "zeromq";
import { onAbort } from "./aborting.js";
import * as absence from "./absence.js";
import type { Call } from "./calls.js";
import { Connection } from "./connection.js";
import { ArminError, ClientClosed } from "./errors.js";
import { Outbox, type Request, type Transmission } from "./outbox.js";
import type * as replies from "./replies.js";
import * as sockets from "./sockets.js";
import type { Target } from "./target.js";

/** Milliseconds of a clock that never goes back. */
export type Clock = () => number;

const BLOCKED = 20; // ms until a socket that takes nothing is tried again
const TURN = 2; // ms, so that the event loop looks at the sockets before a timer of this length ends
const TIMER_MS_MAX = 0x7fffffff; // beyond, setTimeout fires at once

/** A socket that can be closed while somebody waits on it. */
abstract class Plug<S extends { readonly closed: boolean; close(): void }> {
  protected socket: S;
  readonly #forget: (plug: Plug<S>) => void;

  constructor(socket: S, forget: (plug: Plug<S>) => void) {
    this.socket = socket;
    this.#forget = forget;
  }

  /** @throws ClientClosed it is closed. */
  protected checkOpen(): void {
    if (this.socket.closed) {
      throw new ClientClosed();
    }
  }

  /** Close the socket. Closing twice is fine. */
  close(): void {
    if (!this.socket.closed) {
      this.socket.close();
      this.#forget(this);
    }
  }
}

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

/** The next message; null where the socket was closed. */
async function received(socket: Dealer | Subscriber | Pull): Promise<Buffer[] | null> {
  while (!socket.closed) {
    try {
      return await socket.receive();
    } catch (error) {
      // What it was woken for may be gone with its connection.
      if (!socket.closed && (error as NodeJS.ErrnoException).code !== "EAGAIN") {
        throw error;
      }
    }
  }
  return null;
}

/** How an inlet gets its sockets, and what it says where the engine refuses its key. */
export interface Source {
  readonly open: () => Subscriber | Pull;
  readonly refusal: () => ArminError;
  /** Whether the socket's events are kept, so that refusals are seen. */
  readonly isWatched: boolean;
}

/** A SUB or PULL socket, read message by message. */
export class Inlet extends Plug<Subscriber | Pull> {
  readonly #source: Source;
  readonly #clock: Clock;
  readonly #connection = new Connection();
  readonly #topics: string[] = [];
  #arrived: Buffer[] | null = null; // taken from the socket, not yet from here
  #isReceiving = false;
  #refusal: ArminError | undefined;
  #renewal: NodeJS.Timeout | undefined;
  #wake: () => void = () => {};

  constructor(source: Source, forget: (plug: unknown) => void, clock: Clock) {
    super(source.open(), forget);
    this.#source = source;
    this.#clock = clock;
    if (source.isWatched) {
      void this.#watch(this.socket);
    }
  }

  /** libzmq connects anew by itself, but for where it has given up. */
  async #watch(socket: Subscriber | Pull): Promise<void> {
    for await (const { type } of socket.events) {
      const consequence = socket === this.socket ? this.#connection.heard(type, this.#clock()) : undefined;
      if (consequence === "tell") {
        this.#refusal = this.#source.refusal();
        this.#wake();
      } else if (consequence === "renew later") {
        this.#renewLater();
      }
    }
  }

  #renewLater(): void {
    this.#renewal = setTimeout(() => this.#renew(), this.#connection.pauseLeft(this.#clock()));
  }

  #renew(): void {
    const late = this.socket;
    if (late.closed) {
      return; // the news came after the close
    }
    try {
      this.socket = this.#source.open();
    } catch {
      this.#renewLater(); // no socket is to be had now
      return;
    }
    for (const topic of this.#topics) {
      this.#subscriber().subscribe(topic);
    }
    this.#connection.renewed();
    late.close();
    void this.#watch(this.socket);
  }

  /**
   * The frames of the next message, or undefined if there is none before `deadline`, a time of the clock.
   *
   * A receive of the package cannot be cancelled: one that outlasts its deadline goes on for the next caller. To be
   * called by one at a time.
   *
   * @throws ClientClosed this was closed.
   * @throws NotAuthorized the engine refused the key.
   */
  async receive(deadline: number, signal?: AbortSignal): Promise<Buffer[] | undefined> {
    this.#check(signal);
    this.#listen();
    await Promise.resolve(); // by then, what had come already is here; but not always, so there is a second look
    for (let until = Math.max(deadline, this.#clock() + TURN); this.#arrived === null && this.#clock() < until; ) {
      await this.#woken(until, signal);
      this.#check(signal);
    }
    const frames = this.#arrived;
    this.#arrived = null;
    return frames ?? undefined;
  }

  #check(signal: AbortSignal | undefined): void {
    signal?.throwIfAborted();
    this.checkOpen();
    const refusal = this.#refusal;
    this.#refusal = undefined;
    if (refusal !== undefined) {
      throw refusal;
    }
  }

  #listen(): void {
    if (this.#arrived !== null || this.#isReceiving) {
      return;
    }
    this.#isReceiving = true;
    const { socket } = this;
    const take = (frames: Buffer[] | null): void => {
      this.#arrived = frames;
      this.#isReceiving = false;
      if (socket === this.socket) {
        this.#wake();
      } else {
        this.#listen(); // another one is in its place
      }
    };
    void received(socket).then(take);
  }

  async #woken(deadline: number, signal: AbortSignal | undefined): Promise<void> {
    const left = Math.ceil(deadline - this.#clock());
    let timer: NodeJS.Timeout | undefined;
    let leave = (): void => {};
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      timer = deadline === Number.POSITIVE_INFINITY ? undefined : setTimeout(resolve, Math.min(left, TIMER_MS_MAX));
      leave = onAbort(signal, resolve);
    });
    clearTimeout(timer);
    leave();
  }

  /** Take messages whose first frame begins with `topic`. */
  subscribe(topic: string): void {
    this.checkOpen();
    this.#topics.push(topic);
    this.#subscriber().subscribe(topic);
  }

  /** Undo one `subscribe`. */
  unsubscribe(topic: string): void {
    this.checkOpen();
    this.#topics.splice(this.#topics.indexOf(topic), 1);
    this.#subscriber().unsubscribe(topic);
  }

  #subscriber(): Subscriber {
    return this.socket as Subscriber;
  }

  /** Close its socket; who waits on it gets ClientClosed. */
  override close(): void {
    clearTimeout(this.#renewal);
    super.close();
    this.#wake();
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
