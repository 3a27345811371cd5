/** The client's commands about worker groups. */

import type { Channel, Sockets } from "./channel.js";
import { BadRequest } from "./errors.js";
import * as groupCalls from "./groupCalls.js";
import type { Cursor, DeadLetterPage, Group, Leases, Outcomes } from "./results.js";
import { type Handler, Worker, type WorkerOptions } from "./worker.js";

/** What every method takes: a signal that ends the wait for its result. */
export interface Abortable {
  readonly signal?: AbortSignal | undefined;
}

export interface CreateGroupOptions extends groupCalls.GroupFields, Abortable {}
export interface LeaseOptions extends groupCalls.LeaseFields, Abortable {}
export interface NackOptions extends groupCalls.NackFields, Abortable {}
export interface ExtendOptions extends groupCalls.ExtendFields, Abortable {}
export interface DeadLettersOptions extends groupCalls.DeadLettersFields, Abortable {}

/** Which worker group; all without a name. */
export interface GroupsOptions extends Abortable {
  readonly group?: string | undefined;
}

/** Which dead letters; all without positions. */
export interface PositionsOptions extends Abortable {
  readonly positions?: Iterable<Cursor> | undefined;
}

/** Side effects at least once: a group takes every fact, and gives each to one of its workers. */
export abstract class GroupCommands {
  protected readonly sockets: Sockets;
  protected readonly channel: Channel;

  constructor(sockets: Sockets) {
    this.sockets = sockets;
    this.channel = sockets.channel();
  }

  /**
   * A worker of this group: `run` calls `handler` for each effect, until `stop`.
   *
   * A handler that returns, or whose promise is fulfilled, has handled its effect; one that throws has not, and the
   * effect comes again after a pause that doubles, until it is a dead letter. `throw new Retry(reason, {delayMs})`
   * chooses the pause. An effect may come twice: after a crash, or where a lease was lost.
   */
  worker(group: string, handler: Handler, options: WorkerOptions = {}): Worker {
    return new Worker(this.sockets, group, handler, options);
  }

  /**
   * Create a worker group. If it exists with the same settings, give it with `duplicate` true.
   *
   * @throws Conflict it exists with other settings; `field` names the first that differs.
   */
  async createGroup(group: string, options: CreateGroupOptions = {}): Promise<Group> {
    return this.channel.request(groupCalls.createGroup(group, options), options.signal);
  }

  /**
   * Take up to `max` effects (1) for `leaseMs` (30,000), waiting up to `waitMs` (0) for the first one.
   *
   * The same `request` token (1 to 64 bytes) again gives the same leases while any of them is held, so a call whose
   * answer was lost can be repeated. Waiting happens on a connection of its own. `worker` does all this.
   *
   * @throws GroupNotFound there is no such group.
   */
  async lease(group: string, options: LeaseOptions = {}): Promise<Leases> {
    const call = groupCalls.lease(group, options);
    const { waitMs, signal } = options;
    if (!waitMs) {
      return this.channel.request(call, signal);
    }
    signal?.throwIfAborted();
    const channel = this.sockets.channel(this.sockets.timeoutMs + waitMs);
    try {
      return await channel.request(call, signal);
    } finally {
      channel.close();
    }
  }

  /** Say that these effects, at most 1,000, were handled; one outcome each. */
  async ack(group: string, leases: groupCalls.LeaseNames, { signal }: Abortable = {}): Promise<Outcomes> {
    return this.channel.request(groupCalls.ack(group, leases), signal);
  }

  /** Say that these effects could not be handled: again in `delayMs`, or after the group's backoff. */
  async nack(group: string, leases: groupCalls.LeaseNames, options: NackOptions = {}): Promise<Outcomes> {
    return this.channel.request(groupCalls.nack(group, leases, options), options.signal);
  }

  /** Keep these effects for `leaseMs` (30,000) from now. */
  async extend(group: string, leases: groupCalls.LeaseNames, options: ExtendOptions = {}): Promise<Outcomes> {
    return this.channel.request(groupCalls.extend(group, leases, options), options.signal);
  }

  /**
   * All worker groups as they stand, or one.
   *
   * @throws GroupNotFound there is no such group.
   */
  async groups({ group, signal }: GroupsOptions = {}): Promise<readonly Group[]> {
    return this.channel.request(groupCalls.groups(group), signal);
  }

  /** A page of a group's dead letters, those behind position `after`. */
  async deadLetters(group: string, options: DeadLettersOptions = {}): Promise<DeadLetterPage> {
    return this.channel.request(groupCalls.deadLetters(group, options), options.signal);
  }

  /** Try the dead letters at these positions again, or all; gives how many there were. */
  async requeue(group: string, options: PositionsOptions = {}): Promise<number> {
    return this.channel.request(groupCalls.requeue(group, positionsOf(options)), options.signal);
  }

  /** Give the dead letters at these positions up for good, or all; gives how many there were. */
  async discard(group: string, options: PositionsOptions = {}): Promise<number> {
    return this.channel.request(groupCalls.discard(group, positionsOf(options)), options.signal);
  }

  /** Remove a group and all that it knows; false if there was none. */
  async dropGroup(group: string, { signal }: Abortable = {}): Promise<boolean> {
    return this.channel.request(groupCalls.dropGroup(group), signal);
  }
}

/** Without positions all are meant, so positions in the place of the options must not pass for none. */
function positionsOf(options: PositionsOptions): Iterable<Cursor> | undefined {
  if (Symbol.iterator in options) {
    throw new BadRequest("positions go into the options: {positions: [...]}", { field: "positions" });
  }
  return options.positions;
}
