import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { Type } from 'typebox';
import { cannedApi, type Asked, type Canned } from '../../../test/support/canned-api.ts';
import { run } from '../../host/run.ts';

const HATCH = join(import.meta.dirname, '../../../bin/hatch');
const schema = Type.Array(Type.Unknown());

/** What is offered after these words, without what is said of each. */
async function offered(
  words: readonly string[],
  env: Record<string, string> = {},
): Promise<readonly string[]> {
  const { stdout } = await run([HATCH, 'complete', '--', ...words], {
    env: { HATCH_URL: 'http://127.0.0.1:1', HATCH_API_KEY: 'k', ...env },
  });
  const lines = stdout.trim().split('\n');
  return lines.filter((line) => !line.startsWith(':')).map((line) => line.split('\t')[0] ?? '');
}

test('commands and options are offered, without a server too', async () => {
  const first = await offered(['']);
  for (const word of ['vm', 'snapshot', 'route', 'login', 'completion'])
    assert.ok(first.includes(word), word);
  assert.ok(!first.includes('complete'), 'what the script asks is no command for people');
  assert.deepEqual(await offered(['vm', 'sta']), ['start']);
  assert.deepEqual(await offered(['vm', 'start', '--wa']), ['--wait']);
  assert.deepEqual(await offered(['vm', 'start', '']), []);
});

test('names of what is on the server are offered where a command wants them', async () => {
  const answer = ({ path }: Asked): Canned =>
    path.startsWith('/vms')
      ? { json: [{ id: 'vm-abc123def456', name: 'web' }, { id: 'vm-abc123def457' }], schema }
      : { json: [{ id: 'snap-abc123def456', name: 'golden' }], schema };
  await using server = await cannedApi(answer);
  const env = { HATCH_URL: server.url };
  assert.deepEqual(await offered(['vm', 'stop', ''], env), ['web', 'vm-abc123def457']);
  assert.deepEqual(await offered(['vm', 'rm', 'web', 'vm-'], env), ['vm-abc123def457']);
  assert.deepEqual(await offered(['snapshot', 'diff', ''], env), ['golden']);
});

test('each shell has its script, and another is refused', async () => {
  for (const [shell, mark] of [
    ['bash', /complete .*hatch/],
    ['zsh', /#compdef hatch/],
    ['fish', /complete -c hatch/],
  ] as const)
    assert.match((await run([HATCH, 'completion', shell])).stdout, mark);
  const { stderr } = await run([HATCH, 'completion', 'csh'], { okExitCodes: [2] });
  assert.match(stderr, /bash, fish/);
  const { stdout } = await run(['bash', '-c', `source <(${HATCH} completion bash) && complete -p hatch`]);
  assert.match(stdout, /hatch/);
});
