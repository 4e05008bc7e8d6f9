import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { ERRORS_DOC, errorsDoc } from '../../scripts/make-errors-doc.ts';
import { ERRORS } from './errors.ts';

test('docs/errors.md is as the catalogue says', async () => {
  assert.equal(await readFile(ERRORS_DOC, 'utf8'), errorsDoc(), 'run: node scripts/make-errors-doc.ts');
});

test('the page has a row for every code', () => {
  const page = errorsDoc();
  for (const [code, { status }] of Object.entries(ERRORS))
    assert.ok(page.includes(`| \`${code}\` | ${status} |`), code);
});
