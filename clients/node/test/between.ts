/** What tests put between an engine and its followers: a proxy that drops events, a cable that is cut. */

import { mkdir, rm, symlink } from "node:fs/promises";
import { connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { XPublisher, XSubscriber } from "zeromq";

const EMPTY = Buffer.alloc(0);

export interface Between {
  /** To connect to instead of the engine's. */
  readonly directory: string;
  close(): Promise<void>;
}

/** A directory to connect to: the engine's own commands socket, and room for another live socket. */
async function directoryLike(engine: string, name: string): Promise<string> {
  const directory = join(engine, name);
  await mkdir(directory);
  await symlink(join(engine, "commands.sock"), join(directory, "commands.sock"));
  return directory;
}

export interface EventProxyOptions {
  /** Whether an event is lost. */
  readonly drops?: (topic: string, event: Buffer) => boolean;
  /** Messages that wait for a slow follower; beyond, libzmq drops them. */
  readonly sendHighWaterMark?: number;
}

/** A live socket that passes on what the engine's carries, but for what is dropped; it notes who subscribes. */
export class EventProxy implements Between {
  readonly directory: string;
  /** Topics that anybody is subscribed to. */
  readonly topics = new Set<string>();
  readonly #source = new XSubscriber({ linger: 0, sendHighWaterMark: 0, receiveHighWaterMark: 0 });
  readonly #out: XPublisher;
  readonly #drops: (topic: string, event: Buffer) => boolean;

  private constructor(directory: string, { drops = () => false, sendHighWaterMark = 0 }: EventProxyOptions) {
    this.directory = directory;
    this.#drops = drops;
    this.#out = new XPublisher({ linger: 0, sendHighWaterMark, receiveHighWaterMark: 0 });
  }

  static async open(engine: string, options: EventProxyOptions = {}): Promise<EventProxy> {
    const proxy = new EventProxy(await directoryLike(engine, "p"), options);
    proxy.#source.connect(`ipc://${engine}/live.sock`);
    await proxy.#out.bind(`ipc://${proxy.directory}/live.sock`);
    void proxy.#events();
    void proxy.#subscriptions();
    return proxy;
  }

  async #events(): Promise<void> {
    for await (const [topic = EMPTY, event = EMPTY] of this.#source) {
      if (!this.#drops(topic.toString("latin1"), event)) {
        await this.#out.send([topic, event]);
      }
    }
  }

  async #subscriptions(): Promise<void> {
    for await (const [subscription = EMPTY] of this.#out) {
      const topic = subscription.toString("latin1", 1);
      if (subscription[0] === 1) {
        this.topics.add(topic);
      } else {
        this.topics.delete(topic);
      }
      await this.#source.send(subscription);
    }
  }

  async close(): Promise<void> {
    this.#source.close();
    this.#out.close();
    await rm(this.directory, { recursive: true, force: true });
  }
}

/** A live socket connected to the engine's byte by byte, until it is cut. */
export class Cable implements Between {
  readonly directory: string;
  /** How many led to the engine so far. */
  connections = 0;
  readonly #engine: string;
  readonly #server: Server;
  readonly #ends = new Set<Socket>();
  #whole = true;
  #waiting: Socket[] = [];

  private constructor(directory: string, engine: string) {
    this.directory = directory;
    this.#engine = engine;
    this.#server = createServer((near) => this.#take(near));
  }

  static async open(engine: string): Promise<Cable> {
    const cable = new Cable(await directoryLike(engine, "c"), join(engine, "live.sock"));
    const listening = new Promise<void>((resolve) => {
      cable.#server.listen(join(cable.directory, "live.sock"), resolve);
    });
    await listening;
    return cable;
  }

  /** Break every connection; new ones are taken and lead nowhere until `mend`. */
  cut(): void {
    this.#whole = false;
    for (const end of this.#ends) {
      end.destroy();
    }
  }

  /** Let connections through again. */
  mend(): void {
    this.#whole = true;
    for (const near of this.#waiting.splice(0)) {
      this.#join(near);
    }
  }

  #take(near: Socket): void {
    this.#keep(near);
    if (this.#whole) {
      this.#join(near);
    } else {
      this.#waiting.push(near);
    }
  }

  #join(near: Socket): void {
    if (near.destroyed) {
      return;
    }
    const far = connect(this.#engine);
    this.#keep(far);
    this.connections += 1;
    near.pipe(far).pipe(near);
    near.on("close", () => far.destroy());
    far.on("close", () => near.destroy());
  }

  #keep(end: Socket): void {
    this.#ends.add(end);
    end.on("error", () => {}); // it closes then
    end.on("close", () => this.#ends.delete(end));
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.cut();
    await closed;
    await rm(this.directory, { recursive: true, force: true });
  }
}
