import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { mkdtemp, rm, utimes, writeFile, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { askIfBusy, BUSY_FILE } from './busy.ts';
import type { ExecCommand } from './agent.ts';

const { signal } = new AbortController();

/** Asks a guest whose file is `path` of this machine: what it is asked is run here. */
async function ask(path: string): Promise<number> {
  const exec = async ({ command }: ExecCommand) => {
    const [program = '', ...args] = command;
    const { stdout, stderr } = await promisify(execFile)(
      program,
      args.map((arg) => arg.replaceAll(BUSY_FILE, path)),
    );
    return { exitCode: 0, stdout, stderr, truncated: false, timedOut: false };
  };
  return (await askIfBusy({ exec }, signal)) / 1000;
}

test('a guest is busy for as long as its file says, from when it was written; else for ten minutes', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-busy-'));
  try {
    const path = join(folder, 'busy');
    assert.equal(await ask(path), 0, 'there is none');
    const now = Math.floor(Date.now() / 1000);
    const said = async (text: string, age: number): Promise<number> => {
      await writeFile(path, text);
      await utimes(path, now - age, now - age);
      return ask(path);
    };
    const close = async (text: string, age: number, seconds: number): Promise<void> => {
      const left = await said(text, age);
      assert.ok(Math.abs(left - seconds) <= 60 && left <= seconds, `${JSON.stringify(text)}: ${left} s`);
    };
    await close('900\n', 100, 800);
    await close('900', 100, 800);
    await close('  900\nand more\n', 0, 900);
    await close('', 100, 500);
    await close('building\n', 100, 500);
    await close('99999999\n', 0, 3600);
    // Written before the clock was set back.
    await close('900\n', -5000, 900);
    assert.equal(await said('60\n', 100), 0);
    assert.equal(await said('0\n', 0), 0);
    assert.equal(await said('', 700), 0);
    // Nobody reads a terabyte for that.
    await truncate(path, 2 ** 40);
    assert.ok((await ask(path)) > 500);
    assert.equal(await ask(folder), 0, 'a folder says nothing');
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('what answers something else is not busy', async () => {
  for (const stdout of ['', 'age\n', 'stat: not found\n', '600\n'])
    assert.equal(
      await askIfBusy(
        {
          exec: async () => ({ exitCode: 1, stdout, stderr: '', truncated: false, timedOut: false }),
        },
        signal,
      ),
      0,
    );
});
