/** Where sessions end, asked once for all follows of a client. */

import assert from "node:assert/strict";
import { test } from "node:test";
import type { Call } from "../src/calls.js";
import { type ArminError, NoReply, ProtocolError, SessionNotFound } from "../src/errors.js";
import type { AskTail } from "../src/following.js";
import { type Asks, type Pending, Questions } from "../src/live.js";
import { TAILS_MAX } from "../src/protocol.js";
import type { Id, Tails } from "../src/results.js";
import { Board, Boards } from "../src/tails.js";

const HELLO = { database: "database", epoch: "epoch" };
const SILENCE = new NoReply("nobody", { reason: "not_running", sent: false });
const UNKNOWN = 13;

function tails(position: number, ...sessionIds: readonly Id[]): Tails {
  return { tails: sessionIds.map((sessionId) => ({ sessionId, seq: 7, closed: false })), position };
}

function boardOf(...sessionIds: readonly Id[]): Board<Pending> {
  const board = new Board<Pending>();
  board.join(sessionIds);
  return board;
}

function question(sessionId: Id): AskTail {
  return { kind: "ask tail", sessionId, position: 90, answered: () => {} };
}

test("who asks first asks for all, and for itself first", () => {
  const board = boardOf(1, 2, 3);
  const asked = board.question(2, 50);
  assert.deepEqual(asked, [2, 1, 3]);
  assert.deepEqual(board.answered(asked, tails(60, ...asked)), tails(60, 2));
  assert.deepEqual(board.answer(1, 60), tails(60, 1));
  assert.equal(board.answer(1, 61), undefined);
});

test("ids beyond 2^53 are told apart", () => {
  const large = 2n ** 60n + 1n;
  const board = boardOf(large, large + 1n);
  board.answered([large], tails(60, 2n ** 60n + 1n));
  assert.deepEqual(board.answer(2n ** 60n + 1n, 60), tails(60, large));
  assert.equal(board.answer(large + 1n, 60), undefined);
});

test("what is known is not asked for again", () => {
  const board = boardOf(1, 2, 3);
  board.answered([3], tails(60, 3));
  assert.deepEqual(board.question(1, 60), [1, 2]);
  assert.deepEqual(board.question(1, 61), [1, 2, 3]);
});

test("a question keeps to the limit", () => {
  const board = boardOf(...Array.from({ length: TAILS_MAX + 499 }, (_, index) => index + 1));
  const asked = board.question(TAILS_MAX + 400, 50);
  assert.deepEqual([asked.length, new Set(asked).size, asked[0]], [TAILS_MAX, TAILS_MAX, TAILS_MAX + 400]);
  board.answered(asked, tails(50, ...asked));
  assert.equal(board.question(TAILS_MAX + 490, 50).length, 499);
});

test("a session is asked for until its last follow ends", () => {
  const board = boardOf(1, 2, 3, 3);
  board.leave([3]);
  assert(board.question(1, 50).includes(3));
  board.leave([3]);
  assert(!board.question(1, 50).includes(3));
  board.answered([1, 3], tails(60, 1, 3));
  assert.equal(board.answer(3, 1), undefined);
});

test("tails that were not asked for are a protocol error", () => {
  const board = boardOf(1, 2, 3);
  assert.throws(() => board.answered([1, 2], tails(60, 2, 1)), ProtocolError);
  assert.throws(() => board.answered([1, 2], tails(60, 1)), ProtocolError);
});

test("two databases have two boards, and none is kept when nobody follows", () => {
  const boards = new Boards<Pending>();
  const one = boards.join(HELLO, [1]);
  const same = boards.join(HELLO, [2]);
  const other = boards.join({ ...HELLO, epoch: "restored" }, [1]);
  assert.equal(one.board, same.board);
  assert.notEqual(one.board, other.board);
  for (const membership of [one, same, other]) {
    membership.leave();
  }
  assert.equal(boards.size, 0);
});

/** Stands in for the channel: answers or refuses a little later, and notes what it was asked. */
class Engine implements Asks {
  readonly asked: Id[][] = [];
  readonly #refuses: (asked: readonly Id[]) => ArminError | undefined;

  constructor(refuses: (asked: readonly Id[]) => ArminError | undefined = () => undefined) {
    this.#refuses = refuses;
  }

  async request<R>(call: Call<R>, signal?: AbortSignal): Promise<R> {
    const asked = call.fields["session_ids"] as Id[];
    this.asked.push(asked);
    await new Promise((resolve) => setImmediate(resolve));
    signal?.throwIfAborted();
    const error = this.#refuses(asked);
    if (error !== undefined) {
      throw error;
    }
    return tails(100, ...asked) as R;
  }
}

/** Each session's follow asks at once; what came of it by session. */
async function outcomes(engine: Engine, sessionIds: readonly Id[]): Promise<Map<Id, unknown>> {
  const { board } = new Boards<Pending>().join(HELLO, sessionIds);
  const questions = new Questions(engine, board);
  const asking = sessionIds.map(async (sessionId) => {
    const outcome = await questions.put(question(sessionId)).catch((error: unknown) => error);
    return [sessionId, outcome] as const;
  });
  return new Map(await Promise.all(asking));
}

test("one question answers all", async () => {
  const engine = new Engine();
  const found = await outcomes(engine, [1, 2, 3, 4]);
  assert.deepEqual(found, new Map([1, 2, 3, 4].map((id) => [id, tails(100, id)])));
  assert.deepEqual(engine.asked, [[1, 2, 3, 4]]);
});

test("an unknown session is an error for its own follow alone", async () => {
  const gone = new SessionNotFound("there is no session 13");
  const engine = new Engine((asked) => (asked.includes(UNKNOWN) ? gone : undefined));
  const found = await outcomes(engine, [1, 2, UNKNOWN, 4]);
  assert.equal(found.get(UNKNOWN), gone);
  for (const id of [1, 2, 4]) {
    assert.deepEqual(found.get(id), tails(100, id));
  }
  assert.equal(engine.asked[0]?.length, 4);
  assert.equal(engine.asked.filter((asked) => asked.includes(UNKNOWN)).length, 2);
});

test("an absence is told to all who wait for the answer", async () => {
  const engine = new Engine(() => SILENCE);
  const found = await outcomes(engine, [1, 2, 3]);
  assert([...found.values()].every((outcome) => outcome === SILENCE));
  assert.equal(engine.asked.length, 1);
});

test("who gives up asking leaves the question to another, and who gives up waiting leaves the answer", async () => {
  const engine = new Engine();
  const { board } = new Boards<Pending>().join(HELLO, [1, 2, 3]);
  const giveUp = new AbortController();
  const asking = [giveUp.signal, giveUp.signal, undefined].map((signal, index) =>
    new Questions(engine, board, signal).put(question(index + 1)),
  );
  giveUp.abort("enough");
  assert.deepEqual(await Promise.allSettled(asking), [
    { status: "rejected", reason: "enough" },
    { status: "rejected", reason: "enough" },
    { status: "fulfilled", value: tails(100, 3) },
  ]);
  assert.equal(engine.asked.length, 2);
});
