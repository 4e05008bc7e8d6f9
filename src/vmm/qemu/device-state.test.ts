import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { VmmError } from '../driver.ts';
import { asStream, DEVICES_FILE, saveDevices } from './device-state.ts';

const HEAD = Buffer.from('QEVM\0\0\0\u0003', 'latin1');

/** Saves the devices of a QEMU that writes this, or refuses. */
async function saved(
  written: Buffer | undefined,
): Promise<{ left: readonly string[]; state: Buffer | undefined; error: unknown }> {
  const folder = await mkdtemp(join(tmpdir(), 'devices-'));
  const statePath = join(folder, 'state');
  try {
    const error: unknown = await saveDevices(
      async (command, args) => {
        assert.deepEqual(
          [command, args],
          ['xen-save-devices-state', { filename: DEVICES_FILE, live: false }],
        );
        if (!written) throw new VmmError('QEMU refused: An IO error has occurred');
        await writeFile(join(folder, DEVICES_FILE), written);
      },
      { folder, pid: process.pid, machineType: 'pc-q35-7.2', statePath },
    ).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    const left = await readdir(folder);
    return { left, state: left.includes('state') ? await readFile(statePath) : undefined, error };
  } finally {
    await rm(folder, { recursive: true });
  }
}

test('what QEMU says of its devices becomes a stream that names the machine and that no memory is in it', async () => {
  const { left, state, error } = await saved(Buffer.concat([HEAD, Buffer.from('the devices')]));
  assert.equal(error, undefined);
  assert.deepEqual(left, ['state'], 'nothing else is left');
  assert.equal(
    state?.toString('latin1'),
    'QEVM\0\0\0\u0003\u0007\0\0\0\u000apc-q35-7.2\u0005\u001aconfiguration/capabilities\0\0\0\u0001\0\0\0\u0001\u000fx-ignore-sharedthe devices\u0006\0\0\0\0',
  );
});

test('what is no device state is refused, and a QEMU that refuses leaves nothing', async () => {
  for (const written of [undefined, Buffer.from('short'), Buffer.from('something else entirely')]) {
    const { left, error } = await saved(written);
    assert.ok(error instanceof VmmError && error.message.includes('state of the devices'), String(error));
    assert.deepEqual(left, []);
  }
  assert.throws(() => asStream(Buffer.from('QEVM\0\0\0\u0002'), 'q35'), VmmError);
});
