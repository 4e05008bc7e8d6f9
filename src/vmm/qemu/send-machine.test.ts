import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { exists } from '../../host/files.ts';
import { VmmError } from '../driver.ts';
import { sendMachine } from './send-machine.ts';

interface Said {
  readonly command: string;
  readonly args: Readonly<Record<string, unknown>>;
}

/** Saves a machine of which a QEMU says this, one answer after the other; once it was told to stop, that it is done. */
async function sent(
  answers: readonly object[],
  withMemory: boolean,
): Promise<{ readonly said: readonly Said[]; readonly state: string | undefined; readonly error: unknown }> {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-send-'));
  const statePath = join(folder, 'state');
  const said: Said[] = [];
  let next = 0;
  let stopped = false;
  const execute = async (command: string, args: Said['args'] = {}): Promise<unknown> => {
    said.push({ command, args });
    if (command === 'stop') stopped = true;
    if (command === 'migrate') {
      const socket = connect(join(folder, String(args['uri']).slice('unix:'.length)));
      await once(socket, 'connect');
      socket.end('the machine');
    }
    if (command !== 'query-migrate') return {};
    return stopped ? { status: 'completed' } : answers[Math.min(next++, answers.length - 1)];
  };
  try {
    const error: unknown = await sendMachine({ execute }, { folder, statePath, withMemory }).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    const state = (await exists(statePath)) ? await readFile(statePath, 'utf8') : undefined;
    return { said, state, error };
  } finally {
    await rm(folder, { recursive: true });
  }
}

const round = (count: number): object => ({ status: 'active', ram: { 'dirty-sync-count': count } });

test('a guest whose memory is soon sent is not told to stand still: QEMU does that when little is left', async () => {
  const { said, state, error } = await sent([round(1), round(2), round(3), { status: 'completed' }], true);
  assert.equal(error, undefined);
  assert.equal(state, 'the machine');
  assert.ok(!said.some(({ command }) => command === 'stop'));
  assert.deepEqual(said[0]?.args, { capabilities: [{ capability: 'x-ignore-shared', state: false }] });
});

test('a guest that writes its memory faster than it is sent stands still for the rest, once', async () => {
  const { said, state, error } = await sent([round(1), round(12), round(13)], true);
  assert.equal(error, undefined);
  assert.equal(state, 'the machine');
  assert.equal(said.filter(({ command }) => command === 'stop').length, 1);
});

test('memory that lies in a shared file is not sent', async () => {
  const { said } = await sent([{ status: 'completed' }], false);
  assert.deepEqual(said[0]?.args, { capabilities: [{ capability: 'x-ignore-shared', state: true }] });
});

test('what QEMU could not send is told in its words, and leaves no state', async () => {
  const { state, error } = await sent([round(1), { status: 'failed', 'error-desc': 'no luck' }], true);
  assert.ok(error instanceof VmmError);
  assert.match(error.message, /could not be saved: no luck/);
  assert.equal(state, undefined);
});
