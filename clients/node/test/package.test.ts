/** The package as a user gets it: what is in it, its README's code, its declarations. */

import assert from "node:assert/strict";
import { type ExecFileException, execFile } from "node:child_process";
import { mkdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, type TestContext, test } from "node:test";
import { promisify } from "node:util";
import { Engine, freePort, PACKAGE, temporaryDirectory } from "./engine.js";
import { makeKey } from "./locked.js";

const run = promisify(execFile);

/** The registry is not there, which is no fault of the package. */
const OFFLINE = /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ENETUNREACH|ETIMEDOUT|ENOTCACHED/;

let directory: string; // empty at first, as a user's
let engine: Engine; // on ./chat of it
let address: string; // its own

before(async () => {
  directory = await temporaryDirectory();
  const port = await freePort();
  address = `tcp://localhost:${port}`;
  engine = new Engine(join(directory, "chat"), ["--tcp", `127.0.0.1:${port}`]);
  await mkdir(engine.directory, { mode: 0o700 });
  await makeKey(engine.directory, "alice", "writer", join(directory, "alice.key"));
  await engine.start();
});

after(async () => {
  await engine.remove();
  await rm(directory, { recursive: true, force: true });
});

interface Packed {
  readonly filename: string;
  readonly files: readonly { readonly path: string }[];
}

let packing: Promise<Packed> | undefined;

function packed(): Promise<Packed> {
  packing ??= run("npm", ["pack", "--json", "--pack-destination", directory], { cwd: PACKAGE }).then(({ stdout }) => {
    const [found] = JSON.parse(stdout.slice(stdout.indexOf("[\n"))) as [Packed];
    return found;
  });
  return packing;
}

let installing: Promise<unknown> | undefined;

/** Install the package from its tarball, once; false, and the test skipped, where the registry cannot be reached. */
async function installed(t: TestContext): Promise<boolean> {
  const { filename } = await packed();
  const options = ["--no-audit", "--no-fund", "--prefer-offline"];
  installing ??= run("npm", ["install", ...options, join(directory, filename)], { cwd: directory });
  try {
    await installing;
    return true;
  } catch (error) {
    const { stderr } = error as ExecFileException & { stderr: string };
    assert.match(stderr, OFFLINE);
    t.skip("the npm registry cannot be reached");
    return false;
  }
}

/** The JavaScript in the README, in order. */
async function snippets(): Promise<string[]> {
  const readme = await readFile(join(PACKAGE, "README.md"), "utf8");
  return [...readme.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code = ""]) => code);
}

async function play(code: string, name: string): Promise<string> {
  await writeFile(join(directory, name), code.replace("tcp://localhost:7450", address));
  const { stdout } = await run(process.execPath, [name], { cwd: directory, timeout: 60_000 });
  return stdout;
}

test("the tarball holds what was built, README, LICENSE and package.json, and nothing else", async () => {
  const paths = (await packed()).files.map(({ path }) => path);
  const others = paths.filter((path) => !/^dist\/\w+\.(js|d\.ts)$/.test(path));
  assert.deepEqual(others.sort(), ["LICENSE", "README.md", "package.json"]);
  assert.ok(paths.includes("dist/index.js") && paths.includes("dist/index.d.ts"));
});

test("the package has the version of the engine's project, and says what it needs", async () => {
  const manifest = JSON.parse(await readFile(join(PACKAGE, "package.json"), "utf8"));
  const project = await readFile(join(PACKAGE, "..", "..", "pyproject.toml"), "utf8");
  assert.equal(manifest.version, /^version = "(.*)"$/m.exec(project)?.[1]);
  assert.deepEqual(Object.keys(manifest.dependencies).sort(), ["@msgpack/msgpack", "zeromq"]);
});

test("no file of the package names a registry", async () => {
  const lock = await readFile(join(PACKAGE, "package-lock.json"), "utf8");
  assert.doesNotMatch(lock, /"resolved"/);
});

test("from an empty directory, the package is installed and the README's first snippet works", async (t) => {
  if (!(await installed(t))) {
    return;
  }
  const [first = ""] = await snippets();
  const said = await play(first, "first.mjs");
  assert.match(said, /^1 user hello\n2 assistant hi!\n.*closed.*\n$/);
});

test("every snippet of the README works", async (t) => {
  if (!(await installed(t))) {
    return;
  }
  const [, ...others] = await snippets();
  const said = await Promise.all(others.map((code, number) => play(code, `snippet${number}.mjs`)));
  assert.equal(said.length, 4);
  const [followed = "", admitted = "", written = "", worked = ""] = said;
  assert.match(followed, /^\d+ 1 hello\n$/);
  assert.equal(admitted, "writer\n");
  assert.equal(written, "100\n");
  assert.match(worked, /^welcome to session 1\n/);
});

const CONSUMER = `
import { type Client, connect, type Event, FollowState, type Id, type Message, NoReply, Retry, SessionClosed } from "armin";

const client: Client = connect("./chat", { timeoutMs: 1000 });
const signal = AbortSignal.timeout(1000);
const { id }: { id: Id } = await client.createSession({ name: "n", meta: { a: [1n, null] }, signal });
const seq: number = (await client.append(id, "user", "x", { expectSeq: 1n, key: undefined })).seq;
for await (const message of client.follow(id, { after: seq, onState: (state) => state === FollowState.LIVE, signal })) {
  const copy: Message = message;
  const content: string = copy.content.toUpperCase();
  const model = copy.meta?.["model"];
  await client.append(copy.sessionId, copy.role, content, { meta: { model } });
}
for await (const event of client.followAll({ after: "now", types: ["session_created"] })) {
  const at: Event["position"] = event.position;
  console.log(at, event.message?.content ?? event.name);
}
const worker = client.worker("g", async (effect) => {
  if (effect.signal.aborted) throw new Retry("later", { delayMs: 1 });
}, { ordered: true, start: "now" });
await worker.run();
const handled: number = worker.counters.handled;
try {
  await client.closeSession(id);
} catch (error) {
  if (error instanceof NoReply && !error.sent) console.log(error.key, handled);
  if (error instanceof SessionClosed) console.log(error.field, error.code);
}
// @ts-expect-error a content is a string
await client.append(id, "user", 7);
// @ts-expect-error there is no such option
await client.read(id, { offset: 1 });
// @ts-expect-error results are not to be changed
(await client.read(id)).messages[0].content = "x";
await client.close();
`;

test("a program in TypeScript passes the strictest checks with the package's declarations", async (t) => {
  if (!(await installed(t))) {
    return;
  }
  await writeFile(join(directory, "consumer.mts"), CONSUMER);
  await mkdir(join(directory, "node_modules", "@types"), { recursive: true });
  await symlink(join(PACKAGE, "node_modules", "@types", "node"), join(directory, "node_modules", "@types", "node"));
  const flags = ["--noEmit", "--strict", "--exactOptionalPropertyTypes", "--target", "es2022", "--module", "nodenext"];
  const compiler = join(PACKAGE, "node_modules", ".bin", "tsc");
  const checked = run(compiler, [...flags, "--types", "node", "consumer.mts"], { cwd: directory });
  await checked.catch(({ stdout }) => assert.fail(stdout));
});
