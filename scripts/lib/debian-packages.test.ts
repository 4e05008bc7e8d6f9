import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { hostPackages, KEYRING } from '../../src/guest/image/debian-packages.ts';

/** On every Debian and Ubuntu: apt and dpkg cannot be missing where they install what is. */
const ALWAYS_THERE = ['apt', 'dpkg'];

interface Listed {
  readonly package: string;
  readonly binary?: string;
  readonly file?: string;
  readonly why: string;
}

test('what the scripts install is all that the program says it needs', async () => {
  const text = await readFile(join(import.meta.dirname, 'debian-packages.json'), 'utf8');
  const lists = JSON.parse(text) as { readonly run: readonly Listed[]; readonly test: readonly Listed[] };
  const installed = new Set(lists.run.map(({ package: name, binary, file }) => `${name} ${binary ?? file}`));
  const needed = [
    ...hostPackages
      .filter(({ name }) => !ALWAYS_THERE.includes(name))
      .map(({ name, binary }) => `${name} ${binary}`),
    `${KEYRING.name} ${KEYRING.path}`,
  ];
  assert.deepEqual(
    needed.filter((one) => !installed.has(one)),
    [],
  );
  for (const one of [...lists.run, ...lists.test])
    assert.ok((one.binary === undefined) !== (one.file === undefined) && one.why !== '', one.package);
});
