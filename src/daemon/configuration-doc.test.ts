import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { CONFIGURATION_DOC, configurationDoc } from '../../scripts/make-configuration-doc.ts';
import { SETTINGS } from './config.ts';

test('docs/configuration.md is as the settings say', async () => {
  const page = await readFile(CONFIGURATION_DOC, 'utf8');
  assert.equal(page, configurationDoc(), 'run: node scripts/make-configuration-doc.ts');
});

test('the page has a row for every setting', () => {
  const page = configurationDoc();
  for (const name of Object.keys(SETTINGS)) assert.ok(page.includes(`| \`${name}\` | `), name);
});
