/** How long a client lives, and what it leaves behind. */

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { ClientClosed, connect } from "../src/index.js";
import { type Engine, startEngine, within } from "./engine.js";

const ENDS_MS = 90_000;

let engine: Engine;

before(async () => {
  engine = await startEngine();
});

after(() => engine.remove());

/** A process that has `connect` and `directory`. */
function program(code: string): ChildProcess {
  const index = join(fileURLToPath(new URL("../src/index.js", import.meta.url)));
  const head = `import { connect } from ${JSON.stringify(index)};\nconst directory = process.argv[1];\n`;
  const stdio = ["ignore", "pipe", "inherit"] as const;
  return spawn(process.execPath, ["--input-type=module", "-e", head + code, engine.directory], { stdio: [...stdio] });
}

/** What a process says, and how it ends by itself. */
async function run(code: string): Promise<{ said: string; exit: number | null }> {
  const child = program(code);
  let said = "";
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  try {
    const [exit] = (await within(ENDS_MS, once(child, "close"), "the process")) as [number | null];
    return { said: said.trim(), exit };
  } finally {
    child.kill("SIGKILL");
  }
}

test("a process ends by itself once its client is closed", async () => {
  const closed = await run("const client = connect(directory); await client.ping(); await client.close();");
  assert.deepEqual(closed, { said: "", exit: 0 });
});

test("a process ends by itself after a follow, an effect and a wait for leases that were given up", async () => {
  const { said, exit } = await run(`
    const client = connect(directory);
    const { id } = await client.createSession();
    await client.createGroup("g", { start: "now" });
    const names = [];
    const note = (error) => names.push(error.name);
    const all = [client.follow(id).next(), client.effects().next().then(() => client.effects().next())];
    all.push(client.followAll({ after: "now" }).next(), client.lease("g", { waitMs: 60000 }));
    const noted = Promise.all(all.map((promise) => promise.catch(note)));
    setTimeout(() => client.close(), 300);
    await noted;
    console.log(names.join());
  `);
  assert.equal(exit, 0);
  assert.match(said, /^ClientClosed(,ClientClosed){2,3}$/);
});

test("an open client keeps its process alive, idle or not", async () => {
  for (const use of ["", "await client.ping();"]) {
    const child = program(`const client = connect(directory); ${use} process.stdout.write("ready");`);
    assert.ok(child.stdout);
    await within(ENDS_MS, once(child.stdout, "data"), "the process");
    await sleep(300); // there is no event to wait for: it is to do nothing
    assert.equal(child.exitCode, null);
    child.kill("SIGTERM");
    await within(ENDS_MS, once(child, "exit"), "the end");
  }
});

test("process.exit ends a process whose client is open", async () => {
  assert.equal((await run("const client = connect(directory); await client.ping(); process.exit(7);")).exit, 7);
});

test("`await using` closes the client", async () => {
  let left: { ping(): Promise<number> };
  {
    await using client = connect(engine.directory);
    await client.ping();
    left = client;
  }
  await assert.rejects(left.ping(), ClientClosed);
});

test("closing twice is fine, and whatever is asked afterwards is rejected", async () => {
  const client = connect(engine.directory);
  const { id } = await client.createSession();
  const follow = client.follow(id);
  await client.close();
  await client.close();
  await assert.rejects(client.append(id, "user", "x"), ClientClosed);
  await assert.rejects(follow.next(), ClientClosed);
  await assert.rejects(client.effects().next(), ClientClosed);
  await assert.rejects(client.lease("g", { waitMs: 10 }), ClientClosed);
  await assert.rejects(client.messages(id).next(), ClientClosed);
});

test("requests under way are rejected when the client is closed, with the key of the write", async (t) => {
  const client = connect(engine.directory);
  const { id } = await client.createSession();
  engine.pause();
  t.after(() => engine.resume());
  const asked = [client.append(id, "user", "x", { key: "mine" }), client.ping()];
  const settled = Promise.allSettled(asked);
  await client.close();
  const [write, read] = (await within(ENDS_MS, settled)) as PromiseRejectedResult[];
  assert.ok(write?.reason instanceof ClientClosed && read?.reason instanceof ClientClosed);
  assert.equal(write.reason.key, "mine");
});

test("clients come and go without leaving sockets", async () => {
  const { said, exit } = await run(`
    import { readdirSync } from "node:fs";
    const files = () => readdirSync("/proc/self/fd").length;
    const use = async () => {
      const client = connect(directory);
      const { id } = await client.createSession();
      const follow = client.follow(id);
      await client.append(id, "user", "x");
      await follow.next();
      await client.close();
    };
    for (let n = 0; n < 20; n++) await use();
    const before = files();
    for (let n = 0; n < 50; n++) await use();
    for (let tries = 0; files() > before + 10 && tries < 200; tries++) await new Promise((done) => setTimeout(done, 10));
    console.log(files() <= before + 10 ? "fine" : \`\${before} files became \${files()}\`);
  `);
  assert.deepEqual({ said, exit }, { said: "fine", exit: 0 });
});
