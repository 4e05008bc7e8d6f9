import type { Command } from 'commander';
import { HatchClient } from '../http.ts';
import type { Io } from './io.ts';
import { readServer, type Server } from './settings.ts';

/** What a command works with. */
export interface Context {
  readonly io: Io;
  readonly client: HatchClient;
  readonly server: Server;
  /** Whether a program reads the output. */
  readonly json: boolean;
}

interface GlobalOptions {
  readonly url?: string;
  readonly apiKey?: string;
  readonly json?: true;
}

/** Makes a command's action of a function that is given the context first; what it gives back is the exit code, else 0. */
export type Act = <Args extends readonly unknown[]>(
  work: (context: Context, ...args: Args) => Promise<number | undefined>,
) => (...args: Args) => Promise<void>;

/** An Act for this program and this world; `end` is told the exit code. */
export function acting(program: Command, io: Io, end: (code: number) => void): Act {
  return (work) =>
    async (...args) => {
      const options = program.opts<GlobalOptions>();
      const server = readServer(options, io);
      const client = new HatchClient(server);
      try {
        end((await work({ io, client, server, json: options.json === true }, ...args)) ?? 0);
      } finally {
        await client.close();
      }
    };
}

/** Prints what the API said: as it said it for programs, through `show` for people. */
export function print<T>({ io, json }: Context, value: T, show: (value: T) => string): undefined {
  io.out(`${json ? JSON.stringify(value, null, 2) : show(value)}\n`);
}

/**
 * Waits for `work`; on a terminal that takes over a second, what is waited for and the seconds stand there meanwhile.
 */
export async function waiting<T>(
  { io }: Pick<Context, 'io'>,
  what: string | (() => string),
  work: Promise<T>,
): Promise<T> {
  if (!io.terminal.stderr) return work;
  const started = io.now();
  let shown = false;
  const timer = setInterval(() => {
    shown = true;
    io.err(
      `\r\x1b[K${typeof what === 'string' ? what : what()} (${Math.floor((io.now() - started) / 1000)} s)`,
    );
  }, 1000);
  try {
    return await work;
  } finally {
    clearInterval(timer);
    if (shown) io.err('\r\x1b[K');
  }
}
