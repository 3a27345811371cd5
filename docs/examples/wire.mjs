// What a client has to see to with @msgpack/msgpack: strings and 64-bit integers that come back as they went in.

import { decode, encode } from "@msgpack/msgpack";

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }); // else a U+FEFF at the beginning is dropped

// The decoder refuses the key "__proto__", which a meta may have: every key gets a letter in front until it is safe.
const keyDecoder = {
  canBeCached: () => true,
  decode: (bytes, start, length) => `_${utf8.decode(bytes.subarray(start, start + length))}`,
};

/** The frame of a command. */
export function pack(command) {
  return encode(outgoing(command), { useBigInt64: true });
}

/** What a frame holds: integers are numbers where these are exact, else bigints. */
export function unpack(frame) {
  return incoming(decode(frame, { keyDecoder, rawStrings: true, useBigInt64: true }));
}

function outgoing(value) {
  if (typeof value === "string" && !value.isWellFormed()) throw new TypeError("a lone surrogate cannot be sent");
  // With useBigInt64 the encoder writes large numbers as floats, and the engine refuses these for integers.
  if (Number.isSafeInteger(value) && Math.abs(value) >= 2 ** 31) return BigInt(value);
  if (Array.isArray(value)) return value.map(outgoing);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [outgoing(key), outgoing(item)]));
}

function incoming(value) {
  if (value instanceof Uint8Array) return utf8.decode(value);
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  if (Array.isArray(value)) return value.map(incoming);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key.slice(1), incoming(item)]));
}
