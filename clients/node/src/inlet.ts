/** The side of live messages and effects that does the I/O. */

import type { Pull, Subscriber } from "zeromq";
import { onAbort } from "./aborting.js";
import { Connection } from "./connection.js";
import type { ArminError } from "./errors.js";
import { type Clock, Plug, received, TIMER_MS_MAX } from "./plug.js";

const TURN = 2; // ms, so that the event loop looks at the sockets before a timer of this length ends

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
      if (frames === null && socket !== this.socket) {
        this.#listen(); // another one is in its place
      } else {
        this.#wake();
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
