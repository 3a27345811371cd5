/** What waits for its turn: first in, first out, and back to the front where its turn came too early. */
export class Queue<T> {
  #items: (T | undefined)[] = [];
  #first = 0; // those before it were taken

  get length(): number {
    return this.#items.length - this.#first;
  }

  /** The next one, which stays. */
  peek(): T | undefined {
    return this.#items[this.#first];
  }

  push(item: T): void {
    this.#items.push(item);
  }

  shift(): T | undefined {
    const item = this.#items[this.#first];
    if (this.length > 0) {
      this.#items[this.#first++] = undefined;
      this.#cut();
    }
    return item;
  }

  unshift(item: T): void {
    if (this.#first > 0) {
      this.#items[--this.#first] = item;
    } else {
      this.#items.unshift(item);
    }
  }

  /** Let go of those that are not wanted. */
  keep(isWanted: (item: T) => boolean): void {
    this.#items = this.#items.slice(this.#first).filter((item) => isWanted(item as T));
    this.#first = 0;
  }

  /** Now and then, so that taking one costs the same however many wait. */
  #cut(): void {
    if (this.#first === this.#items.length || this.#first > 1024 + this.length) {
      this.#items = this.#items.slice(this.#first);
      this.#first = 0;
    }
  }
}
