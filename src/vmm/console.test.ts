import assert from 'node:assert/strict';
import { appendFile, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { truncateLog } from '../host/files.ts';
import { consoleSinceLaunch, markConsole, watchConsole } from './console.ts';
import { CONSOLE_FILE } from './driver.ts';

let folder: string;
let path: string;
let stop: () => void = () => undefined;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-console-'));
  path = join(folder, CONSOLE_FILE);
});
afterEach(async () => {
  stop();
  await rm(folder, { recursive: true, force: true });
});

/** What is heard of the console; `until` resolves when a piece has it. */
async function listen(): Promise<{
  readonly pieces: readonly string[];
  readonly until: (word: string) => Promise<string>;
}> {
  const pieces: string[] = [];
  const waiting = new Set<() => void>();
  stop = await watchConsole(folder, (text) => {
    pieces.push(text);
    for (const wake of [...waiting]) wake();
  });
  return {
    pieces,
    until: (word) =>
      new Promise((resolve) => {
        const look = (): void => {
          const found = pieces.find((piece) => piece.includes(word));
          if (found === undefined) return;
          waiting.delete(look);
          resolve(found);
        };
        waiting.add(look);
        look();
      }),
  };
}

test('what a machine before this one said is not what this one says', async () => {
  await markConsole(folder);
  await appendFile(path, 'reboot: Power down\r\n');
  await markConsole(folder);
  assert.equal(await consoleSinceLaunch(folder), '');
  await appendFile(path, 'Linux version 6\r\n');
  assert.equal(await consoleSinceLaunch(folder), 'Linux version 6\r\n');
  assert.match(await readFile(path, 'utf8'), /^--- hatch: [^\n]*\r\nreboot: Power down\r\n\r\n--- hatch: /);
});

test('it is not either after the console was cut, at whatever place', async () => {
  for (const kept of [200, 2000, 20_000]) {
    await writeFile(path, 'reboot: Power down\r\n'.repeat(500));
    await markConsole(folder);
    await appendFile(path, 'x'.repeat(300));
    await truncateLog(path, kept);
    assert.match(await consoleSinceLaunch(folder), /^x*$/);
  }
});

test('of a guest that has said much only the end is kept, and of a folder that is gone nothing', async () => {
  await markConsole(folder);
  await appendFile(path, `${'a'.repeat(100_000)}z`);
  const last = await consoleSinceLaunch(folder);
  assert.deepEqual([last.length, last.at(-1)], [16 * 1024, 'z']);
  await rm(folder, { recursive: true });
  assert.equal(await consoleSinceLaunch(folder), '');
});

test('a console is heard from the start of its machine on, and as it goes on', async () => {
  await markConsole(folder);
  await appendFile(path, 'old words\r\n');
  await markConsole(folder);
  await appendFile(path, 'said before we listened\r\n');
  const heard = await listen();
  assert.deepEqual(heard.pieces, ['said before we listened\r\n']);
  await appendFile(path, 'said after\r\n');
  await heard.until('said after');
  assert.equal(heard.pieces.join('').includes('old words'), false);
});

test('a word that is written in pieces is heard whole, also across the moment we begin to listen', async () => {
  await markConsole(folder);
  await appendFile(path, 'Kernel pan');
  const heard = await listen();
  await appendFile(path, 'ic - not sync');
  await heard.until('sync');
  await appendFile(path, 'ing: no root');
  assert.match(await heard.until('no root'), /Kernel panic - not syncing: no root/);
});

test('after a cut what is left is heard again, but nothing of the machine before', async () => {
  await writeFile(path, 'reboot: Power down\r\n'.repeat(500));
  await markConsole(folder);
  await appendFile(path, 'mine\r\n');
  const heard = await listen();
  await truncateLog(path, 2000);
  await appendFile(path, 'mine after the cut\r\n');
  await heard.until('after the cut');
  assert.equal(heard.pieces.join('').includes('Power down'), false);
  await truncate(path, 0);
  await appendFile(path, 'mine after all was cut\r\n');
  assert.match(await heard.until('all was cut'), /^mine after all was cut/);
});

test('a guest that writes much at once is heard to the end', async () => {
  await markConsole(folder);
  const heard = await listen();
  await appendFile(path, `${'.'.repeat(1_000_000)} the end`);
  await heard.until('the end');
});

test('nothing is heard once nobody listens, and a console that is not there cannot be heard', async () => {
  await markConsole(folder);
  const { pieces } = await listen();
  stop();
  await appendFile(path, 'too late');
  // Another ear on the same file hears it, so the first one would have.
  await (await listen()).until('too late');
  assert.deepEqual(pieces, []);
  await rm(path);
  await assert.rejects(listen(), { code: 'ENOENT' });
});
