/** A queue hands out what it took in, in that order. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Queue } from "../src/queue.js";
import { Chance } from "./seeded.js";

test("a queue behaves as an array does, whatever is done in whatever order", () => {
  for (let seed = 0; seed < 20; seed++) {
    const chance = new Chance(seed);
    const [queue, array]: [Queue<number>, number[]] = [new Queue(), []];
    for (let step = 0; step < 10_000; step++) {
      const what = chance.one("push", "push", "push", "shift", "shift", "unshift");
      if (what === "shift") {
        assert.equal(queue.shift(), array.shift(), `seed ${seed}`);
      } else {
        queue[what](step);
        array[what](step);
      }
      assert.deepEqual([queue.length, queue.peek()], [array.length, array[0]], `seed ${seed}`);
    }
  }
});

test("a queue keeps what is wanted, in order, whatever was taken before", () => {
  const queue = new Queue<number>();
  for (let number = 0; number < 10; number++) {
    queue.push(number);
  }
  queue.shift();
  queue.keep((number) => number % 3 === 0);
  queue.push(10);
  assert.deepEqual([queue.length, queue.shift(), queue.shift(), queue.shift(), queue.shift()], [4, 3, 6, 9, 10]);
});

test("a long queue is emptied in order", () => {
  const queue = new Queue<number>();
  for (let number = 0; number < 100_000; number++) {
    queue.push(number);
  }
  for (let number = 0; number < 100_000; number++) {
    assert.equal(queue.shift(), number);
  }
  assert.equal(queue.shift(), undefined);
  assert.equal(queue.length, 0);
});
