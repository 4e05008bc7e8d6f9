import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { exists } from '../../host/files.ts';
import { VmmError } from '../driver.ts';
import { sendMachine, tellsWhatIsWritten } from './send-machine.ts';

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
    if (command === 'query-status') return { status: 'postmigrate' };
    if (command !== 'query-migrate') return {};
    return stopped ? { status: 'completed' } : answers[Math.min(next++, answers.length - 1)];
  };
  try {
    const error: unknown = await sendMachine(
      { execute, listen: () => undefined },
      { folder, pid: process.pid, statePath, withMemory },
    ).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    const state = (await exists(statePath)) ? await readFile(statePath, 'utf8') : undefined;
    return { said, state, error };
  } finally {
    await rm(folder, { recursive: true });
  }
}

function ignoresShared([first]: readonly Said[]): boolean | undefined {
  const { capabilities } = first?.args as {
    readonly capabilities: readonly { readonly capability: string; readonly state: boolean }[];
  };
  return capabilities.find(({ capability }) => capability === 'x-ignore-shared')?.state;
}

const round = (count: number): object => ({ status: 'active', ram: { 'dirty-sync-count': count } });

test('a guest whose memory is soon sent is not told to stand still: QEMU does that when little is left', async () => {
  const { said, state, error } = await sent([round(1), round(2), round(3), { status: 'completed' }], true);
  assert.equal(error, undefined);
  assert.equal(state, 'the machine');
  assert.ok(!said.some(({ command }) => command === 'stop'));
  assert.deepEqual(ignoresShared(said), false);
});

test('a guest that writes its memory faster than it is sent stands still for the rest, once', async () => {
  const { said, state, error } = await sent([round(1), round(12), round(13)], true);
  assert.equal(error, undefined);
  assert.equal(state, 'the machine');
  assert.equal(said.filter(({ command }) => command === 'stop').length, 1);
});

test('memory that lies in a shared file is not sent', async () => {
  const { said } = await sent([{ status: 'completed' }], false);
  assert.deepEqual(ignoresShared(said), true);
});

test('what QEMU could not send is told in its words, and leaves no state', async () => {
  const { state, error } = await sent([round(1), { status: 'failed', 'error-desc': 'no luck' }], true);
  assert.ok(error instanceof VmmError);
  assert.match(error.message, /could not be saved: no luck/);
  assert.equal(state, undefined);
});

test('a guest goes on as soon as QEMU has left its migration, before all is in the file, and what was saved is whole all the same', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-send-'));
  const statePath = join(folder, 'state');
  let hear: (status: string) => void = () => undefined;
  let socket: Socket | undefined;
  const status = ['finish-migrate', 'finish-migrate', 'postmigrate'];
  const execute = async (command: string, args: Said['args'] = {}): Promise<unknown> => {
    if (command === 'query-status') return { status: status.shift() };
    if (command === 'query-migrate') {
      // It says so itself in the meantime.
      hear('completed');
      return round(1);
    }
    if (command !== 'migrate') return {};
    socket = connect(join(folder, String(args['uri']).slice('unix:'.length)));
    await once(socket, 'connect');
    socket.write('the mach');
    return {};
  };
  try {
    let stood = 0;
    await sendMachine(
      { execute, listen: (how) => void (hear = how) },
      {
        folder,
        pid: process.pid,
        statePath,
        withMemory: true,
        still: async () => {
          assert.deepEqual(status, [], 'not while QEMU still finishes');
          stood++;
          socket?.end('ine');
        },
      },
    );
    assert.equal(stood, 1);
    assert.equal(await readFile(statePath, 'utf8'), 'the machine');
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('a guest that does not go on is no save: what it threw is thrown, and there is no state', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-send-'));
  const statePath = join(folder, 'state');
  const execute = async (command: string, args: Said['args'] = {}): Promise<unknown> => {
    if (command === 'migrate') {
      const socket = connect(join(folder, String(args['uri']).slice('unix:'.length)));
      // It is hung up on.
      socket.on('error', () => undefined);
      await once(socket, 'connect');
      socket.end('the machine');
    }
    return { status: command === 'query-migrate' ? 'completed' : 'postmigrate' };
  };
  try {
    const still = (): Promise<void> => Promise.reject(new VmmError('its disk stays'));
    const wanted = { folder, pid: process.pid, statePath, withMemory: true, still };
    await assert.rejects(sendMachine({ execute, listen: () => undefined }, wanted), /its disk stays/);
    assert.equal(await exists(statePath), false);
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('an emulated guest is not sent while it runs by a QEMU that would lose what it writes', () => {
  assert.equal(tellsWhatIsWritten({ accel: 'tcg', version: '7.2.22' }), false);
  assert.equal(tellsWhatIsWritten({ accel: 'tcg', version: '8.2.7' }), false);
  assert.equal(tellsWhatIsWritten({ accel: 'tcg', version: '9.0.0' }), true);
  assert.equal(tellsWhatIsWritten({ accel: 'tcg', version: '10.1.2' }), true);
  assert.equal(tellsWhatIsWritten({ accel: 'kvm', version: '7.2.22' }), true);
});
