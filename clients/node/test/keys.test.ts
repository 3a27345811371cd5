/** Idempotency keys: valid, never the same, growing. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Keys, newKey } from "../src/keys.js";

const VERSION_7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

/** Keys made at these times. */
function keysAt(times: Iterable<number>): string[] {
  let now = 0;
  const keys = new Keys(() => now);
  return Array.from(times, (time) => {
    now = time;
    return keys.next();
  });
}

function assertGrow(keys: readonly string[]): void {
  for (const [index, key] of keys.entries()) {
    assert.match(key, VERSION_7);
    assert.ok(index === 0 || key > (keys[index - 1] as string), `${key} comes after ${keys[index - 1]}`);
  }
}

test("keys grow within a millisecond, from one to the next, and when the clock is set back", () => {
  assertGrow(keysAt([...Array(2000).fill(1_700_000_000_000), 1_700_000_000_001, 1_699_999_999_000, 1_700_000_000_002]));
});

test("a key begins with its millisecond", () => {
  const [key = ""] = keysAt([0x0123456789ab]);
  assert.equal(key.slice(0, 13), "01234567-89ab");
});

test("a millisecond whose random bits are used up lends from the next", () => {
  assertGrow(keysAt(Array(200_000).fill(5)));
});

test("keys of this process grow", () => {
  assertGrow(Array.from({ length: 1000 }, newKey));
});

test("another maker's keys are other ones", () => {
  const [one, other] = [keysAt([7]), keysAt([7])];
  assert.notDeepEqual(one, other);
});
