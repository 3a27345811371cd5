/** msgpack: what goes out comes back the same, and what cannot is refused. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { runInNewContext } from "node:vm";
import { encode as packed } from "@msgpack/msgpack";
import * as wire from "../src/wire.js";
import { Chance } from "./seeded.js";

const PLANES = Array.from({ length: 17 }, (_, plane) => String.fromCodePoint(plane * 0x10000 + 0xfffd));

/** Strings that other decoders are known to change. */
const TEXTS = [
  "",
  "\0",
  "a\0b",
  "\ufeff",
  `\ufeff${"x".repeat(31)}`,
  `\ufeff${"x".repeat(300)}`,
  `${"ü".repeat(150)}\ufeff`,
  "\ufffd",
  "\u{1f469}\u200d\u{1f4bb}",
  "\ud7ff\ue000\uffff\u{10000}\u{10ffff}",
  PLANES.join(""),
  PLANES.join("").repeat(300),
];

const INTEGERS = [
  ...[0, 1, -1, 127, 128, -32, -33, 255, 256, 65535, 65536, 2 ** 31, -(2 ** 31), 2 ** 32, -(2 ** 32)],
  ...[Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER, 2n ** 53n, -(2n ** 53n), 2n ** 63n - 1n, -(2n ** 63n)],
  ...[2n ** 63n, 2n ** 64n - 1n],
];

function roundTrip(value: unknown): unknown {
  assert.equal(wire.fault(value), undefined);
  return wire.decode(wire.encode(value));
}

function assertSame(value: unknown, message?: string): void {
  assert.deepEqual(roundTrip(value), value, message);
}

test("every string comes back as it was, as a value and as a key", () => {
  for (const text of TEXTS) {
    assert.equal(roundTrip(text), text);
    assertSame({ [text]: [text] });
  }
});

test("every integer of 64 bits comes back, as a number where that is exact and else as a bigint", () => {
  for (const integer of INTEGERS) {
    assert.equal(roundTrip(integer), integer);
    assert.equal(roundTrip(BigInt(integer)), integer);
  }
});

test("an integer goes out as an integer, whatever its size, and any other number as a float", () => {
  const FLOAT64 = 0xcb;
  for (const integer of INTEGERS) {
    assert.notEqual(wire.encode(integer)[0], FLOAT64, String(integer));
    assert.notEqual(wire.encode({ nested: [integer] })[9], FLOAT64, String(integer));
  }
  assert.equal(wire.encode(0.5)[0], FLOAT64);
  assert.equal(wire.encode(2 ** 60)[0], FLOAT64);
});

test("an integer in more bytes than it needs is the same integer", () => {
  const long = [0xd3, 0, 0, 0, 0, 0, 0, 0, 7];
  assert.equal(wire.decode(Uint8Array.from(long)), 7);
  assert.equal(wire.decode(Uint8Array.from([0xcf, ...long.slice(1)])), 7);
});

test("numbers that are no integers come back, too", () => {
  for (const number of [0.5, -1.25, 1e300, 5e-324, 2 ** 60, Number.MAX_VALUE]) {
    assert.equal(roundTrip(number), number);
  }
});

test("a key called __proto__ is a key like others, wherever it stands", () => {
  for (const key of ["__proto__", "__proto__\0", "__proto__\0\0", "__proto__x"]) {
    const map = JSON.parse(`{"a": 1, ${JSON.stringify(key)}: {"polluted": true}, "b": {${JSON.stringify(key)}: 2}}`);
    const back = roundTrip(map) as Record<string, unknown>;
    assert.deepEqual(Object.keys(back), ["a", key, "b"]);
    assert.equal(JSON.stringify(back), JSON.stringify(map));
    assert.equal(Object.getPrototypeOf(back), Object.prototype);
  }
  assert.equal(({} as { polluted?: boolean }).polluted, undefined);
});

test("names of Object's own are keys like others", () => {
  assertSame({ constructor: 1, hasOwnProperty: 2, toString: { valueOf: null } });
});

test("the order of keys is kept, but for those that look like integers", () => {
  const keys = Object.keys(roundTrip({ z: 1, a: 2, "10": 3, "9": 4, "-1": 5 }) as object);
  assert.deepEqual(keys, ["9", "10", "z", "a", "-1"]);
});

test("properties that are undefined are left out, maps without a prototype and of other realms are maps", () => {
  assert.deepEqual(roundTrip({ a: undefined, b: [{ c: undefined }] }), { b: [{}] });
  assert.deepEqual(roundTrip(Object.assign(Object.create(null), { a: 1 })), { a: 1 });
  assert.deepEqual(roundTrip(runInNewContext("({a: [1, {b: 2}]})")), { a: [1, { b: 2 }] });
});

