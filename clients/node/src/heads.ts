/** The head of the digest chain: one line that, kept elsewhere, shows whether a file still holds its past. */

import { BadRequest } from "./errors.js";
import { canonical } from "./wire.js";

const HEAD = /^([0-9]{1,19}):([0-9a-f]{32})$/;
const POSITION_MAX = (1n << 63n) - 1n;

/** The log up to `position` has this digest, in hex; both together are `POSITION:DIGEST`. */
export interface Head {
  readonly position: number | bigint;
  readonly digest: string;
}

/** What is wrong with a log that ends at `end` and has `digest` at the head's position; null if nothing is. */
export function difference(head: Head, end: number, digest: string | null): string | null {
  if (digest === null) {
    return `the log ends at position ${end}; what followed up to position ${head.position} is cut off`;
  }
  if (digest !== head.digest) {
    return `position ${head.position} has the digest ${digest}, not ${head.digest}: the past was rewritten`;
  }
  return null;
}

/**
 * A head as `verify` gives it.
 *
 * @throws BadRequest it is none.
 */
export function parseHead(text: string): Head {
  const match = HEAD.exec(String(text).trim().toLowerCase());
  const [, position = "", digest = ""] = match ?? [];
  if (match === null || BigInt(position) > POSITION_MAX) {
    const what = JSON.stringify(text);
    throw new BadRequest(`${what} is no POSITION:DIGEST, as armin verify --head prints it`, { field: "expect" });
  }
  return { position: canonical(BigInt(position)), digest };
}
