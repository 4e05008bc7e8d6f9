import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  chooseKernel,
  chooseRoot,
  fstabAlone,
  linuxPartitions,
  parseListing,
  parsePartitions,
} from './partitions.ts';

const LINUX = '0FC63DAF-8483-4772-8E79-3D69D8477DE4';
const ROOT = '4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709';
const EFI = 'C12A7328-F81F-11D2-BA4B-00A0C93EC93B';

const table = (partitions: readonly object[], more: object = {}): string =>
  JSON.stringify({ partitiontable: { label: 'gpt', unit: 'sectors', sectorsize: 512, ...more, partitions } });

test('partitions are read in bytes, whatever the sector size', () => {
  assert.deepEqual(
    parsePartitions(table([{ node: 'x1', start: 2048, size: 4096, type: LINUX.toLowerCase() }])),
    [{ offsetBytes: 2048 * 512, sizeBytes: 4096 * 512, type: LINUX }],
  );
  assert.equal(
    parsePartitions(table([{ start: 1, size: 1, type: '83' }], { sectorsize: 4096 }))[0]?.offsetBytes,
    4096,
  );
  assert.deepEqual(parsePartitions(table([])), []);
  assert.throws(() => parsePartitions(table([{ start: -1, size: 1, type: '83' }])), /start/);
  assert.throws(() => parsePartitions(table([{ start: 'x', size: 1, type: '83' }])), /start/);
});

test('the root is the partition typed as root, else the largest Linux one', () => {
  const part = (
    type: string,
    sizeBytes: number,
  ): { offsetBytes: number; sizeBytes: number; type: string } => ({
    offsetBytes: 0,
    sizeBytes,
    type,
  });
  assert.equal(chooseRoot([part(EFI, 9), part(LINUX, 1), part(ROOT, 2), part(LINUX, 5)])?.sizeBytes, 2);
  assert.equal(chooseRoot([part(EFI, 9), part(LINUX, 1), part('83', 5)])?.sizeBytes, 5);
  assert.equal(chooseRoot([part(EFI, 9)]), undefined);
  assert.equal(linuxPartitions([part(EFI, 9), part(ROOT, 1), part('83', 1)]).length, 2);
});

test('the newest kernel is taken with its own initrd, under the names distributions give', () => {
  assert.deepEqual(
    chooseKernel([
      'vmlinuz-6.1.0-9-cloud-amd64',
      'vmlinuz-6.1.0-28-cloud-amd64',
      'initrd.img-6.1.0-28-cloud-amd64',
    ]),
    {
      kernel: 'vmlinuz-6.1.0-28-cloud-amd64',
      initrd: 'initrd.img-6.1.0-28-cloud-amd64',
    },
  );
  assert.deepEqual(
    chooseKernel([
      'vmlinuz-0-rescue-abc',
      'vmlinuz-6.8.5-301.fc40.x86_64',
      'initramfs-6.8.5-301.fc40.x86_64.img',
    ]),
    {
      kernel: 'vmlinuz-6.8.5-301.fc40.x86_64',
      initrd: 'initramfs-6.8.5-301.fc40.x86_64.img',
    },
  );
  assert.deepEqual(chooseKernel(['vmlinuz-5']), { kernel: 'vmlinuz-5', initrd: undefined });
  assert.equal(chooseKernel(['vmlinuz', 'vmlinuz-1 2', 'vmlinuz-$(x)', 'config-6']), undefined);
});

test('of a listing only regular files count', () => {
  const text = '/2/040755/0/0/.//\n/12/100644/0/0/vmlinuz-6/8192/\n/13/120777/0/0/vmlinuz-7/9/\n\n';
  assert.deepEqual(parseListing(text), ['vmlinuz-6']);
});

test('an fstab keeps the root and what is no partition', () => {
  const fstab = [
    '# made by the installer',
    'PARTUUID=1234 / ext4 rw,discard,errors=remount-ro 0 1',
    'UUID=AB-CD /boot/efi vfat defaults 0 0',
    'LABEL=BOOT /boot ext4 defaults 0 2',
    '/dev/sda3 none swap sw 0 0',
    'tmpfs /tmp tmpfs defaults 0 0',
    '',
  ].join('\n');
  assert.equal(
    fstabAlone(fstab),
    '# made by the installer\n/dev/vda\t/\text4\trw,discard,errors=remount-ro\t0\t1\ntmpfs /tmp tmpfs defaults 0 0\n',
  );
});
