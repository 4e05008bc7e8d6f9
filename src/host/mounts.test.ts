import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { mountOf, parseMounts } from './mounts.ts';

const MOUNTINFO = `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:25 / /srv rw,nosuid,nodev shared:7 master:2 - xfs /dev/vdb rw
31 30 0:26 / /srv/a\\040b rw,noexec - tmpfs tmpfs rw,size=4k
32 22 0:27 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw
33 30 0:28 / /srv rw - btrfs /dev/vdc rw
`;

test('a path lies in the nearest mount above it, and in the last of several at one place', () => {
  const mounts = parseMounts(MOUNTINFO);
  assert.equal(mountOf('/etc/passwd', mounts)?.type, 'ext4');
  assert.deepEqual(mountOf('/srv/a b/c', mounts), {
    point: '/srv/a b',
    options: ['rw', 'noexec'],
    type: 'tmpfs',
  });
  assert.equal(mountOf('/srv/a', mounts)?.type, 'btrfs');
  assert.equal(mountOf('/srvx', mounts)?.type, 'ext4');
  assert.equal(mountOf('/sys/fs/cgroup', mounts)?.type, 'cgroup2');
});

test("this machine's own mounts are read", async () => {
  const mounts = parseMounts(await readFile('/proc/self/mountinfo', 'utf8'));
  assert.equal(mountOf('/proc/self', mounts)?.type, 'proc');
});
