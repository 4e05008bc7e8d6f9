import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import { newId } from '../base/ids.ts';
import { chooseUid, hostUsers } from './uids.ts';

let root: string;
before(async () => {
  root = await mkdtemp(join(tmpdir(), 'hatch-uids-'));
});
after(() => rm(root, { recursive: true }));

test('a free user of the range is chosen as long as there is one, and always the same for a VM', () => {
  const range = { min: 61000, max: 61019 };
  fc.assert(
    fc.property(fc.uniqueArray(fc.integer({ min: range.min, max: range.max })), (list) => {
      const [vmId, taken] = [newId('vm'), new Set(list)];
      const uid = chooseUid(range, vmId, (one) => taken.has(one));
      if (taken.size === 20) return assert.equal(uid, undefined);
      assert.ok(uid !== undefined && uid >= range.min && uid <= range.max && !taken.has(uid));
      assert.equal(
        chooseUid(range, vmId, (one) => taken.has(one)),
        uid,
      );
    }),
  );
  assert.equal(
    chooseUid({ min: 7, max: 7 }, newId('vm'), () => false),
    7,
  );
});

test('VMs begin to look at different places, so that two daemons hardly ever want the same user', () => {
  const range = { min: 61000, max: 64999 };
  const chosen = new Set(Array.from({ length: 100 }, () => chooseUid(range, newId('vm'), () => false)));
  assert.ok(chosen.size > 80, `${chosen.size} of 100`);
});

test('who is somebody on the host is seen: processes by any of their users, names, and what systemd has given out', async () => {
  for (const [pid, uids] of [
    ['1', '0\t0\t0\t0'],
    ['20', '61001\t61002\t61002\t61002'],
    ['21', '61001\t61001\t61001\t61001'],
  ] as const) {
    await mkdir(join(root, 'proc', pid), { recursive: true });
    await writeFile(
      join(root, 'proc', pid, 'status'),
      `Name:\tx\nUmask:\t0022\nUid:\t${uids}\nGid:\t0\t0\t0\t0\n`,
    );
  }
  // One whose parent has not yet been told of its end, one that has just ended, and what is no process.
  await mkdir(join(root, 'proc', '29'));
  await writeFile(
    join(root, 'proc', '29', 'status'),
    'Name:\tx\nState:\tZ (zombie)\nUid:\t61009\t61009\t61009\t61009\n',
  );
  await mkdir(join(root, 'proc', '30'));
  await mkdir(join(root, 'proc', 'sys'));
  await mkdir(join(root, 'etc'));
  await writeFile(
    join(root, 'etc/passwd'),
    'root:x:0:0:root:/root:/bin/bash\njane:x:61007:61007::/:/bin/sh\n',
  );
  await writeFile(join(root, 'etc/group'), 'root:x:0:\nteam:x:61008:jane\n');
  await mkdir(join(root, 'run/systemd/dynamic-uid'), { recursive: true });
  for (const name of ['61200', 'direct:61200'])
    await writeFile(join(root, 'run/systemd/dynamic-uid', name), '');
  const { processes, named } = await hostUsers(root);
  assert.deepEqual([...processes].sort(), [
    [0, [1]],
    [61001, [20, 21]],
    [61002, [20]],
  ]);
  assert.deepEqual([...named].sort(), [0, 61007, 61008, 61200]);
});

test('this machine is looked at as well', async () => {
  const { processes, named } = await hostUsers();
  assert.ok(processes.get(process.getuid?.() ?? 0)?.includes(process.pid));
  assert.ok(named.has(0));
});
