/** Placeholders become values, and values become msgpack, those included that the client would not send. */

import * as wire from "../../src/wire.js";
import type { Json, JsonMap } from "./vectors.js";

/** A value that JavaScript, or this client, has no way to say, as msgpack has it. */
export class Odd {
  readonly packed: Uint8Array;

  constructor(packed: Uint8Array) {
    this.packed = packed;
  }
}

/** A float that is whole: to JavaScript it is the same as the integer. */
export class WholeFloat extends Odd {
  readonly number: number;

  constructor(number: number) {
    const packed = Buffer.alloc(9);
    packed[0] = 0xcb;
    packed.writeDoubleBE(number, 1);
    super(packed);
    this.number = number;
  }
}

/** What the placeholders of one case mean. `position`: the last committed one before the step. */
export class Scope {
  readonly limits: Readonly<Record<string, number>>;
  readonly unique: string;
  readonly bound = new Map<string, unknown>();
  position = 0;
  index = 0;

  constructor(limits: Readonly<Record<string, number>>, unique: string) {
    this.limits = limits;
    this.unique = unique;
  }

  /** Do this within an item of a list. */
  at<T>(index: number, act: () => T): T {
    const before = this.index;
    this.index = index;
    try {
      return act();
    } finally {
      this.index = before;
    }
  }
}

/** The name of the placeholder that a value is. */
export function placeholder(value: Json): string | undefined {
  const isMap = typeof value === "object" && value !== null && !Array.isArray(value);
  return isMap ? Object.keys(value).find((name) => name.startsWith("$")) : undefined;
}

/** The value that a command, or a part of one, stands for. */
export function build(value: Json, scope: Scope): unknown {
  if (typeof value !== "object" || value === null) {
    return value;
  }
  if (Array.isArray(value)) {
    return value.map((item) => build(item, scope));
  }
  const name = placeholder(value);
  if (name === undefined) {
    return mapOf(Object.entries(value).map(([key, item]) => [key, build(item, scope)]));
  }
  const make = BUILDERS[name];
  if (make === undefined) {
    throw new Error(`${name} stands for no value`);
  }
  return make(value[name] as Json, scope, value);
}

/** A map that may have the key `__proto__`. */
function mapOf(entries: [string, unknown][]): object {
  const map = {};
  for (const [key, value] of entries) {
    Object.defineProperty(map, key, { value, configurable: true, enumerable: true, writable: true });
  }
  return map;
}

/** Whether a placeholder stands for one value. */
export function isBuilt(name: string): boolean {
  return name in BUILDERS;
}

/** An integer, or what stands for one. */
export function integer(value: Json | undefined, scope: Scope, otherwise?: number): number {
  const built = value === undefined ? otherwise : build(value, scope);
  if (typeof built !== "number" || !Number.isInteger(built)) {
    throw new TypeError(`${String(built)} is not an integer`);
  }
  return built;
}

type Builder = (value: Json, scope: Scope, whole: JsonMap) => unknown;

function shifted(value: unknown, plus: number): unknown {
  return typeof value === "bigint" ? wire.canonical(value + BigInt(plus)) : (value as number) + plus;
}

function repeated(unit: string, scope: Scope, { times, bytes }: JsonMap): string {
  if (bytes === undefined) {
    return unit.repeat(integer(times, scope));
  }
  const [size, weight] = [integer(bytes, scope), Buffer.byteLength(unit)];
  return unit.repeat(Math.floor(size / weight)) + ".".repeat(size % weight);
}

function nested(kind: Json, depth: number): unknown {
  let value: unknown = kind === "map" ? {} : [];
  for (let level = 1; level < depth; level++) {
    value = kind === "map" ? { k: value } : [value];
  }
  return value;
}

const BUILDERS: Readonly<Record<string, Builder>> = {
  $ref(name, scope, { plus }) {
    if (!scope.bound.has(String(name))) {
      throw new Error(`nothing is bound to ${String(name)}`);
    }
    const value = scope.bound.get(String(name));
    return plus === undefined ? value : shifted(value, integer(plus, scope));
  },
  $limit(name, scope, { over, plus }) {
    const limit = scope.limits[String(name)] ?? Number.NaN;
    return Math.floor(limit / integer(over, scope, 1)) + integer(plus, scope, 0);
  },
  $position: (plus, scope) => scope.position + integer(plus, scope),
  $unique(label, scope, { bytes }) {
    const name = `${scope.unique}${String(label)}`;
    return bytes === undefined ? name : name.padEnd(integer(bytes, scope), "x");
  },
  $text: (unit, scope, whole) => repeated(String(unit), scope, whole),
  $concat: (parts, scope) => (parts as Json[]).map((part) => String(build(part, scope))).join(""),
  $list: (item, scope, { times }) =>
    Array.from({ length: integer(times, scope) }, (_, index) => scope.at(index, () => build(item, scope))),
  $index: (first, scope) => integer(first, scope) + scope.index,
  $nested: (kind, scope, { depth }) => nested(kind, integer(depth, scope)),
  $int: (digits) => wire.canonical(BigInt(String(digits))),
  $float: (digits) => float(Number(String(digits).replace("inf", "Infinity"))),
  $bin: (digits) => odd("c6", Buffer.from(String(digits), "hex")),
  $str: (digits) => odd("db", Buffer.from(String(digits), "hex")),
  $packed: (digits) => new Odd(Buffer.from(String(digits), "hex")),
  $map: (pairs, scope) => oddMap(pairs as Json[][], scope),
  $literal: (value) => value,
};

function float(number: number): number | Odd {
  return Number.isInteger(number) ? new WholeFloat(number) : number;
}

/** Bytes behind their length. */
function odd(type: string, bytes: Buffer): Odd {
  return new Odd(Buffer.concat([Buffer.from(type, "hex"), size(bytes.length), bytes]));
}

function size(length: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(length);
  return bytes;
}

function oddMap(pairs: readonly Json[][], scope: Scope): Odd {
  const parts = pairs.flat().map((each) => encode(build(each, scope)));
  return new Odd(Buffer.concat([Buffer.from("df", "hex"), size(pairs.length), ...parts]));
}

/** Whether a value holds something odd. */
export function holdsOdd(value: unknown): boolean {
  if (typeof value !== "object" || value === null) {
    return false;
  }
  return value instanceof Odd || Object.values(value).some(holdsOdd);
}

/** A value as msgpack. */
export function encode(value: unknown): Uint8Array {
  if (value instanceof Odd) {
    return value.packed;
  }
  if (!holdsOdd(value)) {
    return wire.encode(value);
  }
  if (Array.isArray(value)) {
    return Buffer.concat([Buffer.from("dd", "hex"), size(value.length), ...value.map(encode)]);
  }
  const entries = Object.entries(value as object);
  return Buffer.concat([Buffer.from("df", "hex"), size(entries.length), ...entries.flat().map(encode)]);
}
