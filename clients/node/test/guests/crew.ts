/** Everybody who works in one process of a torture campaign, and how the campaign leads them. */

import { createInterface } from "node:readline";
import { setTimeout } from "node:timers/promises";
import { Dice } from "./content.js";
import { type Evidence, EvidenceFile, lifeFile } from "./evidence.js";

/** What a process is told, as JSON on its command line; times in seconds. */
export interface Settings {
  readonly role: string;
  readonly life: number;
  readonly engine: string; // directory that the clients connect to
  readonly evidence: string; // directory
  readonly seed: string;
  readonly pace: number; // between two writes of one writer, on average
  readonly timeout: number; // that the clients wait for a reply
}

export function sleep(milliseconds: number): Promise<void> {
  return setTimeout(milliseconds);
}

/** Waits for the order to finish, and dies with the campaign, however that died. */
export class Crew {
  readonly evidence: EvidenceFile;
  readonly finish: Promise<Evidence>;
  finished = false;

  constructor(readonly settings: Settings) {
    this.evidence = new EvidenceFile(lifeFile(settings.evidence, settings.role, settings.life));
    const orders = createInterface({ input: process.stdin });
    this.finish = new Promise((resolve) => {
      orders.on("line", (line) => {
        this.finished = true;
        resolve(JSON.parse(line) as Evidence);
      });
    });
    orders.on("close", () => process.exit(3));
  }

  /** The dice of one of them. */
  dice(name: string): Dice {
    const { seed, role, life } = this.settings;
    return new Dice(`${seed}/${role}/${life}/${name}`);
  }

  /** Something that must not be, whatever was broken. */
  violation(text: string, trace?: string): void {
    this.evidence.write("violation", { text, trace });
  }

  /** Have it work beside the others; it must not fail. */
  start(task: Promise<void>): void {
    task.catch((error: unknown) => this.failed(error));
  }

  failed(error: unknown): void {
    this.violation(`${this.settings.role} failed: ${error}`, error instanceof Error ? error.stack : undefined);
  }
}
