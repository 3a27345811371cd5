/** How long a worker waits for an answer, and before it asks again. */

const PATIENCE = 1000; // ms until a command is repeated, which does no harm here
const RETRY_FIRST = 50; // ms between two attempts; doubles
export const RETRY_MAX = 1000; // ms
export const RENEWALS = 3; // a lease is extended so many times as often as it has to be

/** When a line may be used again after a failure; each failure in a row doubles the pause. */
export class Pause {
  until = Number.NEGATIVE_INFINITY;
  #length = RETRY_FIRST;

  /** Pause from now. */
  failed(now: number): void {
    this.until = now + this.#length;
    this.#length = Math.min(RETRY_MAX, 2 * this.#length);
  }

  /** The next failure is the first again. */
  answered(): void {
    this.#length = RETRY_FIRST;
  }
}

/** Milliseconds to wait for an answer: leases must be extended in time even if an answer is lost. */
export function patience(timeoutMs: number, leaseMs: number): number {
  return Math.min(timeoutMs, PATIENCE, Math.max(50, leaseMs / (RENEWALS + 1)));
}
