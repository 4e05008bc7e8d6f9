import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { makeFakeHost, type FakeHost } from '../../test/support/fake-daemon.ts';
import { HatchClient } from '../../src/clients/http.ts';
import { findOrMakeVm, NAME } from './quickstart-guest.ts';

let host: FakeHost;
let client: HatchClient;
let data: string;
before(async () => {
  host = await makeFakeHost({ inMemory: true });
  const { daemon, key } = await host.start();
  client = new HatchClient({ url: daemon.url, apiKey: key });
  data = await mkdtemp(join(tmpdir(), 'quick-'));
});
after(async () => {
  await client.close();
  await host.end();
  await rm(data, { recursive: true, force: true });
});

/** Of nobody: its private half was not kept. */
const KEY =
  'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIO5Fo5du2gfwYROZecTngmCx1Ic9PFE+zyc0mwEm1c3 quickstart-test';

const find = (): ReturnType<typeof findOrMakeVm> =>
  findOrMakeVm(client, { data, publicKey: KEY, signal: AbortSignal.timeout(30_000) });

test('the VM of a quickstart is made once, and is started again where it was stopped or fell asleep', async () => {
  const { vm, made } = await find();
  assert.deepEqual([vm.name, vm.state, made], [NAME, 'running', true]);
  const again = async (): Promise<void> => {
    const found = await find();
    assert.deepEqual([found.vm.id, found.vm.state, found.made], [vm.id, 'running', false]);
  };
  await again();
  await client.vms.stop(NAME, { grace_seconds: 0 });
  await again();
  await client.vms.snapshot(NAME);
  assert.equal((await client.vms.get(NAME)).state, 'snapshotted');
  await again();
});
