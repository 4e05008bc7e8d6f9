import { runCli } from '../../src/clients/cli/program.ts';
import type { Io } from '../../src/clients/cli/io.ts';

export interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
  /** The program it became, with its arguments. */
  readonly became: readonly string[] | undefined;
}

/** Runs `hatch` in a world that is only told of: 2026-03-06 11:30 UTC, no terminal, no home unless given. */
export async function hatch(
  words: readonly string[],
  world: {
    readonly env?: Io['env'];
    readonly cwd?: string;
    readonly home?: string;
    readonly stdin?: string;
    readonly stdinBytes?: Uint8Array;
    /** What a person at the terminal answers; without it there is no terminal. */
    readonly answer?: string;
    /** What is said on stderr as it is, to a person who sits there. */
    readonly watch?: (text: string) => void;
    /** What is said on stdout, as it is. */
    readonly listen?: (text: string) => void;
  } = {},
): Promise<Ran> {
  const ran = { out: '', err: '' };
  let became: readonly string[] | undefined;
  const atTerminal = world.answer !== undefined;
  const code = await runCli(words, {
    out: (text) => {
      ran.out += text;
      world.listen?.(text);
    },
    outBytes: async (bytes) => void (ran.out += Buffer.from(bytes).toString('latin1')),
    err: (text) => {
      ran.err += text;
      world.watch?.(text);
    },
    terminal: { stdin: atTerminal, stdout: atTerminal, stderr: world.watch !== undefined },
    env: world.env ?? {},
    cwd: world.cwd ?? '/nonexistent',
    home: world.home ?? '/nonexistent',
    root: '/nonexistent/hatch',
    now: () => Date.UTC(2026, 2, 6, 11, 30),
    readStdin: async () => world.stdin ?? '',
    inBytes: async function* () {
      yield world.stdinBytes ?? Buffer.alloc(0);
    },
    ask: async (question) => {
      ran.out += question;
      return world.answer ?? '';
    },
    become: (program, args) => {
      became = [program, ...args];
    },
  });
  return { code, ...ran, became };
}
