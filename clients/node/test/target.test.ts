/** Where `connect` looks for the engine. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, ProtocolError, TargetError } from "../src/index.js";
import { DirectoryTarget, findTarget, TcpTarget } from "../src/target.js";

const IPC = { commands: "/elsewhere/c.sock", live: "/elsewhere/l.sock", effects: "/elsewhere/e.sock" };
const TCP = { commands: 7000, live: 7101, effects: 7202 };

/** That no target is found in this, and why. */
function refused(target: string | undefined, environment: Record<string, string> = {}): TargetError {
  let caught: unknown;
  try {
    findTarget(target, environment);
  } catch (error) {
    caught = error;
  }
  assert.ok(caught instanceof TargetError, `${target} is refused`);
  assert.equal(caught.field, "target");
  assert.equal(caught.code, "bad_target");
  return caught;
}

test("a directory means its commands socket", () => {
  for (const target of ["/data/x", "ipc:///data/x", "/data/x/", "/data/y/../x"]) {
    assert.equal(findTarget(target, {}).commands, "ipc:///data/x/commands.sock");
  }
});

test("a relative directory is taken from here", () => {
  assert.equal(findTarget("x", {}).commands, `ipc://${process.cwd()}/x/commands.sock`);
});

test("a tcp address is the commands socket", () => {
  assert.equal(findTarget("tcp://localhost:7000", {}).commands, "tcp://localhost:7000");
  assert.equal(findTarget("tcp://10.0.0.1:1/", {}).commands, "tcp://10.0.0.1:1");
  assert.equal(findTarget("tcp://[::1]:65535", {}).commands, "tcp://[::1]:65535");
});

test("what names no place is refused and quoted", () => {
  const places = ["tcp://localhost", "tcp://:7000", "tcp://x:0", "tcp://x:65536", "tcp://::1:7", "tcp:x:7"];
  for (const target of [...places, "http://x:7", "ipc://", "", "/a\0b"]) {
    const quoted = JSON.stringify(target).slice(1, -1);
    assert.ok(refused(target).message.includes(quoted), target);
  }
});

test("what is no string is refused", () => {
  refused(7 as unknown as string);
  refused(null as unknown as string);
});

test("without a target the environment decides, and the URL wins", () => {
  assert.deepEqual(findTarget(undefined, { ARMIN_DIR: "/data/x" }), new DirectoryTarget("/data/x"));
  assert.deepEqual(findTarget(undefined, { ARMIN_URL: "tcp://h:7" }), new TcpTarget("h", 7));
  assert.deepEqual(findTarget(undefined, { ARMIN_DIR: "/data/x", ARMIN_URL: "tcp://h:7" }), new TcpTarget("h", 7));
  assert.deepEqual(findTarget("/data/y", { ARMIN_URL: "tcp://h:7" }), new DirectoryTarget("/data/y"));
  assert.match(refused(undefined).message, /pass a directory .* or set ARMIN_DIR or ARMIN_URL/);
});

test("the environment is read at the call", async (t) => {
  const before = { ...process.env };
  t.after(() => {
    process.env = before;
  });
  delete process.env["ARMIN_URL"];
  process.env["ARMIN_DIR"] = `/${"x".repeat(200)}`;
  assert.throws(() => connect(), /107/);
  process.env["ARMIN_DIR"] = "/nowhere";
  await connect().close();
  delete process.env["ARMIN_DIR"];
  assert.throws(() => connect(), /set ARMIN_DIR or ARMIN_URL/);
});

test("a path too long for a socket is refused with the limit, and measured in bytes", () => {
  const longest = `/${"x".repeat(107 - "//commands.sock".length)}`;
  assert.equal(findTarget(longest, {}).commands.length, "ipc://".length + 107);
  const error = refused(`${longest}x`);
  assert.match(error.message, /108 bytes long and the system allows 107/);
  assert.equal(error.limit, 107);
  assert.equal(refused(`/${"ü".repeat(60)}`).limit, 107);
});

test("other sockets are files of the directory that the client connected with", () => {
  const target = new DirectoryTarget("/mnt/here");
  assert.equal(target.live({ endpoints: { ipc: IPC } }), "ipc:///mnt/here/l.sock");
  assert.equal(target.effects({ endpoints: { ipc: IPC } }), "ipc:///mnt/here/e.sock");
});

test("other sockets are ports of the host that the client connected with", () => {
  const target = new TcpTarget("far.example", 7000);
  assert.equal(target.live({ endpoints: { ipc: IPC, tcp: TCP } }), "tcp://far.example:7101");
  assert.equal(target.effects({ endpoints: { ipc: IPC, tcp: TCP } }), "tcp://far.example:7202");
});

test("a hello without the endpoint is a protocol error", () => {
  for (const endpoints of [{}, { ipc: {} }, { ipc: { live: 7 } }, { ipc: { live: "/" } }, { ipc: [] }, { ipc: null }]) {
    assert.throws(() => new DirectoryTarget("/d").live({ endpoints }), ProtocolError);
  }
  for (const live of [undefined, "7", 0, 65536, 7.5]) {
    assert.throws(() => new TcpTarget("h", 1).live({ endpoints: { tcp: { live } } }), /no port for its live socket/);
  }
});

test("a timeout that waits for nothing is refused", () => {
  for (const timeoutMs of [0, -1, Number.NaN]) {
    assert.throws(() => connect("/data/x", { timeoutMs }), RangeError);
  }
});
