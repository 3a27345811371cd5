/** Replies about worker groups, made into results. */

import * as errors from "./errors.js";
import type { Fields } from "./replies.js";
import * as replies from "./replies.js";
import type { DeadLetter, DeadLetterPage, Group, Lease, Leases, Outcome, Outcomes } from "./results.js";

/** Reply of `create_group`. */
export function created(fields: Fields): Group {
  return oneGroup(replies.table(fields, "group"), replies.duplicate(fields));
}

/** Reply of `groups`. */
export function groups(fields: Fields): readonly Group[] {
  return replies.each(fields, "groups", (item) => oneGroup(item, false));
}

function oneGroup(fields: Fields, duplicate: boolean): Group {
  return {
    group: replies.text(fields, "group"),
    start: replies.text(fields, "start"),
    types: replies.texts(fields, "types"),
    ordered: replies.truth(fields, "ordered"),
    maxAttempts: replies.integer(fields, "max_attempts"),
    backoffMs: replies.integer(fields, "backoff_ms"),
    onDead: replies.text(fields, "on_dead"),
    createdAt: replies.integer(fields, "created_at"),
    cursor: replies.integer(fields, "cursor"),
    behind: replies.integer(fields, "behind"),
    waiting: replies.integer(fields, "waiting"),
    leased: replies.integer(fields, "leased"),
    dead: replies.integer(fields, "dead"),
    halted: replies.truth(fields, "halted"),
    pollers: replies.integer(fields, "pollers"),
    duplicate,
  };
}

/** Reply of `lease`. */
export function leases(fields: Fields): Leases {
  return { leases: replies.each(fields, "leases", oneLease), position: replies.position(fields) };
}

function oneLease(fields: Fields): Lease {
  return {
    lease: replies.text(fields, "lease"),
    position: replies.integer(fields, "position"),
    attempt: replies.integer(fields, "attempt"),
    until: replies.integer(fields, "until"),
    event: replies.event(replies.table(fields, "event")),
  };
}

/** Reply of `ack`, `nack` and `extend`. */
export function outcomes(fields: Fields): Outcomes {
  return { outcomes: replies.each(fields, "outcomes", outcome), position: replies.position(fields) };
}

function outcome(fields: Fields): Outcome {
  const ok = replies.truth(fields, "ok");
  return {
    lease: replies.text(fields, "lease"),
    ok,
    duplicate: replies.duplicate(fields),
    dead: fields["dead"] === true,
    until: replies.integerOrNull(fields, "until"),
    error: ok ? null : errors.fromWire(replies.table(fields, "error"), null),
  };
}

/** Reply of `dead_letters`. */
export function deadLetters(fields: Fields): DeadLetterPage {
  return {
    deadLetters: replies.each(fields, "dead_letters", deadLetter),
    more: replies.truth(fields, "more"),
    position: replies.position(fields),
  };
}

function deadLetter(fields: Fields): DeadLetter {
  return {
    position: replies.integer(fields, "position"),
    attempts: replies.integer(fields, "attempts"),
    reason: replies.textOrNull(fields, "reason"),
    diedAt: replies.integer(fields, "died_at"),
    event: replies.event(replies.table(fields, "event")),
  };
}

/** Reply of `requeue`. */
export function requeued(fields: Fields): number {
  return replies.integer(fields, "requeued");
}

/** Reply of `discard`. */
export function discarded(fields: Fields): number {
  return replies.integer(fields, "discarded");
}

/** Reply of `drop_group`. */
export function dropped(fields: Fields): boolean {
  return replies.truth(fields, "dropped");
}
