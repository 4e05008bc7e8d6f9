import { fork, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { launchHere, type Heard, type Launch, type Launcher } from './launch.ts';

/** What is said to the process that launches. */
export type ToLauncher =
  | { readonly id: number; readonly launch: Launch }
  | { readonly id: number; readonly kill: true }
  | { readonly id: number; readonly rest: string | Uint8Array };
/** What it says. */
export interface FromLauncher {
  readonly id: number;
  readonly heard: Heard;
}

const PROGRAM = fileURLToPath(new URL('./launcher-main.ts', import.meta.url));
/**
 * It holds next to nothing, and what it holds is copied at each start of a program. Its old generation grows by as much as hatchd's:
 * what Node keeps compiled it keeps for one such bound alone.
 */
const SMALL = [
  '--max-semi-space-size=1',
  '--max-old-space-size=64',
  '--heap-growing-percent=20',
  '--disable-warning=ExperimentalWarning',
];

/**
 * A small process of its own that starts programs for this one. To start a program a process is copied first, all page tables of it,
 * and stands still meanwhile: 3 ms for a small one, 22 ms for one of 300 MB. It ends with this process, and what it started goes on.
 * When it dies, what was under way is heard as killed, and this process starts programs itself from then on.
 */
export class LauncherProcess {
  readonly #child: ChildProcess;
  readonly #hearing = new Map<number, (heard: Heard) => void>();
  readonly #ended: Promise<void>;
  readonly #lost: () => void;
  #next = 1;
  #gone = false;
  #closing = false;

  /** `env`: all that the process is to have of the environment. `lost` is called once when it ends without having been closed. */
  constructor({
    env,
    lost = () => undefined,
  }: {
    readonly env: Readonly<Record<string, string>>;
    readonly lost?: () => void;
  }) {
    this.#lost = lost;
    this.#child = fork(PROGRAM, [], {
      execArgv: SMALL,
      env: { ...env },
      serialization: 'advanced',
      // Its own session: a terminal's interrupt is for the daemon.
      detached: true,
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    });
    this.#child.unref();
    this.#child.channel?.unref();
    this.#child.on('message', (message) => this.#hear(message as FromLauncher));
    this.#ended = new Promise((resolve) => {
      const end = (): void => {
        this.#end();
        resolve();
      };
      this.#child.once('error', end);
      this.#child.once('exit', end);
      this.#child.once('disconnect', () => this.#end());
    });
  }

  /** Its pid; undefined when it could not be started. */
  get pid(): number | undefined {
    return this.#child.pid;
  }

  readonly launch: Launcher = (what, hear) => {
    if (this.#gone || !this.#child.connected) return launchHere(what, hear);
    const id = this.#next++;
    this.#hearing.set(id, hear);
    this.#hold();
    this.#send({ id, launch: what });
    return {
      kill: () => this.#send({ id, kill: true }),
      giveRest: (rest) => this.#send({ id, rest }),
    };
  };

  /** Ends the process; resolves when it has. What it started goes on. */
  async close(): Promise<void> {
    this.#closing = true;
    if (this.#child.connected) this.#child.disconnect();
    // Who waits for its end is not to end before it.
    this.#child.ref();
    await this.#ended;
  }

  #send(message: ToLauncher): void {
    // Where it has gone, its end tells those who wait.
    if (!this.#gone && this.#child.connected) this.#child.send(message, () => undefined);
  }

  #hear({ id, heard }: FromLauncher): void {
    const hear = this.#hearing.get(id);
    if (heard.kind === 'failed' || heard.kind === 'close') {
      this.#hearing.delete(id);
      this.#hold();
    }
    hear?.(heard);
  }

  /** Somebody who waits for a program keeps this process, as a child of its own would. */
  #hold(): void {
    if (this.#hearing.size > 0) this.#child.channel?.ref();
    else this.#child.channel?.unref();
  }

  #end(): void {
    if (this.#gone) return;
    this.#gone = true;
    const hearing = [...this.#hearing.values()];
    this.#hearing.clear();
    for (const hear of hearing) hear({ kind: 'lost' });
    if (!this.#closing) this.#lost();
  }
}
