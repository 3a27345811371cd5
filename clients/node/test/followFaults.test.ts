/** Following through what networks, slow processes and deaths do to it: each message once and in order. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import { type Client, CursorInvalid, connect, type Event, NoReply } from "../src/index.js";
import { Cable, EventProxy, type EventProxyOptions } from "./between.js";
import { type Engine, engineCommand, startEngine, waitUntil, within } from "./engine.js";
import { complete, connectNarrow, DONE_MS, Following, texts, upTo } from "./following.js";
import { Chance } from "./seeded.js";

const run = promisify(execFile);

const WORK_MS = 2; // of a slow follower, for each message; the writer needs less
const ENGINE_MARK = 4096; // events that the engine keeps for one slow follower

interface Bench {
  readonly engine: Engine;
  readonly client: Client;
  /** One more client. */
  open(directory?: string, timeoutMs?: number): Client;
}

/** A running engine with one session, and clients of it; all ended with the test. */
async function bench(t: TestContext): Promise<Bench> {
  const engine = await startEngine();
  t.after(() => engine.remove());
  const open = (directory = engine.directory, timeoutMs = 60_000): Client => {
    const client = connect(directory, { timeoutMs });
    t.after(() => client.close());
    return client;
  };
  const client = open();
  await client.createSession();
  return { engine, client, open };
}

async function openProxy(t: TestContext, engine: Engine, options: EventProxyOptions): Promise<EventProxy> {
  const proxy = await EventProxy.open(engine.directory, options);
  t.after(() => proxy.close());
  return proxy;
}

async function openNarrow(t: TestContext, directory: string): Promise<Client> {
  const client = connectNarrow(directory);
  t.after(() => client.close());
  return client;
}

async function heals(client: Client): Promise<number> {
  return Number((await client.stats())["heals"]);
}

async function facts(client: Client, count: number): Promise<Event[]> {
  const taken: Event[] = [];
  for await (const event of client.followAll()) {
    taken.push(event);
    if (taken.length === count) {
      break;
    }
  }
  return taken;
}

// --- slow followers ---------------------------------------------------------------------------------

test("a slow follower gets 2,000 appends once and in order, though most of their events are dropped", async (t) => {
  const { engine, client } = await bench(t);
  const proxy = await openProxy(t, engine, { sendHighWaterMark: 1 });
  const follower = new Following(await openNarrow(t, proxy.directory), { workMs: WORK_MS });
  await follower.isLive();
  const padding = { padding: "x".repeat(4000) }; // more than the kernel holds between the two
  const began = performance.now();
  await Promise.all(upTo(2000).map((seq) => client.append(1, "user", `text ${seq}`, { meta: padding })));
  const written = performance.now() - began;
  assert(follower.messages.length < 2000, "the writer is faster");
  await client.closeSession(1);
  complete(await follower.end(), 2000);
  assert((await heals(client)) > 0, "something was dropped");
  t.diagnostic(`2,000 appends in ${Math.round(written)} ms, ${await heals(client)} reads healed what was dropped`);
});

test("what the engine itself drops for a follower that stands still is read again", async (t) => {
  const { engine, client } = await bench(t);
  const messages = (await openNarrow(t, engine.directory)).follow(1);
  await client.append(1, "user", "text 1");
  const { value: first } = await messages.next();
  const batch = 2000;
  for (let after = 1; after < 6 * ENGINE_MARK; after += batch) {
    await client.appendMany(1, texts(after + batch, after));
  }
  const { seq } = await client.session(1);
  await client.closeSession(1);
  const taken = first === undefined ? [] : [first];
  for await (const message of messages) {
    taken.push(message);
  }
  complete(taken, seq);
  assert((await heals(client)) > 0, "something was dropped");
});

// --- lost events and cut connections ----------------------------------------------------------------

