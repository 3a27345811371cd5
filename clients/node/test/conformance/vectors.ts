/** The vectors of tests/conformance, as its README describes them. */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { CHECKOUT } from "../engine.js";

/** Whatever JSON can say, placeholders included. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };
export type JsonMap = { [name: string]: Json };

/** What is done, and what must come of it. What only an engine is judged by is not looked at here. */
export interface Step {
  readonly peer?: string;
  readonly send?: Json;
  readonly control?: "fail_writes" | "allow_writes" | "terminate" | "kill" | "start";
  readonly close?: boolean;
  readonly expect?: Json;
  readonly until?: JsonMap;
}

export interface EngineCase {
  readonly id: string;
  readonly file: string;
  readonly steps: readonly Step[];
}

export interface ClientCase {
  readonly id: string;
  readonly call: JsonMap;
  readonly answers: readonly Json[];
  readonly result: { readonly ok?: Json; readonly error?: Json };
  readonly sent: Json[];
}

interface Case extends Partial<EngineCase>, Partial<ClientCase> {
  readonly name: string;
}

const DIRECTORY = join(CHECKOUT, "tests", "conformance");

function cases(): Case[] {
  const files = readdirSync(DIRECTORY).filter((name) => name.endsWith(".json"));
  return files.sort().flatMap((name) => {
    const file = name.replace(/\.json$/, "");
    const document = JSON.parse(readFileSync(join(DIRECTORY, name), "utf8")) as { cases: Case[] };
    return document.cases.map((each) => ({ ...each, file, id: `${file}/${each.name}` }));
  });
}

/** Every case, those for engines and those for clients. */
export function load(): { engine: EngineCase[]; client: ClientCase[] } {
  const all = cases();
  return {
    engine: all.filter((each): each is Case & EngineCase => each.steps !== undefined),
    client: all.filter((each): each is Case & ClientCase => each.call !== undefined),
  };
}
