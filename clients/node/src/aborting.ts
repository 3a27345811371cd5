/** Waiting that a signal may end. */

/** Who waits on one signal. */
interface Waiting {
  readonly acts: Set<() => void>;
  readonly listener: () => void;
}

// Node warns of a signal with more than ten listeners, and one signal may well end a thousand requests. So each
// signal has one listener here, as long as somebody waits, and that calls all of them.
const waitings = new WeakMap<AbortSignal, Waiting>();

/** Call `act` when the signal is aborted, which it is not yet. Call what this gives to wait no more. */
export function onAbort(signal: AbortSignal | undefined, act: () => void): () => void {
  if (signal === undefined) {
    return () => {};
  }
  const waiting = waitings.get(signal) ?? listen(signal);
  const own = (): void => act(); // the same act may be given twice
  waiting.acts.add(own);
  return () => {
    if (waiting.acts.delete(own) && waiting.acts.size === 0) {
      leave(signal, waiting);
    }
  };
}

function listen(signal: AbortSignal): Waiting {
  const acts = new Set<() => void>();
  const waiting: Waiting = {
    acts,
    listener: () => {
      leave(signal, waiting);
      for (const act of acts) {
        act();
      }
    },
  };
  waitings.set(signal, waiting);
  signal.addEventListener("abort", waiting.listener);
  return waiting;
}

function leave(signal: AbortSignal, waiting: Waiting): void {
  signal.removeEventListener("abort", waiting.listener);
  if (waitings.get(signal) === waiting) {
    waitings.delete(signal);
  }
}
