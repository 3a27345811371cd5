/** What the client says when nobody answers. */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { rm, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { curveKeyPair } from "zeromq";
import { noReply, type Unanswered } from "../src/absence.js";
import { AccessKey } from "../src/accessKey.js";
import { connect, NoReply, NotAuthorized } from "../src/index.js";
import { TcpTarget } from "../src/target.js";
import { freePort, startEngine, temporaryDirectory, waitUntilAnswered } from "./engine.js";

const SHORT = 300; // ms: nobody answers, so every one of them is waited for
const LONG = 60_000; // ms: more than that is no slowness of the machine

/** A directory in which no engine runs. */
async function emptyDirectory(t: TestContext): Promise<string> {
  const directory = await temporaryDirectory();
  t.after(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

/** What an append comes to at a place where nobody answers. */
async function absence(target: string): Promise<NoReply> {
  await using client = connect(target, { timeoutMs: SHORT });
  const began = performance.now();
  const error = await client.append(1, "user", "x").catch((reason: unknown) => reason);
  const took = performance.now() - began;
  assert.ok(error instanceof NoReply, String(error));
  assert.ok(took >= SHORT * 0.9 && took < LONG, `${took} ms`);
  assert.ok(error.retry && error.key !== null);
  return error;
}

/** Pretend that an engine owns the directory. */
async function own(directory: string, lines: string): Promise<void> {
  await writeFile(join(directory, "armin.db.lock"), lines);
}

function deadPid(): number {
  return spawnSync(process.execPath, ["-e", ""]).pid;
}

test("a directory that is not there, and a file in its place", async (t) => {
  const directory = await emptyDirectory(t);
  const missing = await absence(join(directory, "missing"));
  assert.deepEqual([missing.reason, missing.sent], ["no_directory", false]);
  assert.equal(missing.message, `no such directory: ${directory}/missing`);
  await writeFile(join(directory, "file"), "");
  const file = await absence(join(directory, "file"));
  assert.equal(file.reason, "no_directory");
  assert.match(file.message, /^not a directory: .*\/file \(name the one that holds the database\)$/);
});

test("where no engine runs, it says how to start one", async (t) => {
  const directory = await emptyDirectory(t);
  for (const lock of [null, "", "no pid\n", "0\nserving\n", `${1n << 70n}\nserving\n`, `${deadPid()}\nserving\n`]) {
    if (lock !== null) {
      await own(directory, lock);
    }
    const error = await absence(directory);
    assert.deepEqual([error.reason, error.sent], ["not_running", false], String(lock));
    const advice = `(start one with: armin serve ${directory})`;
    assert.equal(error.message, `no engine is running on ${directory} ${advice}`);
  }
});

test("an engine that recovers is named", async (t) => {
  const directory = await emptyDirectory(t);
  for (const state of ["recovering", "opening"]) {
    await own(directory, `${process.pid}\n${state}\n`);
    const error = await absence(directory);
    assert.deepEqual([error.reason, error.sent], ["recovering", false]);
    assert.ok(error.message.includes(`the engine (pid ${process.pid}) is recovering ${directory}`));
  }
});

test("an engine that takes no connection is named, and one whose socket file is gone", async (t) => {
  const directory = await emptyDirectory(t);
  await own(directory, `${process.pid}\nserving\n`);
  const gone = await absence(directory);
  assert.deepEqual([gone.reason, gone.sent], ["unreachable", false]);
  assert.match(gone.message, /its socket file .*commands\.sock is missing \(restart the engine/);
  await writeFile(join(directory, "commands.sock"), ""); // nobody listens
  const deaf = await absence(directory);
  assert.deepEqual([deaf.reason, deaf.sent], ["unreachable", false]);
  assert.ok(deaf.message.includes(`(pid ${process.pid}) but took no connection at ipc://${directory}`));
  assert.ok(!deaf.message.includes("outcome"));
});

test("an engine that stays silent leaves a write's outcome unknown, and a read's is no matter", async (t) => {
  const engine = await startEngine();
  t.after(() => engine.remove());
  await using client = connect(engine.directory, { timeoutMs: SHORT });
  await waitUntilAnswered(client);
  engine.pause();
  const [write, read] = await Promise.all(
    [client.append(1, "user", "x"), client.read(1)].map((asked) => asked.catch((reason: unknown) => reason)),
  );
  engine.resume();
  assert.ok(write instanceof NoReply && read instanceof NoReply);
  assert.deepEqual([write.reason, write.sent, read.sent], ["silent", true, true]);
  const silent = `an engine is there (pid ${engine.pid}) but did not answer within 0.3 s`;
  assert.equal(read.message, silent);
  const resend = `sending it again with the key ${write.key} cannot double it`;
  assert.equal(write.message, `${silent}; the outcome of this write is unknown, ${resend}`);
});

test("an engine that dies over a write leaves its outcome unknown", async (t) => {
  const engine = await startEngine();
  t.after(() => engine.remove());
  await using client = connect(engine.directory, { timeoutMs: 5000 });
  await client.ping();
  engine.pause();
  const asked = client.createSession().catch((reason: unknown) => reason);
  setTimeout(() => engine.kill(), 200);
  const error = await asked;
  assert.ok(error instanceof NoReply);
  assert.deepEqual([error.reason, error.sent], ["not_running", true]);
  assert.ok(error.message.includes(`unknown, sending it again with the key ${error.key}`));
});

test("nothing at a TCP address, and nobody of that name", async () => {
  const port = await freePort();
  const error = await absence(`tcp://127.0.0.1:${port}`);
  assert.deepEqual([error.reason, error.sent], ["unreachable", false]);
  assert.equal(error.message, `nothing answered at 127.0.0.1:${port} within 0.3 s`);
  assert.equal((await absence("tcp://no-such-host.invalid:7")).reason, "unreachable");
});

test("a refusal of what was sent before leaves a write's outcome unknown", () => {
  const pair = curveKeyPair();
  const content = { armin_key: 1, name: "alice", role: "writer", public: pair.publicKey, server: pair.publicKey };
  const target = new TcpTarget("h", 7, new AccessKey({ ...content, secret: pair.secretKey }, "the key"));
  const error = (unanswered: Unanswered) => noReply(target, SHORT, unanswered, "refused");
  const refused = "the engine at h:7 refused this key (alice, writer), or does not know it";
  const write = error({ sent: true, writes: true, key: "k" });
  assert.ok(write instanceof NotAuthorized);
  assert.equal(
    write.message,
    `${refused}; the outcome of this write is unknown, sending it again with the key k cannot double it`,
  );
  assert.equal(error({ sent: false, writes: true, key: "k" }).message, refused);
  assert.equal(error({ sent: true, writes: false }).message, refused);
});

test("a TCP server that breaks off, as an engine does that wants a key", async (t) => {
  const server = createServer((socket) => socket.destroy()).listen(0, "127.0.0.1");
  t.after(() => server.close());
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const error = await absence(`tcp://127.0.0.1:${port}`);
  assert.deepEqual([error.reason, error.sent], ["handshake", false]);
  const told = "what listens there breaks off: it may want a key, or be no engine";
  assert.ok(error.message.startsWith(`nothing got through to 127.0.0.1:${port} within 0.3 s: ${told}`), error.message);
});

test("a TCP server that speaks something else", async (t) => {
  const server = createServer().listen(0, "127.0.0.1");
  t.after(() => server.close());
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  assert.match((await absence(`tcp://127.0.0.1:${port}`)).message, /^nothing answered at 127\.0\.0\.1:/);
});