test("lost events are healed, for a session and for the whole log", async (t) => {
  const chance = new Chance(7);
  const { engine, client, open } = await bench(t);
  const drops = (topic: string): boolean => topic.includes("1/") && chance.next() < 0.3;
  const lossy = open((await openProxy(t, engine, { drops })).directory);
  const follower = new Following(lossy);
  const everything = facts(lossy, 1002);
  for (const seq of upTo(1000)) {
    await client.append(1, "user", `text ${seq}`);
  }
  await client.closeSession(1);
  complete(await follower.end(), 1000);
  const positions = (await within(DONE_MS, everything)).map(({ position }) => position);
  assert.deepEqual(positions, upTo(1002));
  assert((await heals(client)) > 10);
});

for (const lost of ["message/", "closed/"]) {
  test(`a lost last event (${lost}) is found by the heartbeat, and not by silence`, async (t) => {
    const { engine, client, open } = await bench(t);
    let isDropping = false;
    const dropped: string[] = [];
    const drops = (topic: string): boolean => {
      const hit = isDropping && dropped.length === 0 && topic.startsWith(lost);
      dropped.push(...(hit ? [topic] : []));
      return hit;
    };
    const follower = new Following(open((await openProxy(t, engine, { drops })).directory));
    await client.appendMany(1, texts(9));
    await follower.isLive();
    await follower.has(9);
    isDropping = true;
    if (lost === "message/") {
      await client.append(1, "user", "text 10");
      await follower.has(10);
      await client.closeSession(1);
      complete(await follower.end(), 10);
    } else {
      await client.closeSession(1);
      complete(await follower.end(), 9);
    }
    assert.equal(dropped.length, 1);
    assert(!follower.states.includes("engine gone"), "it was not silence that told");
  });
}

for (const more of [false, true]) {
  test(`what is lost while a connection is cut is found by ${more ? "a gap" : "the heartbeat"} behind it`, async (t) => {
    const { engine, client, open } = await bench(t);
    const cable = await Cable.open(engine.directory);
    t.after(() => cable.close());
    const follower = new Following(open(cable.directory));
    await client.append(1, "user", "text 1");
    await follower.isLive();
    await follower.has(1);
    cable.cut();
    await client.appendMany(1, texts(50, 1));
    cable.mend();
    const count = more ? 51 : 50;
    if (more) {
      await waitUntil(() => cable.connections >= 2);
      await client.append(1, "user", "text 51");
    }
    await follower.has(count);
    await client.append(1, "user", `text ${count + 1}`);
    await client.closeSession(1);
    complete(await follower.end(), count + 1);
  });
}

test("a connection that stays cut is told and read around", async (t) => {
  const { engine, client, open } = await bench(t);
  const cable = await Cable.open(engine.directory);
  t.after(() => cable.close());
  const follower = new Following(open(cable.directory));
  await follower.isLive();
  cable.cut();
  await client.appendMany(1, texts(5));
  await follower.has(5); // without a live socket, by reading alone
  assert(!follower.states.slice(2).includes("live"));
  cable.mend();
  await follower.isLive();
  await client.closeSession(1);
  complete(await follower.end(), 5);
});

test("a mute live socket at the start is an error that names it", async (t) => {
  const { engine, open } = await bench(t);
  const mute = open((await openProxy(t, engine, { drops: () => true })).directory, 3000);
  await assert.rejects(mute.follow(1).next(), {
    name: "NoReply",
    message: /nothing came over its live socket .*live\.sock/,
  });
});

// --- deaths and restarts ----------------------------------------------------------------------------

test("followers survive kill -9 and restart under load", async (t) => {
  const { engine, client, open } = await bench(t);
  const follower = new Following(open());
  const impatient = new Following(open(engine.directory, 5000));
  let enough = false;
  let acknowledged = 0;
  const load = async (): Promise<void> => {
    const writing = open(); // patient long enough to outlast each death
    while (!enough) {
      acknowledged += 1;
      await writing.append(1, "user", `text ${acknowledged}`);
    }
  };
  const loading = load();
  for (let death = 1; death <= 3; death++) {
    await follower.has(200 * death);
    await engine.kill();
    await engine.start();
  }
  enough = true;
  await within(DONE_MS, loading);
  await client.closeSession(1);
  complete(await follower.end(), acknowledged);
  complete(await impatient.end(), acknowledged);
  const log = await facts(client, acknowledged + 2);
  assert.deepEqual(
    log.map(({ position }) => position),
    upTo(acknowledged + 2),
  );
});

