/** The side of following that does the I/O: does what a Follower says. */

import { randomBytes } from "node:crypto";
import { onAbort } from "./aborting.js";
import type { Call } from "./calls.js";
import * as calls from "./calls.js";
import type { Channel, Sockets } from "./channel.js";
import { type ArminError, ClientClosed, NoReply, SessionNotFound, ShuttingDown } from "./errors.js";
import { checkEpoch, type Feed } from "./feeds.js";
import { type Ask, type AskTail, Follower } from "./following.js";
import type { Inlet } from "./inlet.js";
import type { Clock } from "./plug.js";
import type { FollowState, Hello, Id, Tails } from "./results.js";
import type { Board, Boards } from "./tails.js";

/** A question under way; it comes to the absence that all who wait for the answer share, if that is what came. */
export type Pending = Promise<ArminError | undefined>;

/** What can be asked by. */
export type Asks = Pick<Channel, "request">;

export interface FollowOptions {
  /** The engine's `epoch` (of `hello`) that `after` was kept with: with another one, the cursor is refused. */
  readonly epoch?: string | undefined;
  /** Called with each change of how the following stands. What it throws ends the follow. */
  readonly onState?: ((state: FollowState) => void) | undefined;
  /** Ends the follow: what waits rejects with its reason, and nothing more is given. */
  readonly signal?: AbortSignal | undefined;
}

/** A token for one `sync` handshake that no other follower has. */
export function newToken(): string {
  return randomBytes(8).toString("hex");
}

/** What one follow asks; where sessions end is asked for all follows of the client. */
export class Questions {
  readonly #channel: Asks;
  readonly #board: Board<Pending>;
  readonly #signal: AbortSignal | undefined;

  constructor(channel: Asks, board: Board<Pending>, signal?: AbortSignal) {
    this.#channel = channel;
    this.#board = board;
    this.#signal = signal;
  }

  /**
   * Have a question answered; one after the end of a session perhaps together with others.
   *
   * @throws ArminError the engine refused, or nobody answered whoever asked.
   */
  put(question: Ask | AskTail): Promise<unknown> {
    return question.kind === "ask" ? this.#request(question.call) : this.#tail(question.sessionId, question.position);
  }

  #request<R>(call: Call<R>): Promise<R> {
    return this.#channel.request(call, this.#signal);
  }

  async #tail(sessionId: Id, position: number): Promise<Tails> {
    const board = this.#board;
    for (;;) {
      const known = board.answer(sessionId, position);
      if (known !== undefined) {
        return known;
      }
      if (board.pending === undefined) {
        const answer = await this.#askForAll(board.question(sessionId, position));
        if (answer !== undefined) {
          return answer;
        }
        continue;
      }
      const absent = await unlessAborted(board.pending, this.#signal);
      if (absent !== undefined) {
        throw absent;
      }
    }
  }

  async #askForAll(asked: readonly Id[]): Promise<Tails | undefined> {
    const board = this.#board;
    let absent: ArminError | undefined;
    let settle: (absent: ArminError | undefined) => void = () => {};
    board.pending = new Promise((resolve) => {
      settle = resolve;
    });
    try {
      return board.answered(asked, await this.#request(calls.tails(asked)));
    } catch (error) {
      if (error instanceof SessionNotFound && asked.length > 1) {
        board.refused(asked);
        return undefined;
      }
      absent = isAbsence(error) ? error : undefined;
      throw error;
    } finally {
      board.pending = undefined;
      settle(absent);
    }
  }
}

/** Who gives up waiting must not take the answer from the others. */
function unlessAborted<R>(promise: Promise<R>, signal: AbortSignal | undefined): Promise<R> {
  if (signal === undefined) {
    return promise;
  }
  return new Promise((resolve, reject) => {
    const leave = onAbort(signal, () => reject(signal.reason));
    promise.then(resolve, reject).finally(leave);
  });
}

function isAbsence(error: unknown): error is NoReply | ShuttingDown {
  return error instanceof NoReply || error instanceof ShuttingDown;
}

/** What a client gives its follows. */
export interface Source {
  readonly sockets: Sockets;
  readonly channel: Asks;
  readonly boards: Boards<Pending>;
}

/**
 * Everything that `feedOf` gives a cursor over: what is there first, then what comes. The live socket is closed
 * when the follow ends, however that happens.
 */
export async function* follow<T>(
  source: Source,
  feedOf: (hello: Hello) => Feed<T>,
  options: FollowOptions = {},
): AsyncGenerator<T, void, undefined> {
  const { sockets, channel, boards } = source;
  const { signal, onState = () => {} } = options;
  signal?.throwIfAborted();
  const hello = await channel.request(calls.hello(), signal);
  signal?.throwIfAborted(); // it may have been aborted before anybody listened
  checkEpoch(hello, options.epoch);
  const feed = feedOf(hello);
  const endpoint = sockets.target.live(hello);
  const inlet = sockets.live(endpoint);
  const unlisten = onAbort(signal, () => inlet.close());
  const { board, leave } = boards.join(hello, feed.sessionIds);
  try {
    const now = sockets.clock();
    const follower = new Follower(feed, hello, { now, timeoutMs: sockets.timeoutMs, endpoint, tokens: newToken });
    const questions = new Questions(channel, board, signal);
    yield* drive(follower, { questions, inlet, clock: sockets.clock, onState, signal });
  } catch (error) {
    if (error instanceof ClientClosed) {
      signal?.throwIfAborted(); // it was closed for that
    }
    throw error;
  } finally {
    unlisten();
    leave();
    inlet.close();
  }
}

/** What a follower is driven with. */
export interface Means {
  readonly questions: Pick<Questions, "put">;
  readonly inlet: Pick<Inlet, "receive" | "subscribe" | "unsubscribe">;
  readonly clock: Clock;
  readonly onState: (state: FollowState) => void;
  readonly signal?: AbortSignal | undefined;
}

/** Yield what the follower delivers, until it ends. */
export async function* drive<T>(follower: Follower<T>, means: Means): AsyncGenerator<T, void, undefined> {
  const { inlet, clock, signal } = means;
  for (let action = follower.next(clock()); action !== undefined; action = follower.next(clock())) {
    signal?.throwIfAborted();
    switch (action.kind) {
      case "deliver":
        for (const item of action.items) {
          signal?.throwIfAborted();
          yield item;
        }
        break;
      case "wait":
        await listen(follower, action.until, means);
        break;
      case "ask":
      case "ask tail":
        await put(follower, action, means);
        break;
      case "subscribe":
        inlet.subscribe(action.topic);
        break;
      case "unsubscribe":
        inlet.unsubscribe(action.topic);
        break;
      case "tell":
        means.onState(action.state);
        break;
    }
  }
}

async function listen(follower: Follower<unknown>, until: number, { inlet, clock }: Means): Promise<void> {
  const frames = await inlet.receive(until);
  if (frames === undefined) {
    follower.idle(clock());
  } else {
    follower.received(frames, clock());
  }
}

async function put(follower: Follower<unknown>, question: Ask | AskTail, means: Means): Promise<void> {
  const { questions, clock } = means;
  let result: unknown;
  try {
    result = await questions.put(question);
  } catch (error) {
    if (!isAbsence(error)) {
      throw error;
    }
    follower.unanswered(error, clock());
    return;
  }
  question.answered(result as Tails, clock());
}
