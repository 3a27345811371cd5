/** Keys that let a client in over TCP: who it is, and which engine it means. `armin keys` makes the files. */

import { closeSync, fstatSync, openSync, readFileSync } from "node:fs";
import { TargetError } from "./errors.js";
import { KEY_CHARACTERS, KEY_FORMAT } from "./protocol.js";
import type { KeyContent } from "./results.js";
import { kind } from "./wire.js";

export const KEY_VARIABLE = "ARMIN_KEY";

const OTHERS = 0o077; // group and others in a file's mode
const Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
const Z85_GROUP = 5; // characters for 4 bytes

/** How libzmq's CURVE is set up on a client's socket. */
export interface CurveOptions {
  readonly curveServerKey: string;
  readonly curvePublicKey: string;
  readonly curveSecretKey: string;
}

/** A key as it is used. The secret is in none of its properties, so it is neither shown nor logged. */
export class AccessKey {
  readonly name: string;
  readonly role: string;
  readonly #curve: CurveOptions;

  /** @throws TargetError a field is missing or malformed. `source` says in messages where the content is from. */
  constructor(content: unknown, source: string) {
    const fields = keyFields(content, source);
    this.name = text(fields, "name", source);
    this.role = text(fields, "role", source);
    this.#curve = {
      curveServerKey: z85(fields, "server", source),
      curvePublicKey: z85(fields, "public", source),
      curveSecretKey: z85(fields, "secret", source),
    };
  }

  /** The options of a socket that uses it. */
  get curve(): CurveOptions {
    return this.#curve;
  }
}

/**
 * The key that `given` is, or whose file it names.
 *
 * @throws TargetError the file cannot be used, or others may read it.
 */
export function readKey(given: string | KeyContent): AccessKey {
  if (typeof given === "string") {
    return new AccessKey(parsed(given), `the key file ${given}`);
  }
  return new AccessKey(given, "the key");
}

function parsed(path: string): unknown {
  const content = ownFile(path);
  try {
    return JSON.parse(content);
  } catch {
    throw refusal(`${path} is no key file: it is not JSON`); // what the parser says may quote the secret
  }
}

/** What is in a file that its owner alone may read. */
function ownFile(path: string): string {
  let file: number | undefined;
  try {
    file = openSync(path, "r");
    const mode = fstatSync(file).mode & 0o777;
    if ((mode & OTHERS) !== 0 && process.platform !== "win32") {
      throw refusal(`others may use the key file ${path} (its mode is ${octal(mode)}); run: chmod 600 ${path}`);
    }
    return readFileSync(file, "utf8");
  } catch (error) {
    throw error instanceof TargetError ? error : unreadable(path, error as NodeJS.ErrnoException);
  } finally {
    if (file !== undefined) {
      closeSync(file);
    }
  }
}

function octal(mode: number): string {
  return mode.toString(8).padStart(4, "0");
}

function unreadable(path: string, { code, message }: NodeJS.ErrnoException): TargetError {
  if (code === "ENOENT") {
    return refusal(
      `there is no key file ${path} (whoever runs the engine makes one: armin --dir DIR keys new NAME --role ROLE)`,
    );
  }
  return refusal(`the key file ${path} cannot be read: ${code ?? message}`);
}

type Fields = Readonly<Record<string, unknown>>;

function keyFields(content: unknown, source: string): Fields {
  if (typeof content !== "object" || content === null || Array.isArray(content)) {
    throw refusal(`${source} is ${kind(content)}, not a map of armin_key, name, role, public, secret and server`);
  }
  const fields = content as Fields;
  const version = fields["armin_key"];
  if (version === undefined) {
    throw refusal(`${source} has no armin_key, so it is no client's key`);
  }
  if (version !== KEY_FORMAT) {
    const found = typeof version === "number" ? version : kind(version);
    throw refusal(`${source} is of version ${found}, and this client knows ${KEY_FORMAT}`);
  }
  return fields;
}

function text(fields: Fields, name: string, source: string): string {
  const value = fields[name];
  if (typeof value !== "string" || value === "") {
    throw refusal(`${source} has no ${name}`);
  }
  return value;
}

function z85(fields: Fields, name: string, source: string): string {
  const value = text(fields, name, source);
  if (value.length !== KEY_CHARACTERS) {
    throw refusal(`${source} has a ${name} of ${value.length} characters, not ${KEY_CHARACTERS} of Z85`);
  }
  for (let start = 0; start < KEY_CHARACTERS; start += Z85_GROUP) {
    if (!isZ85Group(value.slice(start, start + Z85_GROUP))) {
      throw refusal(`${source} has a ${name} that is not Z85 (characters ${start + 1} to ${start + Z85_GROUP})`);
    }
  }
  return value;
}

/** Whether five characters stand for four bytes. */
function isZ85Group(group: string): boolean {
  const digits = [...group].map((char) => Z85.indexOf(char));
  return digits.every((digit) => digit >= 0) && digits.reduce((value, digit) => value * 85 + digit, 0) < 2 ** 32;
}

function refusal(message: string): TargetError {
  return new TargetError(message, { field: "key" });
}
