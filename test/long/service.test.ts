import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { bootSystemd, CLONE, type SystemdHost } from '../support/systemd-host.ts';

/** What docs/operate.md says, on a machine that systemd runs, with a guest that goes on through all of it. */
const DATA = '/var/lib/hatch';
let folder = '';
let host: SystemdHost;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'service-'));
  host = await bootSystemd(join(folder, 'machine'), DATA);
});
after(async () => {
  await host.dispose();
  await rm(folder, { recursive: true, force: true });
});

const sh = async (command: string, okExitCodes?: readonly number[]): Promise<string> =>
  (await host.sh(command, okExitCodes)).stdout.trim();
const service = (words: string): Promise<string> => sh(`cd ${CLONE} && npm run -s service -- ${words}`);
const mainPid = (): Promise<string> => sh('systemctl show -p MainPID --value hatchd');
const guestPids = (): Promise<string> => sh(`pgrep -f -- '-name hatch-v[m]-'`);
const bootId = (): Promise<string> => sh('hatch vm exec web -- cat /proc/sys/kernel/random/boot_id');

/** What of Hatch is on the machine but its data. */
const traces = (): Promise<string> =>
  sh(
    `pgrep -a 'qemu-system|dnsmasq'; pgrep -af daemon/main.ts | grep -v pgrep; ip -o link | grep -v ': lo:'; nft list tables
     ls -d /etc/systemd/system/hatchd.service /usr/local/sbin/hatchd /usr/local/bin/hatch 2>/dev/null; true`,
  );

test('install starts a service that is ready, hardened, and has the commands an operator types', async () => {
  const said = await service(`install --yes --data ${DATA}`);
  assert.match(said, /^✓ Service: hatchd\.service, started with the machine/m);
  assert.equal(await sh('systemctl is-active hatchd && systemctl is-enabled hatchd'), 'active\nenabled');
  assert.equal(await sh('stat -c %a:%U /etc/hatch/hatchd.env'), '600:root');
  assert.match(await sh('hatchd config | grep HATCH_DATA_DIR'), /\/var\/lib\/hatch +file /);
  assert.match(await sh('hatchd doctor'), /^ ok {3}hatchd +runs with pid \d+$/m);
  const status = await sh(`grep -E '^(NoNewPrivs|CapBnd):' /proc/${await mainPid()}/status`);
  assert.match(status, /^NoNewPrivs:\s1$/m);
  const bounding = BigInt(`0x${/^CapBnd:\s(\w+)$/m.exec(status)?.[1]}`);
  // linux/capability.h: CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_BOOT, CAP_SYS_TIME
  for (const bit of [16n, 17n, 22n, 25n]) assert.equal((bounding >> bit) & 1n, 0n, `capability ${bit}`);
  const elsewhere = await host.sh(
    `cd ${CLONE} && npm run -s service -- install --yes --data /srv/hatch`,
    [1],
  );
  assert.match(elsewhere.stderr, /hatchd\.env has HATCH_DATA_DIR=\/var\/lib\/hatch, not \/srv\/hatch/);
});

test('a guest boots, sleeps, wakes and is copied under what the service may do', async () => {
  await sh('hatch vm create web --wait --timeout 300');
  assert.equal(await sh('hatch vm exec web -- hostname'), 'web');
  const before = await bootId();
  await sh('hatch vm snapshot web && hatch vm start web --wait --timeout 120');
  assert.equal(await bootId(), before);
  await sh('hatch vm fork web --name copy && hatch vm rm copy --yes');
});

test('guests run on through an upgrade, and through the death of hatchd, which systemd starts again', async () => {
  const [guests, boot, pid] = [await guestPids(), await bootId(), await mainPid()];
  assert.match(await service('install --yes'), /^✓ hatchd: stopped for now; guests run on/m);
  assert.notEqual(await mainPid(), pid);
  assert.deepEqual([await guestPids(), await bootId()], [guests, boot]);
  const unit = `${CLONE}/deploy/hatchd.service`;
  await sh(`mv ${unit} /tmp/unit`);
  await host.sh(`cd ${CLONE} && npm run -s service -- install --yes`, [1]);
  await sh(`mv /tmp/unit ${unit}`);
  assert.equal(await sh('systemctl is-active hatchd'), 'active', 'after an upgrade that failed it serves on');
  await sh(`timeout 60 sh -c 'until hatch vm get web >/dev/null 2>&1; do sleep 0.2; done'`);
  assert.deepEqual([await guestPids(), await bootId()], [guests, boot]);
  const killed = await mainPid();
  await sh(
    `kill -KILL ${killed}; while [ "$(systemctl show -p MainPID --value hatchd)" -le 1 ]; do sleep 0.2; done`,
  );
  await sh(`timeout 60 sh -c 'until hatch vm get web >/dev/null 2>&1; do sleep 0.2; done'`);
  assert.notEqual(await mainPid(), killed);
  assert.deepEqual([await guestPids(), await bootId()], [guests, boot]);
});

test('uninstall leaves the data, which install takes up again; purge leaves nothing', async () => {
  await service('uninstall');
  assert.equal(await traces(), '');
  assert.match(await sh(`ls ${DATA}`), /^hatch\.db$/m);
  await service('install --yes');
  assert.match(await sh('hatch vm ls'), /^web .* stopped /m);
  await sh(`touch ${DATA}/notes.txt`);
  const asked = await host.sh(`cd ${CLONE} && npm run -s service -- uninstall --purge`, [1]);
  assert.match(asked.stderr, /There is no terminal to ask on: add --yes to remove everything\./);
  assert.match(await service('uninstall --purge --yes'), /are still notes\.txt, which Hatch did not make/);
  assert.equal(await traces(), '');
  assert.equal(await sh(`ls ${DATA} /etc/hatch 2>/dev/null`, [0, 2]), `${DATA}:\nnotes.txt`);
});
