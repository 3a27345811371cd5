/** Followers for tests: what they were given, how they stood, and whether that is everything. */

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { Subscriber } from "zeromq";
import { Sockets } from "../src/channel.js";
import { Client } from "../src/client.js";
import { NotAuthorized } from "../src/errors.js";
import type { FollowOptions, FollowState, Id, Message, NewMessage } from "../src/index.js";
import { Inlet } from "../src/inlet.js";
import { DirectoryTarget } from "../src/target.js";
import { waitUntil, within } from "./engine.js";

export const DONE_MS = 90_000; // in which every follower here must have come to its end

interface FollowingOptions extends FollowOptions {
  readonly sessionId?: Id;
  /** Of work for each message. */
  readonly workMs?: number;
}

/** Follows a session, the first unless told otherwise; `messages` and `states` grow as they come. */
export class Following {
  readonly messages: Message[] = [];
  readonly states: FollowState[] = [];
  readonly #over: Promise<void>;

  constructor(client: Client, { sessionId = 1, workMs = 0, ...options }: FollowingOptions = {}) {
    const onState = (state: FollowState): void => {
      this.states.push(state);
    };
    this.#over = this.#take(client.follow(sessionId, { onState, ...options }), workMs);
    this.#over.catch(() => {}); // until somebody waits for the end
  }

  async #take(messages: AsyncIterable<Message>, workMs: number): Promise<void> {
    for await (const message of messages) {
      this.messages.push(message);
      if (workMs > 0) {
        await sleep(workMs);
      }
    }
  }

  /** Wait for the end of the session; gives everything. */
  async end(milliseconds = DONE_MS): Promise<readonly Message[]> {
    await within(milliseconds, this.#over, "the follower");
    return this.messages;
  }

  async isLive(): Promise<void> {
    await waitUntil(() => this.states.at(-1) === "live", "it is live", DONE_MS);
  }

  /** Wait until it was given so many. */
  async has(count: number): Promise<void> {
    await waitUntil(() => this.messages.length >= count, `it has ${count} messages`, DONE_MS);
  }
}

/** 1 to `count`, or from behind `after` on. */
export function upTo(count: number, after = 0): number[] {
  return Array.from({ length: count - after }, (_, index) => after + index + 1);
}

/** These are all messages, once and in order. */
export function complete(messages: readonly Message[], count: number, after = 0): void {
  assert.deepEqual(
    messages.map(({ seq }) => seq),
    upTo(count, after),
  );
  assert(messages.every(({ seq, content }) => content === `text ${seq}`));
}

export function texts(count: number, after = 0): NewMessage[] {
  return upTo(count, after).map((seq) => ({ role: "user", content: `text ${seq}` }));
}

/** Sockets of a client that holds one live event at a time. */
class NarrowSockets extends Sockets {
  readonly #inlets: Inlet[] = [];

  override live(endpoint: string): Inlet {
    const socket = new Subscriber({ linger: 0, receiveHighWaterMark: 1 });
    socket.connect(endpoint);
    const source = { open: () => socket, isWatched: false, refusal: () => new NotAuthorized("not in this test") };
    const inlet = new Inlet(source, () => {}, this.clock);
    this.#inlets.push(inlet);
    return inlet;
  }

  override close(): void {
    super.close();
    for (const inlet of this.#inlets) {
      inlet.close();
    }
  }
}

export function connectNarrow(directory: string): Client {
  return new Client(new NarrowSockets(new DirectoryTarget(directory), 10_000));
}
