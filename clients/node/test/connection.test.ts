/** What events of a socket come to. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Connection, type Consequence } from "../src/connection.js";

type Events = Parameters<Connection["heard"]>[0][];

function heard(connection: Connection, ...events: Events): Consequence[] {
  return events.map((event) => connection.heard(event, 0)).filter((consequence) => consequence !== undefined);
}

test("a connection is there from its handshake on, until it is lost", () => {
  const connection = new Connection();
  assert.deepEqual(heard(connection, "connect:delay", "connect"), []);
  assert.equal(connection.isThere, false);
  assert.deepEqual(heard(connection, "handshake"), ["send"]);
  assert.equal(connection.isThere, true);
  assert.deepEqual(heard(connection, "disconnect"), ["renew"]);
  assert.equal(connection.isThere, false);
});

test("where nobody listens, libzmq tries again, and no other socket is wanted", () => {
  const connection = new Connection();
  assert.deepEqual(heard(connection, "connect:delay", "close", "connect:retry", "connect:delay", "close"), []);
  assert.equal(connection.obstacle, null);
});

test("a refused key is told at once, and another socket is opened later", () => {
  const connection = new Connection();
  assert.deepEqual(heard(connection, "connect", "handshake:error:auth", "disconnect"), ["tell", "renew later"]);
  assert.deepEqual([connection.obstacle, connection.isThere], ["refused", false]);
});

test("another mechanism is no refusal, but libzmq gives up as well", () => {
  const connection = new Connection();
  assert.deepEqual(heard(connection, "connect", "handshake:error:protocol", "disconnect"), ["renew later"]);
  assert.equal(connection.obstacle, "mechanism");
});

test("a handshake that is cut off is tried again by libzmq", () => {
  const connection = new Connection();
  assert.deepEqual(heard(connection, "connect", "handshake:error:other", "disconnect", "connect:retry"), []);
  assert.equal(connection.obstacle, "cut");
});

test("each attempt in vain is followed by a longer pause, up to a second; success begins anew", () => {
  const connection = new Connection();
  const pauses: number[] = [];
  const fail = (): void => {
    heard(connection, "handshake:error:auth", "disconnect");
    pauses.push(connection.pauseLeft(0));
    connection.renewed();
  };
  for (let attempt = 0; attempt < 7; attempt++) {
    fail();
  }
  heard(connection, "handshake", "disconnect");
  connection.renewed();
  fail();
  assert.deepEqual(pauses, [50, 100, 200, 400, 800, 1000, 1000, 50]);
});

test("what is in the way is remembered over the next attempts, until one comes through or nobody is there", () => {
  const connection = new Connection();
  heard(connection, "handshake:error:auth", "disconnect");
  connection.renewed();
  heard(connection, "connect:delay", "connect");
  assert.equal(connection.obstacle, "refused");
  heard(connection, "handshake");
  assert.equal(connection.obstacle, null);
  heard(connection, "disconnect", "handshake:error:auth", "disconnect");
  connection.renewed();
  heard(connection, "connect:delay", "close");
  assert.equal(connection.obstacle, null);
});
