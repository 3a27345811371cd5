/** Power over an engine's disk. */

import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { type Engine, engineCommand } from "../engine.js";

const SCRIPT = `
import resource, sys
pid, size = int(sys.argv[1]), sys.argv[2]
_, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if size == "max" else int(size), hard))
`;

/** Let no file of the engine grow beyond so many bytes: writing to it fails in the kernel. Null ends that. */
export async function setFileSizeMax(engine: Engine, size: number | null): Promise<void> {
  const beside = join(dirname(engineCommand()), "python");
  const python = existsSync(beside) ? beside : "python3";
  await promisify(execFile)(python, ["-c", SCRIPT, String(engine.pid), size === null ? "max" : String(size)]);
}
