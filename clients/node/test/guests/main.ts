/** Guests of `armin torture`: `--guests "node .../guests/main.js"` runs this with its settings as the argument. */

import { type Client, connect } from "../../src/index.js";
import { Crew, type Settings } from "./crew.js";
import { follow } from "./followers.js";
import { work } from "./workers.js";
import { write } from "./writers.js";

const ROLES: Readonly<Record<string, (crew: Crew, client: Client) => Promise<void>>> = {
  "guest-writers": write,
  "guest-followers": follow,
  "guest-workers": work,
};

const settings = JSON.parse(process.argv.at(-1) ?? "{}") as Settings;
const role = ROLES[settings.role];
if (role === undefined) {
  throw new RangeError(`there is no role ${settings.role}`);
}
process.on("SIGINT", () => {}); // the campaign decides when we go
process.on("SIGUSR1", () => console.warn(process.getActiveResourcesInfo())); // it waits for us in vain
const crew = new Crew(settings);
process.on("unhandledRejection", (error) => crew.failed(error));
const client = connect(settings.engine, { timeoutMs: settings.timeout * 1000 });
try {
  await role(crew, client);
  crew.evidence.write("finished");
  process.exit(0); // followers may still wait for what will never come
} catch (error) {
  crew.failed(error);
  throw error;
}