test("what msgpack or JSON cannot say is told", () => {
  class Own {}
  const faults: [unknown, RegExp][] = [
    ["a\ud800", /lone surrogate \(index 1 of/],
    ["\udfff\ud800", /lone surrogate \(index 0 of/],
    [`${"\u{10000}".repeat(100)}\udc00`, /lone surrogate \(index 200 of/],
    [{ "\udc00": 1 }, /lone surrogate/],
    [Number.NaN, /holds NaN/],
    [[1, [Number.POSITIVE_INFINITY]], /holds Infinity/],
    [2n ** 64n, /beyond 64 bits/],
    [-(2n ** 63n) - 1n, /beyond 64 bits/],
    [undefined, /holds undefined/],
    [[1, undefined], /holds undefined/],
    [new Array(1), /holds undefined/],
    [{ a: () => 1 }, /holds a function/],
    [{ a: Symbol("s") }, /holds a symbol/],
    [{ a: new Map() }, /holds a Map/],
    [{ a: new Set() }, /holds a Set/],
    [{ a: new Date(0) }, /holds a Date/],
    [{ a: new Uint8Array(1) }, /holds a Uint8Array/],
    [{ a: Buffer.alloc(1) }, /holds a Buffer/],
    [{ a: new ArrayBuffer(1) }, /holds an ArrayBuffer/],
    [{ a: new Own() }, /holds an Own/],
    [{ a: Object("boxed") }, /holds a String/],
    [{ a: /x/ }, /holds a RegExp/],
    [{ a: Promise.resolve() }, /holds a Promise/],
  ];
  for (const [value, why] of faults) {
    assert.match(wire.fault(value) ?? "nothing", why);
  }
});

test("what holds itself is told, and what is only met twice is not", () => {
  const map: Record<string, unknown> = { list: [] };
  (map["list"] as unknown[]).push({ map });
  assert.match(wire.fault(map) ?? "", /holds itself/);
  const shared = { a: 1 };
  assertSame([shared, shared, { shared }]);
});

test("what is nested too deep is told, and what is nested less goes out", () => {
  const nested = (depth: number): unknown => (depth === 0 ? [] : [nested(depth - 1)]);
  assertSame(nested(99));
  assert.match(wire.fault(nested(100)) ?? "", /more than 100/);
  assert.match(wire.fault(nested(5000)) ?? "", /more than 100/);
});

test("bytes that are not one value of ours are refused", () => {
  const wrong: [number[], string][] = [
    [[], "nothing"],
    [[0xc1], "a type that there is not"],
    [[0x81, 0xa1, 0x61], "a map without its value"],
    [[0xc0, 0xc0], "two values"],
    [[0xa1, 0xff], "a string that is no UTF-8"],
    [[0xa3, 0xed, 0xa0, 0x80], "a surrogate in UTF-8"],
    [[0x81, 0xa1, 0xff, 0x01], "a key that is no UTF-8"],
    [[0x81, 0x01, 0x01], "a key that is an integer"],
    [[0x81, 0xc4, 0x01, 0x61, 0x01], "a key that is bytes"],
    [[0xd4, 0x05, 0x00], "an extension"],
    [[0xd6, 0xff, 0, 0, 0, 0], "a timestamp"],
  ];
  for (const [bytes, what] of wrong) {
    assert.throws(() => wire.decode(Uint8Array.from(bytes)), Error, what);
  }
});

test("nesting without end is refused, not a crash", () => {
  assert.throws(() => wire.decode(new Uint8Array(1_000_000).fill(0x91)), Error);
  assert.throws(() => wire.decode(Uint8Array.from([...new Array(1_000_000).fill(0x91), 0xc0])), Error);
});

test("values made by chance come back the same", () => {
  for (let seed = 0; seed < 500; seed++) {
    const chance = new Chance(seed);
    const value = someValue(chance, 5);
    assertSame(value, `seed ${seed}`);
    assert.deepEqual(wire.decode(packed(value, { useBigInt64: true })), value, `seed ${seed}, packed by others`);
  }
});

function someValue(chance: Chance, depth: number): unknown {
  const leaves = [
    () => chance.one(null, true, false),
    () => chance.next() * 10 ** chance.between(-300, 300),
    () => someInteger(chance),
    () => someText(chance),
  ] as const;
  const trees = [() => someArray(chance, depth), () => someMap(chance, depth)] as const;
  return chance.one<() => unknown>(...leaves, ...(depth > 0 ? trees : []))();
}

function someInteger(chance: Chance): number | bigint {
  const bits = BigInt(chance.between(0, 63));
  const integer = BigInt(Math.floor(chance.next() * 2 ** 52)) % 2n ** bits;
  return wire.canonical(
    chance.one(1n, -1n) * ((integer << (bits > 52n ? bits - 52n : 0n)) + BigInt(chance.between(0, 1))),
  );
}

function someText(chance: Chance): string {
  return Array.from({ length: chance.between(0, chance.one(3, 40, 400)) }, () => someCharacter(chance)).join("");
}

function someCharacter(chance: Chance): string {
  const point = chance.between(0, chance.one(0x7f, 0x7ff, 0xffff, 0x10ffff));
  return chance.one(
    String.fromCodePoint(point < 0xd800 || point > 0xdfff ? point : 0xfeff),
    "\ufeff",
    "\0",
    "__proto__",
  );
}

function someArray(chance: Chance, depth: number): unknown[] {
  return Array.from({ length: chance.between(0, chance.one(2, 20)) }, () => someValue(chance, depth - 1));
}

/** As JSON would make it: with a key `__proto__` of its own, should it come to that. */
function someMap(chance: Chance, depth: number): unknown {
  const map = {};
  for (let left = chance.between(0, chance.one(2, 20)); left > 0; left--) {
    const value = someValue(chance, depth - 1);
    const key = chance.one(someText(chance), "__proto__", "constructor", String(left));
    Object.defineProperty(map, key, { value, configurable: true, enumerable: true, writable: true });
  }
  return map;
}
