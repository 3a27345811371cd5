/**
 * msgpack, exactly: every string and every 64-bit integer arrives as it was sent, or is refused.
 *
 * The packages' defaults are not enough. Their decoder drops a byte order mark, refuses the key `__proto__`
 * and rounds large integers or makes a bigint of small ones; their encoder replaces lone surrogates and cuts
 * bigints to 64 bits.
 */

import { isUtf8 } from "node:buffer";
import { encode as pack, decode as unpack } from "@msgpack/msgpack";

/** Maps and arrays within each other that may be packed; the engine allows far fewer. */
const DEPTH_MAX = 100;

const INT32_MIN = -(2 ** 31);
const UINT32_MAX = 2 ** 32 - 1;
const INT64_MIN = -(1n << 63n);
const UINT64_MAX = (1n << 64n) - 1n;

/** An integer as this client gives it: a number where that is exact, else a bigint. */
export function canonical(integer: number | bigint): number | bigint {
  const number = Number(integer);
  return Number.isSafeInteger(number) ? number : integer;
}

// --- out ------------------------------------------------------------------------------------------

/** Bytes of a value in which `fault` finds nothing. Properties that are undefined are left out. */
export function encode(value: unknown): Uint8Array {
  return pack(widened(value), { useBigInt64: true, ignoreUndefined: true, maxDepth: DEPTH_MAX + 3 });
}

/** The same value with integers beyond 32 bits as bigints: of a number the encoder would make a float. */
function widened(value: unknown): unknown {
  if (typeof value === "number") {
    const isWide = Number.isSafeInteger(value) && (value > UINT32_MAX || value < INT32_MIN);
    return isWide ? BigInt(value) : value;
  }
  if (typeof value !== "object" || value === null) {
    return value;
  }
  if (Array.isArray(value)) {
    return value.map(widened);
  }
  return isPlain(value) ? Object.fromEntries(Object.entries(value).map(([key, item]) => [key, widened(item)])) : value;
}

/** Why a value cannot be sent, in words that follow "cannot be sent: "; undefined if it can. */
export function fault(value: unknown): string | undefined {
  return faultWithin(value, []);
}

/** `within` are the maps and arrays that hold the value, from the outermost one on. */
function faultWithin(value: unknown, within: object[]): string | undefined {
  switch (typeof value) {
    case "string":
      return stringFault(value);
    case "number":
      return Number.isFinite(value) ? undefined : `it holds ${value}`;
    case "bigint":
      return value < INT64_MIN || value > UINT64_MAX ? "it holds an integer beyond 64 bits" : undefined;
    case "boolean":
      return undefined;
    case "object":
      return value === null ? undefined : objectFault(value, within);
    default:
      return `it holds ${kind(value)}`;
  }
}

function stringFault(text: string): string | undefined {
  return text.isWellFormed() ? undefined : `it holds a lone surrogate (index ${loneSurrogate(text)} of a string)`;
}

function loneSurrogate(text: string): number {
  return text.search(/[\ud800-\udfff]/u); // with the u flag, a pair is one character and no match
}

function objectFault(value: object, within: object[]): string | undefined {
  if (!Array.isArray(value) && !isPlain(value)) {
    return `it holds ${kind(value)}`;
  }
  if (within.includes(value)) {
    return "it holds itself";
  }
  if (within.length === DEPTH_MAX) {
    return `it holds more than ${DEPTH_MAX} maps and arrays within each other`;
  }
  within.push(value);
  const found = Array.isArray(value) ? arrayFault(value, within) : mapFault(value, within);
  within.pop();
  return found;
}

function arrayFault(items: readonly unknown[], within: object[]): string | undefined {
  for (let index = 0; index < items.length; index++) {
    const found = faultWithin(items[index], within); // a hole is undefined, too
    if (found !== undefined) {
      return found;
    }
  }
  return undefined;
}

function mapFault(map: object, within: object[]): string | undefined {
  for (const [key, value] of Object.entries(map)) {
    if (value === undefined) {
      continue;
    }
    const found = stringFault(key) ?? faultWithin(value, within);
    if (found !== undefined) {
      return found;
    }
  }
  return undefined;
}

/** Whether it is a map of JSON, not an instance of some class; of this realm or of another one. */
export function isPlain(value: unknown): value is Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || Object.prototype.toString.call(value) !== "[object Object]") {
    return false;
  }
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** What a value is, for a message: "a string", "an Array", "null". */
export function kind(value: unknown): string {
  if (value === null || value === undefined) {
    return String(value);
  }
  const made: unknown = typeof value === "object" ? value.constructor?.name : undefined;
  const name = typeof made === "string" && made !== "" ? made : typeof value;
  return `${/^[aeio]/i.test(name) ? "an" : "a"} ${name}`;
}

// --- in -------------------------------------------------------------------------------------------

// The decoder refuses the key `__proto__`, and would set a prototype by it. So that key, and those that
// look like it escaped, carry one NUL more until the maps are made.
const PROTO = "__proto__";
const ESCAPED_PROTO = /^__proto__\0+$/;

const KEYS = {
  canBeCached: () => true,
  decode(bytes: Uint8Array, offset: number, size: number): string {
    const key = text(bytes.subarray(offset, offset + size));
    return key.startsWith(PROTO) && /^__proto__\0*$/.test(key) ? `${key}\0` : key;
  },
};

function mapKey(key: unknown): string {
  if (typeof key !== "string") {
    throw new TypeError(`a map has a key that is ${kind(key)}, not a string`);
  }
  return key;
}

/**
 * The value that these bytes are. Integers are canonical, maps are plain objects.
 *
 * @throws Error they are not exactly one value of msgpack, or hold what no reply has.
 */
export function decode(packed: Uint8Array): unknown {
  return finish(unpack(packed, { useBigInt64: true, rawStrings: true, keyDecoder: KEYS, mapKeyConverter: mapKey }));
}

/** What the decoder gave, in place: bytes become strings, integers canonical. */
function finish(value: unknown): unknown {
  if (typeof value === "bigint") {
    return canonical(value);
  }
  if (typeof value !== "object" || value === null) {
    return value;
  }
  if (value instanceof Uint8Array) {
    return text(value);
  }
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index++) {
      value[index] = finish(value[index]);
    }
    return value;
  }
  return finishMap(value);
}

function finishMap(map: object): object {
  if (Object.getPrototypeOf(map) !== Object.prototype) {
    throw new TypeError(`${kind(map)} is no value of JSON`); // an extension type
  }
  const fields = map as Record<string, unknown>;
  const keys = Object.keys(fields);
  for (const key of keys) {
    fields[key] = finish(fields[key]);
  }
  return keys.some((key) => ESCAPED_PROTO.test(key)) ? unescaped(fields) : fields;
}

function unescaped(fields: Record<string, unknown>): object {
  const map = {};
  for (const [key, value] of Object.entries(fields)) {
    const name = ESCAPED_PROTO.test(key) ? key.slice(0, -1) : key;
    Object.defineProperty(map, name, { value, configurable: true, enumerable: true, writable: true });
  }
  return map;
}

function text(bytes: Uint8Array): string {
  const string = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8");
  // Wrong bytes become U+FFFD, which may also be meant.
  if (string.includes("\ufffd") && !isUtf8(bytes)) {
    throw new TypeError("a string is not UTF-8");
  }
  return string;
}
