/** Whether what came is what a vector expects, and where it is not. */

import { build, integer, isBuilt, placeholder, type Scope, WholeFloat } from "./values.js";
import type { Json, JsonMap } from "./vectors.js";

const DAY_MS = 86_400_000; // the engine's clock is not wrong by more

/** Every place where `got` is not as expected; binds what is to be bound. A field that is not there is undefined. */
export function differences(expected: Json, got: unknown, scope: Scope, path = "$"): string[] {
  const name = placeholder(expected);
  if (name !== undefined) {
    const match = MATCHERS[name];
    const whole = expected as JsonMap;
    if (match !== undefined) {
      return match(whole[name] as Json, got, scope, path, whole);
    }
    if (!isBuilt(name)) {
      throw new Error(`nobody knows ${name}`);
    }
    return equal(build(expected, scope), got, path);
  }
  if (Array.isArray(expected)) {
    return arrayDifferences(expected, got, scope, path);
  }
  if (typeof expected === "object" && expected !== null) {
    return mapDifferences(expected, got, scope, path);
  }
  return equal(expected, got, path);
}

function mapDifferences(expected: JsonMap, got: unknown, scope: Scope, path: string): string[] {
  if (typeof got !== "object" || got === null || Array.isArray(got)) {
    return [difference(path, "a map", got)];
  }
  const fields = got as Record<string, unknown>;
  return Object.entries(expected).flatMap(([name, value]) => {
    const field = Object.hasOwn(fields, name) ? fields[name] : undefined;
    return differences(value, field, scope, `${path}.${name}`);
  });
}

function arrayDifferences(expected: readonly Json[], got: unknown, scope: Scope, path: string): string[] {
  if (!Array.isArray(got) || got.length !== expected.length) {
    return [difference(path, `an array of ${expected.length}`, got)];
  }
  return expected.flatMap((item, index) => differences(item, got[index], scope, `${path}[${index}]`));
}

function difference(path: string, expected: unknown, got: unknown): string {
  return `${path}: expected ${shown(expected)}, got ${shown(got)}`;
}

function shown(value: unknown): string {
  const text = JSON.stringify(value, (_, item: unknown) => (typeof item === "bigint" ? `${item}n` : item)) ?? "nothing";
  return text.length <= 200 ? text : `${text.slice(0, 200)}...`;
}

function equal(expected: unknown, got: unknown, path: string): string[] {
  return same(expected, got) ? [] : [difference(path, expected, got)];
}

/** Equal at every depth, fields in the same order. Whole floats are integers here. */
function same(expected: unknown, got: unknown): boolean {
  if (expected instanceof WholeFloat) {
    return typeof got === "number" && expected.number === got;
  }
  if (typeof expected !== "object" || expected === null || typeof got !== "object" || got === null) {
    return expected === got;
  }
  const [wanted, found] = [Object.entries(expected), Object.entries(got)];
  return (
    Array.isArray(expected) === Array.isArray(got) &&
    wanted.length === found.length &&
    wanted.every(([key, value], index) => key === found[index]?.[0] && same(value, found[index]?.[1]))
  );
}

// --- placeholders that match more than one value --------------------------------------------------

type Matcher = (value: Json, got: unknown, scope: Scope, path: string, whole: JsonMap) => string[];

function matches(expected: Json, got: unknown, scope: Scope): boolean {
  return differences(expected, got, scope).length === 0;
}

function each(item: Json, got: unknown, scope: Scope, path: string, count: Json | undefined): string[] {
  if (!Array.isArray(got)) {
    return [difference(path, "an array", got)];
  }
  const counted = count === undefined ? [] : differences(count, got.length, scope, `${path}.length`);
  const items = got.flatMap((value, index) =>
    scope.at(index, () => differences(item, value, scope, `${path}[${index}]`)),
  );
  return [...counted, ...items];
}

function isInteger(value: unknown): value is number | bigint {
  return typeof value === "bigint" || Number.isSafeInteger(value);
}

const TYPES: Readonly<Record<string, (value: unknown) => boolean>> = {
  string: (value) => typeof value === "string",
  integer: isInteger,
  float: (value) => typeof value === "number",
  boolean: (value) => typeof value === "boolean",
  map: (value) => typeof value === "object" && value !== null && !Array.isArray(value),
  array: Array.isArray,
  nil: (value) => value === null,
};

const MATCHERS: Readonly<Record<string, Matcher>> = {
  $bind(name, got, scope, path, { is }) {
    const found = differences(is ?? { $any: true }, got, scope, path);
    scope.bound.set(String(name), got);
    return found;
  },
  $any: (_, got, _scope, path) => (got === undefined ? [difference(path, "something", got)] : []),
  $absent: (_, got, _scope, path) => (got === undefined ? [] : [difference(path, "nothing", got)]),
  $one_of: (choices, got, scope, path) =>
    (choices as Json[]).some((choice) => matches(choice, got, scope)) ? [] : [difference(path, choices, got)],
  $not: (unwanted, got, scope, path) =>
    got === undefined || matches(unwanted, got, scope) ? [difference(path, { not: unwanted }, got)] : [],
  $range(ends, got, scope, path) {
    const [low, high] = (ends as Json[]).map((end) => (end === null ? null : integer(end, scope)));
    const fits = isInteger(got) && (low == null || got >= low) && (high == null || got <= high);
    return fits ? [] : [difference(path, `an integer from ${low} to ${high}`, got)];
  },
  $time: (_, got, _scope, path) =>
    isInteger(got) && Math.abs(Number(got) - Date.now()) < DAY_MS ? [] : [difference(path, "a time near now", got)],
  $type: (name, got, _scope, path) =>
    TYPES[String(name)]?.(got) ? [] : [difference(path, `a value of type ${String(name)}`, got)],
  $match: (pattern, got, _scope, path) =>
    typeof got === "string" && new RegExp(`^(?:${String(pattern)})$`, "s").test(got)
      ? []
      : [difference(path, pattern, got)],
  $is: (value, got, scope, path) => equal(build(value, scope), got, path),
  $each: (item, got, scope, path, { count }) => each(item, got, scope, path, count),
  $list: (item, got, scope, path, { times }) => each(item, got, scope, path, integer(times, scope)),
  $contains(items, got, scope, path) {
    const found = Array.isArray(got) ? got : [];
    const missing = (items as Json[]).filter((item) => !found.some((value) => matches(item, value, scope)));
    return missing.map((item) => difference(path, item, got));
  },
};
