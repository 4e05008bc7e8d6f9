import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { makeFakeHost, type FakeHost } from '../../test/support/fake-daemon.ts';
import { dataFolder, makeDataFolder } from './data-folder.ts';
import { hostNameOf } from './host-name.ts';

async function onHost(body: (host: FakeHost) => Promise<void>): Promise<void> {
  const host = await makeFakeHost();
  try {
    await body(host);
  } finally {
    await host.end();
  }
}

test('a data folder keeps the name of the host its first start had, whatever the machine is called later', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-host-name-'));
  try {
    const data = dataFolder(folder);
    await makeDataFolder(data);
    assert.equal(await hostNameOf(data, undefined, 'before'), 'before');
    assert.equal(await hostNameOf(data, undefined, 'after'), 'before');
    assert.equal(await hostNameOf(data, 'before', 'after'), 'before');
    await assert.rejects(hostNameOf(data, 'after', 'after'), {
      message: `HATCH_HOST_NAME is "after", but the data folder ${folder} is of the host "before", and its VMs would be nobody's. Leave the name as it was, or use another HATCH_DATA_DIR.`,
    });
    await writeFile(data.hostName, '');
    assert.equal(await hostNameOf(data, 'chosen', 'after'), 'chosen');
    assert.equal(await hostNameOf(data, undefined, 'after'), 'chosen');
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

test('under another name, or with another database, hatchd does not start, and no VM is touched', () =>
  onHost(async (host) => {
    const first = await host.start({ HATCH_HOST_NAME: 'one' });
    const { id } = await first.makeVm({ name: 'precious' });
    await first.stop();
    const files = (): Promise<string[]> => readdir(join(host.data, 'vms', String(id)));
    const before = await files();
    assert.ok(before.some((name) => name.startsWith('disk.')));
    await assert.rejects(host.start({ HATCH_HOST_NAME: 'two' }), /^Error: HATCH_HOST_NAME is "two", but/);
    await assert.rejects(
      host.start({ DATABASE_URL: `sqlite:${join(host.folder, 'empty.db')}` }),
      /vms holds 1 VM of the host "one", of which the database knows nothing: DATABASE_URL leads to another/,
    );
    assert.deepEqual(await files(), before);
    const second = await host.start();
    const { body } = await second.call('GET', '/vms/precious');
    assert.deepEqual(body, { ...Object(body), id, state: 'running', host: 'one' });
  }));
