import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { after, before, test } from 'node:test';
import { run } from '../../src/host/run.ts';
import { hatchd, serveHatchd } from '../support/hatchd-process.ts';
import { startHatchd, type Hatchd } from '../support/hatchd.ts';
import { processesOf } from '../support/leaks.ts';

/**
 * A machine on which several hatchds were started, of which some were killed. Guests are started, and not waited for: they stay in their
 * initrd, or they would take both processors meanwhile.
 */
let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'all-'));
});
after(() => rm(folder, { recursive: true, force: true }));

/** A hatchd with a guest, killed. */
async function killed(name: string, env: Record<string, string>): Promise<Hatchd> {
  const daemon = await startHatchd(join(folder, name), { HATCH_VMM: 'qemu', ...env });
  await daemon.client.vms.create({ name, mem_mib: 128, boot_args: 'console=ttyS0 break=top' });
  await daemon.client.close();
  await daemon.end('SIGKILL');
  return daemon;
}

test('down --all ends every hatchd, and guests and networks whose hatchd or database is gone, and leaves disks', async () => {
  const orphan = await killed('orphan', {});
  const elsewhere = await killed('elsewhere', {
    DATABASE_URL: `sqlite:${join(folder, 'elsewhere.db')}`,
    HATCH_BRIDGE_NAME: 'hatch1',
    HATCH_BRIDGE_CIDR: '192.168.242.1/24',
    HATCH_SSH_PORT_MIN: '2700',
  });
  const serving = serveHatchd({
    HATCH_DATA_DIR: join(folder, 'serving'),
    HATCH_HTTP_ADDR: '127.0.0.1:0',
    HATCH_PROXY_ADDR: '127.0.0.1:0',
  });
  const client = await serving.client((await serving.line(/^ {2}hatch_/)).trim());
  await client.vms.create({ name: 'pretended' });
  await client.close();

  const down = await hatchd(['down', '--all', '--grace', '0'], { HATCH_DATA_DIR: join(folder, 'none') });
  assert.equal(down.exitCode, 0, down.stdout + down.stderr);
  assert.deepEqual(await serving.ended, { code: 0, signal: null });
  const lines = down.stdout.split('\n');
  for (const said of [
    `Stopping hatchd (pid ${serving.pid}).`,
    'Stopping pretended.',
    'Stopping orphan.',
    'Nothing of Hatch runs here any more.',
  ])
    assert.ok(lines.includes(said), `${said} is missing in:\n${down.stdout}`);
  assert.match(down.stdout, /^Ending qemu-system-\S+ \(pid \d+\), which is left of .*\/elsewhere\/data\.$/m);

  assert.deepEqual(await processesOf(folder), []);
  assert.match((await run(['ip', '-o', 'link'])).stdout, /^1: lo:.*\n$/);
  assert.equal((await run(['nft', 'list', 'tables'])).stdout, '');
  const database = new DatabaseSync(join(orphan.data, 'hatch.db'), { readOnly: true });
  const states = database.prepare('select state from vms').all();
  database.close();
  assert.deepEqual(
    states.map((row) => row['state']),
    ['stopped'],
  );
  for (const { data } of [orphan, elsewhere]) {
    const [vm = ''] = await readdir(join(data, 'vms'));
    assert.ok((await readdir(join(data, 'vms', vm))).some((file) => file.startsWith('disk.')));
  }

  const again = await hatchd(['down', '--all'], { HATCH_DATA_DIR: join(folder, 'none') });
  assert.deepEqual([again.exitCode, again.stdout], [0, 'Nothing of Hatch runs here any more.\n']);
});
