/** What the writers write: every message says who wrote it, so that the log can be held against what was tried. */

import { createHash } from "node:crypto";
import type { Event, Message, Meta, NewMessage } from "../../src/index.js";

const TAG = "tag";
const END = "|"; // of a tag in front of a text
const ROLES = ["user", "assistant", "system", "tool"] as const;
const LARGE_CHARACTERS = 100_000;
const PLANES: readonly (readonly [number, number])[] = [
  [0x20, 0x7e],
  [0xa1, 0x2ff],
  [0x370, 0x1fff],
  [0x4e00, 0x9fff],
  [0x1f300, 0x1faff],
];
const ODD = ["\0", "\n", "\r\n", "\u2028", "\ufeff", "e\u0301", "\u202e", "\u{10fffd}", "'); --"];

/** Dice that fall alike for the same name: a SHA-256 for each throw. */
export class Dice {
  #throws = 0;

  constructor(readonly name: string) {}

  /** A number from 0 to less than 1. */
  random(): number {
    const hash = createHash("sha256")
      .update(`${this.name}/${this.#throws++}`)
      .digest();
    return hash.readUIntBE(0, 6) / 2 ** 48;
  }

  between(low: number, high: number): number {
    return low + this.random() * (high - low);
  }

  /** A whole number from `low` to `high`, both included. */
  integer(low: number, high: number): number {
    return low + Math.floor(this.random() * (high - low + 1));
  }

  choice<T>(items: readonly T[]): T {
    const item = items[this.integer(0, items.length - 1)];
    if (item === undefined) {
      throw new RangeError("there is nothing to choose from");
    }
    return item;
  }
}

/** A short name for a value; the order of a map's keys counts. ASCII JSON is the same in every language. */
export function digest(...parts: readonly unknown[]): string {
  const ascii = JSON.stringify(parts).replace(
    /[^ -~]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  return createHash("sha256").update(ascii).digest("hex").slice(0, 16);
}

export function messageDigest(message: NewMessage | Message): string {
  return digest(message.role, message.content, message.meta ?? null);
}

/** The name and meta of a new session, and their digest. */
export function newSession(dice: Dice, write: string): { name?: string; meta: Meta; digest: string } {
  const meta = { [TAG]: write, title: "a session" };
  const named = dice.random() < 0.4 ? { name: `named ${write} ☃` } : {};
  return { ...named, meta, digest: digest(named.name ?? null, meta) };
}

/** A message that carries `tag`: short or 100 kB, empty, of any script, with meta or without. */
export function newMessage(dice: Dice, tag: string): NewMessage {
  const role = dice.choice(ROLES);
  const kind = dice.random();
  if (kind < 0.06) {
    return { role, content: "", meta: { [TAG]: tag } };
  }
  if (kind < 0.08) {
    return { role, content: `${tag}${END}${dice.choice(["x", "é", "漢"])}${"y".repeat(LARGE_CHARACTERS)}` };
  }
  const text = newText(dice);
  if (kind < 0.5) {
    return { role, content: text, meta: { n: dice.integer(-5, 2 ** 40), [TAG]: tag, of: [1.5, null, text] } };
  }
  return { role, content: `${tag}${END}${text}` };
}

function newText(dice: Dice): string {
  const [low, high] = dice.choice(PLANES);
  const characters = Array.from({ length: dice.integer(1, 60) }, () => String.fromCodePoint(dice.integer(low, high)));
  return characters.join("") + (dice.random() < 0.3 ? dice.choice(ODD) : "");
}

/** A fact as evidence: position, type, session, message, seq, created_at, tag, digest. */
export type Fact = readonly [number, string, unknown, unknown, number, number | null, string | null, string | null];

export function factOfEvent(event: Event): Fact {
  if (event.message !== null) {
    return factOfMessage(event.position, event.message);
  }
  const { position, type, sessionId } = event;
  if (type === "session_created") {
    const about = digest(event.name, event.meta);
    return [position, type, sessionId, 0, 0, event.createdAt, tagIn(event.meta), about];
  }
  return [position, type, sessionId, 0, 0, null, null, null];
}

/** Whoever follows one session is told no position: 0. */
export function factOfMessage(position: number, message: Message): Fact {
  const { elided } = message;
  return [
    position,
    "message_appended",
    message.sessionId,
    message.id,
    message.seq,
    message.createdAt,
    elided ? null : tagOf(message),
    elided ? null : messageDigest(message),
  ];
}

function tagOf(message: Message): string | null {
  const end = message.content.indexOf(END);
  return tagIn(message.meta) ?? (end < 0 ? null : message.content.slice(0, end));
}

function tagIn(meta: Meta | null): string | null {
  const tag = meta?.[TAG];
  return typeof tag === "string" ? tag : null;
}
