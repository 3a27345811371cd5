/** Idempotency keys that grow with time: UUIDs of version 7 (RFC 9562, section 5.7). */

import { randomBytes } from "node:crypto";

const RANDOM_BITS = 74n;
const STEP_BITS = 32n; // a key of the same millisecond is the last one plus so many random bits

/** Makes keys, each greater than the last. */
export class Keys {
  readonly #clock: () => number;
  #millisecond = 0;
  #random = 0n;

  /** `clock` gives milliseconds since the epoch, and may be set back. */
  constructor(clock: () => number = Date.now) {
    this.#clock = clock;
  }

  /** A key that nobody has used. */
  next(): string {
    const now = this.#clock();
    if (now > this.#millisecond) {
      this.#begin(now);
    } else {
      // within one millisecond, or after the clock was set back
      this.#random += 1n + randomBits(STEP_BITS);
      if (this.#random >> RANDOM_BITS !== 0n) {
        this.#begin(this.#millisecond + 1);
      }
    }
    return text(this.#millisecond, this.#random);
  }

  /** One bit less than there is room for, so that the keys of a millisecond can grow. */
  #begin(millisecond: number): void {
    this.#millisecond = millisecond;
    this.#random = randomBits(RANDOM_BITS - 1n);
  }
}

function randomBits(bits: bigint): bigint {
  return BigInt.asUintN(Number(bits), BigInt(`0x${randomBytes(10).toString("hex")}`));
}

function text(millisecond: number, random: bigint): string {
  const high = random >> 62n;
  const low = BigInt.asUintN(62, random);
  const number = (BigInt.asUintN(48, BigInt(millisecond)) << 80n) | (7n << 76n) | (high << 64n) | (2n << 62n) | low;
  const hex = number.toString(16).padStart(32, "0");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

const keys = new Keys();

/** A key that nobody has used, greater than all that this process made before. */
export function newKey(): string {
  return keys.next();
}
