/** A bare connection to the commands socket, for what the client has no method for. */

import { Dealer } from "zeromq";
import * as wire from "../../src/wire.js";
import { within } from "../engine.js";
import { encode } from "./values.js";

export type Fields = Record<string, unknown>;

/** Numbers its commands; `reply` waits for what answers one. */
export class Peer {
  readonly #socket = new Dealer({ linger: 0, sendHighWaterMark: 0, receiveHighWaterMark: 0, reconnectInterval: 20 });
  readonly #waiting = new Map<number, (reply: Fields) => void>();
  readonly #timeoutMs: number;
  #last = 0;
  #sending: Promise<void> = Promise.resolve();

  constructor(endpoint: string, timeoutMs: number) {
    this.#timeoutMs = timeoutMs;
    this.#socket.connect(endpoint);
    void this.#receive();
  }

  async #receive(): Promise<void> {
    for await (const [number, packed] of this.#socket) {
      this.#waiting.get(Number(String(number)))?.(wire.decode(packed as Uint8Array) as Fields);
    }
  }

  /** Send a command; gives what its reply will be. */
  send(command: unknown): () => Promise<Fields> {
    this.#last += 1;
    const number = this.#last;
    const reply = new Promise<Fields>((resolve) => this.#waiting.set(number, resolve));
    const frames = [String(number), Buffer.from(encode(command))];
    this.#sending = this.#sending.then(() => this.#socket.send(frames)); // one at a time
    return () => within(this.#timeoutMs, reply, "a reply");
  }

  /** Send a command and wait for its reply. */
  ask(command: unknown): Promise<Fields> {
    return this.send(command)();
  }

  /** Vanish, once all is sent. */
  async close(): Promise<void> {
    await this.#sending;
    this.#socket.close();
  }
}
