/**
 * What a socket's events say of its connection, and what is to be done about it.
 *
 * libzmq connects anew by itself where a connection is lost or cannot be made; but where the engine refuses a key, or
 * has another mechanism than we, it gives up for good: then whoever wants a connection opens another socket, later
 * and later, so that one who is not wanted is no burden.
 */

import type { EventType } from "zeromq";
import { Pause } from "./patience.js";

/**
 * Why no handshake succeeds: the engine does not take this key (`refused`); one of the two uses keys and the other
 * does not (`mechanism`); the other end breaks off, as it does where another engine's key is expected (`cut`), and
 * often, too, where only one of us uses keys.
 */
export type Obstacle = "refused" | "mechanism" | "cut";

/** What to do: send, open another socket at once or after a pause, tell that the key was refused. */
export type Consequence = "send" | "renew" | "renew later" | "tell" | undefined;

const PAUSE_MIN = 20; // ms, also where no socket was to be had after the pause

/** How one socket after another stands with the engine. */
export class Connection {
  isThere = false;
  /** Why there is none, if anything is known; kept while the next attempts are under way. */
  obstacle: Obstacle | null = null;
  /** The socket does not connect anew by itself. */
  hasGivenUp = false;
  readonly #pause = new Pause();

  /** Something happened to the socket. */
  heard(event: EventType, now: number): Consequence {
    switch (event) {
      case "handshake":
        this.isThere = true;
        this.obstacle = null;
        this.#pause.answered();
        return "send";
      case "handshake:error:auth":
        return this.#failed("refused", now);
      case "handshake:error:protocol":
        return this.#failed("mechanism", now);
      case "handshake:error:other":
        return this.#failed("cut", now);
      case "close":
        this.obstacle = null; // nobody listens there any more
        return undefined;
      case "disconnect":
        return this.#disconnected();
      default:
        return undefined;
    }
  }

  /** Milliseconds until the next socket may be opened, after "renew later". */
  pauseLeft(now: number): number {
    return Math.max(PAUSE_MIN, Math.ceil(this.#pause.until - now));
  }

  /** Another socket is in its place. */
  renewed(): void {
    this.isThere = this.hasGivenUp = false;
  }

  #failed(obstacle: Obstacle, now: number): Consequence {
    if (obstacle !== "cut" || this.obstacle === null) {
      this.obstacle = obstacle; // the others say more
    }
    this.hasGivenUp = obstacle !== "cut";
    if (this.hasGivenUp) {
      this.#pause.failed(now);
    }
    return obstacle === "refused" ? "tell" : undefined;
  }

  #disconnected(): Consequence {
    const wasThere = this.isThere;
    this.isThere = false;
    if (wasThere) {
      return "renew";
    }
    return this.hasGivenUp ? "renew later" : undefined;
  }
}
