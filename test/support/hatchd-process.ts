import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { HatchClient } from '../../src/clients/http.ts';
import { run, type RunResult } from '../../src/host/run.ts';

const ROOT = join(import.meta.dirname, '../..');
const MAIN = join(ROOT, 'src/daemon/main.ts');
/** What bin/hatchd sets too: it starts in half the time. */
const NODE_COMPILE_CACHE = process.env['NODE_COMPILE_CACHE'] ?? join(ROOT, 'node_modules/.cache/compiled');
const { HATCHD_FLAGS } = createRequire(import.meta.url)('../../bin/launch.cjs') as {
  readonly HATCHD_FLAGS: readonly string[];
};
const NODE = [process.execPath, ...HATCHD_FLAGS] as const;

type Env = Readonly<Record<string, string>>;
/** Prefixes a command so that it runs somewhere else: in a namespace, as another user. */
export type Enter = (argv: readonly string[]) => readonly string[];
const outside: Enter = (argv) => argv;

/** Runs a command of `hatchd` to its end, as an operator would type it, in an environment of these settings alone. */
export function hatchd(args: readonly string[], env: Env = {}, enter: Enter = outside): Promise<RunResult> {
  const [program = '', ...rest] = enter([...NODE, MAIN, ...args]);
  return run([program, ...rest], {
    env: { NODE_COMPILE_CACHE, ...env },
    okExitCodes: [0, 1, 2],
    timeoutMs: 50_000,
  });
}

/** A hatchd that serves, in a process of its own. */
export interface ServingHatchd {
  readonly pid: number;
  /** The first line on standard error that matches, also one of the past. Rejects when the process ends without it. */
  line(pattern: RegExp): Promise<string>;
  /** A client of it, once its API listens. */
  client(apiKey?: string): Promise<HatchClient>;
  /** All it wrote on standard error. */
  said(): string;
  readonly ended: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>;
  kill(signal: NodeJS.Signals): void;
}

/** Starts `hatchd` with these settings; guests and network are pretended unless they say otherwise. */
export function serveHatchd(env: Env, enter: Enter = outside): ServingHatchd {
  const [program = '', ...args] = enter([...NODE, MAIN]);
  const child = spawn(program, args, {
    env: { PATH: process.env['PATH'] ?? '', NODE_COMPILE_CACHE, HATCH_VMM: 'fake', ...env },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let said = '';
  let over = false;
  const waiting = new Set<() => void>();
  const look = (): void => {
    for (const wake of [...waiting]) wake();
  };
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said += text;
    look();
  });
  const ended: ServingHatchd['ended'] = new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      over = true;
      look();
      resolve({ code, signal });
    });
  });
  const line: ServingHatchd['line'] = (pattern) =>
    new Promise((resolve, reject) => {
      const wake = (): void => {
        // The last line may still be half.
        const found = said
          .split('\n')
          .slice(0, -1)
          .find((line) => pattern.test(line));
        if (found === undefined && !over) return;
        waiting.delete(wake);
        if (found !== undefined) resolve(found);
        else reject(new Error(`hatchd ended without saying ${String(pattern)}:\n${said}`));
      };
      waiting.add(wake);
      wake();
    });
  return {
    pid: child.pid ?? 0,
    ended,
    line,
    said: () => said,
    kill: (signal) => void child.kill(signal),
    client: async (apiKey) => {
      const url = /"url":"([^"]+)"/.exec(await line(/"msg":"the API listens"/))?.[1] ?? '';
      return new HatchClient({ url, apiKey });
    },
  };
}
