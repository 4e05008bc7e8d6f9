import assert from 'node:assert/strict';
import { test } from 'node:test';
import { guestSources, RECIPE, recipeHash, type Recipe } from './recipe.ts';

const reversed = (value: unknown): unknown =>
  Array.isArray(value)
    ? value.map(reversed)
    : typeof value === 'object' && value !== null
      ? Object.fromEntries(
          Object.entries(value)
            .reverse()
            .map(([key, inner]) => [key, reversed(inner)]),
        )
      : value;

test('the hash is the same for the same recipe, in whatever order its fields stand', () => {
  assert.match(recipeHash(), /^[0-9a-f]{16}$/);
  assert.equal(recipeHash(), recipeHash(structuredClone(RECIPE)));
  assert.equal(recipeHash(), recipeHash(reversed(RECIPE) as Recipe));
});

test('every change of the recipe changes the hash', () => {
  const changed: readonly Recipe[] = [
    { ...RECIPE, formatVersion: RECIPE.formatVersion + 1 },
    { ...RECIPE, suite: 'trixie' },
    { ...RECIPE, packages: [...RECIPE.packages, 'git'] },
    { ...RECIPE, files: RECIPE.files.slice(1) },
    { ...RECIPE, links: { ...RECIPE.links, '/etc/a': '/etc/b' } },
    { ...RECIPE, initrd: { ...RECIPE.initrd, init: `${RECIPE.initrd.init}\n` } },
    { ...RECIPE, filesystem: { ...RECIPE.filesystem, sizeMib: 4096 } },
    { ...RECIPE, bootArgs: `${RECIPE.bootArgs} quiet` },
  ];
  const hashes = [RECIPE, ...changed].map(recipeHash);
  assert.equal(new Set(hashes).size, hashes.length);
});

test('every path of the recipe is absolute, given once, and stays within the root folder', () => {
  const paths = [...RECIPE.files.map(({ path }) => path), ...RECIPE.folders, ...Object.keys(RECIPE.links)];
  for (const path of [...paths, ...RECIPE.removed]) {
    assert.ok(path.startsWith('/') && !path.split('/').includes('..'), path);
  }
  assert.equal(new Set(paths).size, paths.length);
});

test('programs of the guest begin with their interpreter, and only they are executable', () => {
  for (const { path, content, executable } of RECIPE.files) {
    assert.equal(content.startsWith('#!'), executable === true, path);
  }
  assert.ok(RECIPE.initrd.init.startsWith('#!/bin/busybox sh\n'));
});

test('a unit that is enabled is no masked one, and our own units exist', () => {
  const own = new Set(RECIPE.files.map(({ path }) => path));
  for (const [path, target] of Object.entries(RECIPE.links)) {
    if (!path.includes('.wants/')) continue;
    const unit = path.slice(path.lastIndexOf('/') + 1);
    assert.notEqual(RECIPE.links[`/etc/systemd/system/${unit}`], '/dev/null', unit);
    if (target.startsWith('/etc/')) assert.ok(own.has(target), target);
  }
});

test('the guest fetches packages from the public mirror, whatever the image was built from', () => {
  assert.equal(
    guestSources(RECIPE),
    [
      'deb http://deb.debian.org/debian bookworm main',
      'deb http://deb.debian.org/debian bookworm-updates main',
      'deb http://deb.debian.org/debian-security bookworm-security main',
      '',
    ].join('\n'),
  );
});

test('the words the host waits for are the ones the shutdown hook says', () => {
  const hook = RECIPE.files.find(({ path }) => path.includes('/system-shutdown/'));
  assert.match(hook?.content ?? '', /hatch-shutdown: %s/);
  assert.match(hook?.content ?? '', /reboot \| kexec\) word=reboot/);
  assert.match(hook?.content ?? '', /\*\) word=poweroff/);
});
