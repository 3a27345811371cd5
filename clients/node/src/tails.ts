/**
 * Where followed sessions end: one question answers for every follow of a client.
 *
 * A heartbeat ahead of what a follower knows may mean that it lost something, and only the engine can say.
 * Who is first to wonder asks for all sessions that the client follows; the others take that answer. A
 * question that the engine refuses because one of its sessions is unknown says nothing of the others: each
 * of them then asks once for itself, so that the error reaches the follow that it belongs to and no other.
 */

import { ProtocolError } from "./errors.js";
import { TAILS_MAX } from "./protocol.js";
import type { Hello, Id, Tail, Tails } from "./results.js";

/**
 * What one client knows of the sessions that it follows in one database. Does no I/O.
 *
 * `pending` is the question under way, for whoever would ask the same: what it waits on is up to the side
 * that does the I/O.
 */
export class Board<P> {
  pending: P | undefined;
  readonly #follows = new Map<Id, number>();
  readonly #known = new Map<Id, Tails>();
  readonly #alone = new Set<Id>(); // one of them is unknown to the engine: not yet known which

  /** One more follow of these sessions. */
  join(sessionIds: Iterable<Id>): void {
    for (const sessionId of sessionIds) {
      this.#follows.set(sessionId, (this.#follows.get(sessionId) ?? 0) + 1);
    }
  }

  /** It has ended. */
  leave(sessionIds: Iterable<Id>): void {
    for (const sessionId of sessionIds) {
      const left = (this.#follows.get(sessionId) ?? 0) - 1;
      if (left > 0) {
        this.#follows.set(sessionId, left);
        continue;
      }
      this.#follows.delete(sessionId);
      this.#known.delete(sessionId);
      this.#alone.delete(sessionId);
    }
  }

  /** Whether nobody follows anything. */
  get empty(): boolean {
    return this.#follows.size === 0;
  }

  /** Where the session ended at `position` or later, if that is known. */
  answer(sessionId: Id, position: number): Tails | undefined {
    const known = this.#known.get(sessionId);
    return known !== undefined && known.position >= position ? known : undefined;
  }

  /** What to ask the engine: this session, and all others of which as much is not known. */
  question(sessionId: Id, position: number): Id[] {
    const asked = [sessionId];
    if (this.#alone.has(sessionId)) {
      return asked;
    }
    for (const other of this.#follows.keys()) {
      if (asked.length === TAILS_MAX) {
        break;
      }
      if (other !== sessionId && !this.#alone.has(other) && this.answer(other, position) === undefined) {
        asked.push(other);
      }
    }
    return asked;
  }

  /** Take the engine's answer; gives the part of the session that was asked for first. */
  answered(asked: readonly Id[], answer: Tails): Tails {
    const [first] = answer.tails;
    const same = answer.tails.length === asked.length;
    if (first === undefined || !same || answer.tails.some((tail, index) => tail.sessionId !== asked[index])) {
      throw new ProtocolError("the tails are not those that were asked for");
    }
    for (const tail of answer.tails) {
      if (this.#follows.has(tail.sessionId)) {
        // else its follow has ended meanwhile
        this.#known.set(tail.sessionId, single(tail, answer.position));
        this.#alone.delete(tail.sessionId);
      }
    }
    return single(first, answer.position);
  }

  /** One of these sessions does not exist: let each be asked for alone. */
  refused(asked: readonly Id[]): void {
    for (const sessionId of asked) {
      if (this.#follows.has(sessionId)) {
        this.#alone.add(sessionId);
      }
    }
  }
}

function single(tail: Tail, position: number): Tails {
  return { tails: [tail], position };
}

/** A follow's place on a board, until it leaves. */
export interface Membership<P> {
  readonly board: Board<P>;
  leave(): void;
}

/** The boards of one client, one for each database that it has seen followed: ids mean something else in another. */
export class Boards<P> {
  readonly #boards = new Map<string, Board<P>>();

  /** The board to ask by, for as long as these sessions are followed. */
  join(hello: Pick<Hello, "database" | "epoch">, sessionIds: readonly Id[]): Membership<P> {
    const database = JSON.stringify([hello.database, hello.epoch]);
    const board = this.#boards.get(database) ?? new Board<P>();
    this.#boards.set(database, board);
    board.join(sessionIds);
    return {
      board,
      leave: () => {
        board.leave(sessionIds);
        if (board.empty && this.#boards.get(database) === board) {
          this.#boards.delete(database);
        }
      },
    };
  }

  /** How many databases are being followed. */
  get size(): number {
    return this.#boards.size;
  }
}