test("states are told in order through a kill and a restart", async (t) => {
  const { engine, client, open } = await bench(t);
  await client.append(1, "user", "text 1");
  const other = open();
  const followers = upTo(3).map(() => new Following(other));
  await Promise.all(followers.map((follower) => follower.isLive()));
  await engine.kill();
  await waitUntil(() => followers.every(({ states }) => states.at(-1) === "engine gone"));
  await engine.start();
  await Promise.all(followers.map((follower) => follower.isLive()));
  await client.append(1, "user", "text 2");
  await client.closeSession(1);
  for (const follower of followers) {
    complete(await follower.end(), 2);
    assert.deepEqual(follower.states, ["catching up", "live", "engine gone", "catching up", "live"]);
  }
});

test("a follower survives a clean stop and an absence longer than its patience", async (t) => {
  const { engine, client, open } = await bench(t);
  await client.append(1, "user", "text 1");
  const follower = new Following(open(engine.directory, 2000));
  await follower.isLive();
  assert.equal(await engine.stop(), 0);
  await assert.rejects(follower.end(4000), /took more than/); // it waits quietly
  assert.equal(follower.states.at(-1), "engine gone");
  await engine.start();
  await client.append(1, "user", "text 2");
  await client.closeSession(1);
  complete(await follower.end(), 2);
});

test("a follower survives an engine that is only slow", async (t) => {
  const { engine, client, open } = await bench(t);
  const follower = new Following(open(engine.directory, 2000));
  await client.append(1, "user", "text 1");
  await follower.has(1);
  engine.pause();
  await waitUntil(() => follower.states.at(-1) === "engine gone");
  engine.resume();
  await client.append(1, "user", "text 2");
  await client.closeSession(1);
  complete(await follower.end(), 2);
});

test("another database in the same place ends the followers, and none of its messages is given", async (t) => {
  const { engine, client, open } = await bench(t);
  await client.append(1, "user", "text 1");
  const follower = new Following(client);
  const events = client.followAll();
  assert.deepEqual([(await events.next()).value?.position, (await events.next()).value?.position], [1, 2]);
  const waiting = events.next();
  waiting.catch(() => {}); // until it is awaited
  await follower.isLive();
  await engine.stop();
  for (const file of await readdir(engine.directory)) {
    if (file.startsWith("armin.db")) {
      await rm(join(engine.directory, file));
    }
  }
  await engine.start();
  const other = open();
  await other.createSession();
  await other.appendMany(1, texts(9));
  const error = { name: "CursorInvalid", message: /another database/ };
  await assert.rejects(follower.end(), error);
  await assert.rejects(within(DONE_MS, waiting), error);
  complete(follower.messages, 1);
});

test("an engine that goes away before the first handshake is an error", async (t) => {
  const { engine, open } = await bench(t);
  const impatient = open(engine.directory, 300);
  const rejected = assert.rejects(within(DONE_MS, impatient.follow(1).next()), NoReply); // maybe before the kill is done
  await engine.kill();
  await rejected;
});

test("a follow ends where a backup is restored, and a cursor kept with its epoch is refused", async (t) => {
  const { engine, client } = await bench(t);
  await client.appendMany(1, texts(2));
  const { name } = await client.backup();
  await client.appendMany(1, texts(3, 2));
  const { epoch } = await client.hello();
  const following = new Following(client);
  await following.has(3);
  await engine.stop();
  await run(engineCommand(), ["restore", "--replace", join(engine.directory, "backups", name), engine.directory]);
  await engine.start();
  await client.append(1, "user", "another third one");
  await assert.rejects(following.end(), CursorInvalid);
  assert.equal(following.messages.length, 3);
  await assert.rejects(client.follow(1, { after: 3, epoch }).next(), CursorInvalid);
  await assert.rejects(client.read(1, { after: 3, epoch }), CursorInvalid);
  assert.equal((await client.read(1, { after: 2 })).messages[0]?.content, "another third one");
});
