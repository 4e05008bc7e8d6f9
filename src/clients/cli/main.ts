import { accessSync, constants } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { text } from 'node:stream/consumers';
import type { Io } from './io.ts';
import { runCli } from './program.ts';
import { UsageError } from './words.ts';

/** `hatch`: the command line, in the real world. */
const io: Io = {
  out: (piece) => void process.stdout.write(piece),
  outBytes: (bytes) => new Promise((taken) => process.stdout.write(bytes, () => taken())),
  err: (piece) => void process.stderr.write(piece),
  terminal: {
    stdin: process.stdin.isTTY,
    stdout: process.stdout.isTTY,
    stderr: process.stderr.isTTY,
  },
  env: process.env,
  cwd: process.cwd(),
  home: homedir(),
  root: join(import.meta.dirname, '../../..'),
  now: () => Date.now(),
  readStdin: () => text(process.stdin),
  inBytes: () => process.stdin,
  ask: async (question) => {
    const terminal = createInterface({ input: process.stdin, output: process.stdout });
    try {
      return await terminal.question(question);
    } finally {
      terminal.close();
    }
  },
  become: (program, args) => {
    const file = findProgram(program);
    if (!process.execve)
      throw new UsageError('This Node cannot become another program; it must be 24 or newer.');
    process.execve(file, [program, ...args], process.env);
  },
};

/** Where a program is, as execve(2) must be told. Throws a UsageError when it is nowhere. */
function findProgram(program: string): string {
  if (program.includes('/')) return program;
  for (const folder of (process.env['PATH'] ?? '').split(':').filter((one) => one !== '')) {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return join(folder, program);
    } catch {
      // Not in this folder.
    }
  }
  throw new UsageError(`The program ${program} is not installed on this machine.`);
}

// A reader that has seen enough, as head(1), is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));
process.exitCode = await runCli(process.argv.slice(2), io);
