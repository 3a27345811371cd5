/** What the sockets of a client have in common. */

import type { Dealer, Pull, Subscriber } from "zeromq";
import { ClientClosed } from "./errors.js";

/** Milliseconds of a clock that never goes back. */
export type Clock = () => number;

export const TIMER_MS_MAX = 0x7fffffff; // beyond, setTimeout fires at once

/** A socket that can be closed while somebody waits on it. */
export abstract class Plug<S extends { readonly closed: boolean; close(): void }> {
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

/** The next message; null where the socket was closed. */
export async function received(socket: Dealer | Subscriber | Pull): Promise<Buffer[] | null> {
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
