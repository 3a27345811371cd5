/** What can be asked about worker groups: each function makes one call, without sending it. */

import { Call, iterated } from "./calls.js";
import * as groupReplies from "./groupReplies.js";
import type { Cursor, DeadLetterPage, EventType, Group, Lease, Leases, Outcomes } from "./results.js";

/** A group's settings. */
export interface GroupFields {
  /** Where a new group begins: at the `begin` of the log, which is the default, or `now`. */
  readonly start?: "begin" | "now" | undefined;
  /** Event types to take; all by default. */
  readonly types?: Iterable<EventType> | undefined;
  /** One session's effects one at a time, in order; false by default. */
  readonly ordered?: boolean | undefined;
  /** After so many failures an effect is a dead letter; 5 by default. */
  readonly maxAttempts?: number | undefined;
  /** The pause after the first failure, which doubles with each further one; 1,000 ms by default. */
  readonly backoffMs?: number | undefined;
  /** `skip` a dead letter, which is the default, or `halt` the group until somebody requeues or discards it. */
  readonly onDead?: "skip" | "halt" | undefined;
}

/** Create a worker group, or find the one of this name and these settings. */
export function createGroup(group: string, settings: GroupFields = {}): Call<Group> {
  const { start = "begin", types, ordered, maxAttempts, backoffMs, onDead } = settings;
  const fields = {
    group,
    start,
    types: types === undefined || types === null ? undefined : iterated(types, "types"),
    ordered,
    max_attempts: maxAttempts,
    backoff_ms: backoffMs,
    on_dead: onDead,
  };
  return new Call("create_group", fields, groupReplies.created);
}

/** How many effects to take, for how long, and how long to wait for the first one. */
export interface LeaseFields {
  readonly max?: number | undefined;
  readonly leaseMs?: number | undefined;
  readonly waitMs?: number | undefined;
  readonly request?: string | undefined;
}

/** Take effects, at most so many, waiting for the first one up to `waitMs`. */
export function lease(group: string, { max, leaseMs, waitMs, request }: LeaseFields = {}): Call<Leases> {
  const fields = { group, max, lease_ms: leaseMs, wait_ms: waitMs, request };
  return new Call("lease", fields, groupReplies.leases);
}

/** One lease or several, as they were given or by their names. */
export type LeaseNames = Lease | Iterable<Lease | string>;

/** Say that effects were handled. */
export function ack(group: string, leases: LeaseNames): Call<Outcomes> {
  return new Call("ack", { group, leases: names(leases) }, groupReplies.outcomes);
}

/** Why effects could not be handled, and when to try again. */
export interface NackFields {
  readonly reason?: string | undefined;
  readonly delayMs?: number | undefined;
}

/** Say that effects could not be handled. */
export function nack(group: string, leases: LeaseNames, { reason, delayMs }: NackFields = {}): Call<Outcomes> {
  return new Call("nack", { group, leases: names(leases), reason, delay_ms: delayMs }, groupReplies.outcomes);
}

/** For how long from now. */
export interface ExtendFields {
  readonly leaseMs?: number | undefined;
}

/** Keep effects for longer. */
export function extend(group: string, leases: LeaseNames, { leaseMs }: ExtendFields = {}): Call<Outcomes> {
  return new Call("extend", { group, leases: names(leases), lease_ms: leaseMs }, groupReplies.outcomes);
}

function names(leases: LeaseNames): string[] {
  const several = typeof leases === "object" && leases !== null && "lease" in leases ? [leases] : leases;
  return iterated(several, "leases").map((lease) => (typeof lease === "string" ? lease : lease?.lease));
}

/** One worker group, or all. */
export function groups(group?: string): Call<readonly Group[]> {
  return new Call("groups", { group }, groupReplies.groups);
}

/** Where a page of dead letters begins and what it holds at most. */
export interface DeadLettersFields {
  readonly after?: Cursor | undefined;
  readonly limit?: number | undefined;
}

/** A page of a group's dead letters. */
export function deadLetters(group: string, { after, limit }: DeadLettersFields = {}): Call<DeadLetterPage> {
  return new Call("dead_letters", { group, after, limit }, groupReplies.deadLetters);
}

/** Try dead letters again: those at these positions, or all. */
export function requeue(group: string, positions?: Iterable<Cursor>): Call<number> {
  return new Call("requeue", { group, positions: several(positions) }, groupReplies.requeued);
}

/** Give dead letters up for good: those at these positions, or all. */
export function discard(group: string, positions?: Iterable<Cursor>): Call<number> {
  return new Call("discard", { group, positions: several(positions) }, groupReplies.discarded);
}

function several(positions: Iterable<Cursor> | undefined): Cursor[] | undefined {
  return positions === undefined || positions === null ? undefined : iterated(positions, "positions");
}

/** Remove a group and all its state. */
export function dropGroup(group: string): Call<boolean> {
  return new Call("drop_group", { group }, groupReplies.dropped);
}
