/** A lossy proxy between clients and an engine's commands socket. */

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { Dealer, Router } from "zeromq";
import { freePort } from "./engine.js";
import { Chance } from "./seeded.js";

const BIND_TRIES = 500; // until the port of the sockets that were closed is free again
const BIND_PAUSE = 5; // ms between two of them

export interface Losses {
  /** Chance that a reply is lost. */
  readonly drop: number;
  /**
   * Chance, for each reply, that the connections are cut: what is under way in both directions is lost, and the
   * clients connect anew.
   */
  readonly cut: number;
  readonly seed: number;
}

/** Forwards commands, drops replies, and now and then cuts every connection. `close` it. */
export class LossyProxy {
  dropped = 0;
  cuts = 0;
  readonly target: string;
  readonly #engine: string;
  readonly #losses: Losses;
  readonly #chance: Chance;
  #front = new Router();
  #back = new Dealer();

  private constructor(target: string, engine: string, losses: Losses) {
    this.target = target;
    this.#engine = engine;
    this.#losses = losses;
    this.#chance = new Chance(losses.seed);
  }

  static async open(engine: string, losses: Losses): Promise<LossyProxy> {
    const proxy = new LossyProxy(`tcp://127.0.0.1:${await freePort()}`, engine, losses);
    await proxy.#connect();
    return proxy;
  }

  async #connect(): Promise<void> {
    this.#front.close();
    this.#back.close();
    this.#front = new Router({ linger: 0, sendHighWaterMark: 0, receiveHighWaterMark: 0 });
    this.#back = new Dealer({ linger: 0, sendHighWaterMark: 0, receiveHighWaterMark: 0 });
    await bind(this.#front, this.target);
    this.#back.connect(this.#engine);
    void this.#forwardCommands(this.#front, this.#back);
    void this.#forwardReplies(this.#front, this.#back);
  }

  async #forwardCommands(front: Router, back: Dealer): Promise<void> {
    for await (const frames of front) {
      await pass(back, frames);
    }
  }

  async #forwardReplies(front: Router, back: Dealer): Promise<void> {
    for await (const frames of back) {
      if (this.#chance.next() < this.#losses.cut) {
        this.cuts += 1;
        await this.#connect();
        return;
      }
      if (this.#chance.next() < this.#losses.drop) {
        this.dropped += 1;
      } else {
        await pass(front, frames);
      }
    }
  }

  close(): void {
    this.#front.close();
    this.#back.close();
  }
}

/** To whoever is still there. */
async function pass(socket: Router | Dealer, frames: Buffer[]): Promise<void> {
  try {
    await socket.send(frames);
  } catch (error) {
    assert.ok(socket.closed, String(error));
  }
}

async function bind(socket: Router, endpoint: string): Promise<void> {
  for (let left = BIND_TRIES; ; left--) {
    try {
      return await socket.bind(endpoint);
    } catch (error) {
      assert.ok(left > 0 || socket.closed, String(error));
      await sleep(BIND_PAUSE);
    }
  }
}
