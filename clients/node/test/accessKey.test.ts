/** Key files: what is read from them, and what is refused without giving the secret away. */

import assert from "node:assert/strict";
import { chmod, mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { inspect } from "node:util";
import { curveKeyPair } from "zeromq";
import { type AccessKey, readKey } from "../src/accessKey.js";
import { connect, type KeyContent, TargetError } from "../src/index.js";
import { DirectoryTarget, findTarget, TcpTarget } from "../src/target.js";
import { temporaryDirectory } from "./engine.js";

const PAIR = curveKeyPair();
const SERVER = curveKeyPair().publicKey;
const CONTENT: KeyContent = {
  armin_key: 1,
  name: "alice",
  role: "writer",
  public: PAIR.publicKey,
  secret: PAIR.secretKey,
  server: SERVER,
};
const CURVE = { curveServerKey: SERVER, curvePublicKey: PAIR.publicKey, curveSecretKey: PAIR.secretKey };

let directory: string;

before(async () => {
  directory = await temporaryDirectory();
});

after(() => rm(directory, { recursive: true, force: true }));

/** A key file for its owner alone. */
async function keyFile(name: string, content: unknown = CONTENT): Promise<string> {
  const path = join(directory, name);
  await writeFile(path, typeof content === "string" ? content : JSON.stringify(content), { mode: 0o600 });
  return path;
}

/** Why this is refused; never with the secret in it. */
function refused(act: () => unknown): string {
  let caught: unknown;
  try {
    act();
  } catch (error) {
    caught = error;
  }
  assert.ok(caught instanceof TargetError, String(caught));
  assert.deepEqual([caught.field, caught.code, caught.retry], ["key", "bad_target", false]);
  for (const part of [PAIR.secretKey, PAIR.secretKey.slice(0, 8), PAIR.secretKey.slice(-8)]) {
    assert.ok(!inspect(caught, { showHidden: true, depth: 9 }).includes(part), "the secret is kept");
  }
  return caught.message;
}

test("a key file says who the client is and which engine it means", async () => {
  const key = readKey(await keyFile("alice.key"));
  assert.deepEqual([key.name, key.role], ["alice", "writer"]);
  assert.deepEqual(key.curve, CURVE);
});

test("the content of a key file does as well, and fields of later versions of it are ignored", () => {
  assert.deepEqual(readKey({ ...CONTENT, later: 1 } as KeyContent).curve, CURVE);
});

test("a secret is not shown, however deep one looks", async () => {
  const key: AccessKey = readKey(CONTENT);
  await using client = connect("tcp://127.0.0.1:7", { key: CONTENT });
  for (const thing of [key, new TcpTarget("h", 7, key), client]) {
    const shown = [inspect(thing, { showHidden: true, depth: 9 }), String(thing), JSON.stringify({ ...thing })];
    assert.ok(!shown.join().includes(PAIR.secretKey), shown.join());
  }
});

test("a file that is not there, and one that cannot be read", () => {
  const missing = join(directory, "missing.key");
  assert.match(
    refused(() => readKey(missing)),
    /^there is no key file \/.*missing\.key \(.*armin .*keys new/,
  );
  assert.match(
    refused(() => readKey(directory)),
    /^others may use|cannot be read: EISDIR$/,
  );
  assert.match(
    refused(() => readKey("a\0b")),
    /cannot be read/,
  );
});

test("a directory in its place cannot be read", async () => {
  const path = join(directory, "folder");
  await mkdir(path, { mode: 0o700 });
  assert.equal(
    refused(() => readKey(path)),
    `the key file ${path} cannot be read: EISDIR`,
  );
});

test("a file that others may use is refused, with the command that mends it", async () => {
  const path = await keyFile("open.key");
  for (const mode of [0o640, 0o604, 0o620, 0o601, 0o644]) {
    await chmod(path, mode);
    const said = `others may use the key file ${path} (its mode is 0${mode.toString(8)}); run: chmod 600 ${path}`;
    assert.equal(
      refused(() => readKey(path)),
      said,
    );
  }
  for (const mode of [0o600, 0o400, 0o700]) {
    await chmod(path, mode);
    assert.equal(readKey(path).name, "alice");
  }
});

test("what is no JSON is refused without a word of it", async () => {
  const path = await keyFile("torn.key", JSON.stringify(CONTENT).slice(0, -1));
  assert.equal(
    refused(() => readKey(path)),
    `${path} is no key file: it is not JSON`,
  );
  const bare = await keyFile("bare.key", PAIR.secretKey);
  assert.equal(
    refused(() => readKey(bare)),
    `${bare} is no key file: it is not JSON`,
  );
});

test("what is no map, or of another version, is refused", async () => {
  const path = await keyFile("list.key", [CONTENT]);
  assert.match(
    refused(() => readKey(path)),
    new RegExp(`^the key file ${path} is an Array, not a map of armin_key`),
  );
  for (const content of [null, 7, undefined]) {
    assert.match(
      refused(() => readKey(content as unknown as KeyContent)),
      /^the key is .*, not a map/,
    );
  }
  const { armin_key: _, ...server } = CONTENT;
  assert.match(
    refused(() => readKey(server as KeyContent)),
    /has no armin_key/,
  );
  assert.match(
    refused(() => readKey({ ...CONTENT, armin_key: 2 })),
    /of version 2, and this client knows 1$/,
  );
  assert.match(
    refused(() => readKey({ ...CONTENT, armin_key: "1" as unknown as number })),
    /of version a string/,
  );
});

test("a field that is missing, short or not Z85 is refused and named", () => {
  for (const name of ["name", "role", "public", "secret", "server"] as const) {
    const { [name]: _, ...without } = CONTENT;
    for (const content of [without, { ...CONTENT, [name]: "" }, { ...CONTENT, [name]: 7 }]) {
      assert.equal(
        refused(() => readKey(content as KeyContent)),
        `the key has no ${name}`,
      );
    }
  }
  for (const name of ["public", "secret", "server"] as const) {
    const key = CONTENT[name];
    const wrong = (value: string): string => refused(() => readKey({ ...CONTENT, [name]: value }));
    for (const value of [key.slice(1), `${key}0`]) {
      assert.equal(wrong(value), `the key has a ${name} of ${value.length} characters, not 40 of Z85`);
    }
    for (const odd of [" ", "ü", "~", '"']) {
      assert.match(wrong(key.slice(0, 39) + odd), new RegExp(`a ${name} that is not Z85 \\(characters 36 to 40\\)`));
    }
    assert.match(wrong(`${"#".repeat(5)}${key.slice(5)}`), /not Z85 \(characters 1 to 5\)/, "more than 32 bits");
  }
});

test("the environment names the file, but only for tcp, and an option goes before it", async () => {
  const environment = { ARMIN_KEY: await keyFile("environment.key", { ...CONTENT, name: "env" }) };
  const keyOf = (key?: KeyContent): string | undefined => findTarget("tcp://h:7", environment, key).key?.name;
  assert.deepEqual([keyOf(), keyOf(CONTENT)], ["env", "alice"]);
  assert.equal(findTarget("tcp://h:7", { ARMIN_KEY: "" }).key, null);
  assert.match(
    refused(() => findTarget("tcp://h:7", { ARMIN_KEY: "/no/where" })),
    /there is no key file \/no\/where/,
  );
  assert.deepEqual(findTarget("/data/x", { ARMIN_KEY: "/no/where" }), new DirectoryTarget("/data/x"));
});

test("a key for a directory is refused: its files' permissions decide there", () => {
  assert.match(
    refused(() => connect("/data/x", { key: "/some.key" })),
    /^a key is for tcp:\/\/ alone/,
  );
  assert.match(
    refused(() => connect("ipc:///data/x", { key: CONTENT })),
    /^a key is for tcp:\/\/ alone/,
  );
});
