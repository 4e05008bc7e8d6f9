import assert from 'node:assert/strict';
import { test } from 'node:test';
import { breaches } from './house-rules.ts';

const later = ['TO', 'DO'].join('');

test('a clean file breaks no rule', () => {
  assert.deepEqual(breaches('src/a/b.ts', 'export const skip = 1;\n'), []);
  assert.deepEqual(breaches('src/a/b.test.ts', "test('a thing', () => setImmediate(go));\n"), []);
});

test('a test that is skipped, put off or alone is found, however it is written', () => {
  for (const line of [
    "test.skip('x', go)",
    "it.only('x', go)",
    "t.todo('x')",
    "test('x', { skip: true }, go)",
    "test('x', { only }, go)",
    "test('x', { timeout: 1, todo: 'why' }, go)",
  ])
    assert.equal(breaches('src/a/b.test.ts', line).length, 1, line);
});

test('put-off work, switched-off checks and sleeping tests are found with their line', () => {
  assert.match(breaches('src/a/b.ts', `\n// ${later} later`)[0] ?? '', /^src\/a\/b\.ts:2 /);
  assert.equal(breaches('src/a/b.ts', '// eslint-' + 'disable-next-line').length, 1);
  assert.equal(breaches('src/a/b.test.ts', 'setTimeout(go, 5)').length, 1);
  assert.equal(breaches('src/a/b.ts', 'setTimeout(go, 5)').length, 0);
});

test('a file over the limit is found', () => {
  assert.equal(breaches('src/a/b.ts', 'x\n'.repeat(401)).length, 1);
  assert.equal(breaches('src/a/b.ts', 'x\n'.repeat(400)).length, 0);
});
