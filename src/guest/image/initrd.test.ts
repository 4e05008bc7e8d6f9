import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Failure } from '../../model/failure.ts';
import { packCpio } from './cpio.ts';
import { moduleOrder } from './initrd.ts';

const dependencies = `kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_pci_modern_dev.ko kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_pci_modern_dev.ko:
kernel/drivers/char/hw_random/virtio-rng.ko.xz: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
`;
const builtin = 'kernel/fs/ext4/ext4.ko\n';

test('modules are loaded after those they need, and each once', () => {
  const order = moduleOrder({ dependencies, builtin }, ['virtio_pci', 'virtio_rng']);
  assert.deepEqual(
    order.map((file) => file.slice(file.lastIndexOf('/') + 1)),
    ['virtio_ring.ko', 'virtio.ko', 'virtio_pci_modern_dev.ko', 'virtio_pci.ko', 'virtio-rng.ko.xz'],
  );
});

test('what is built into the kernel needs no file; what is nowhere is an error that names it', () => {
  assert.deepEqual(moduleOrder({ dependencies, builtin }, ['ext4']), []);
  assert.throws(
    () => moduleOrder({ dependencies, builtin }, ['nvme']),
    (error) => error instanceof Failure && error.message.includes('nvme'),
  );
});

test('an archive has the newc layout, and equal entries give equal bytes', () => {
  const entries = [
    { path: 'bin', mode: 0o755 },
    { path: 'init', mode: 0o755, content: Buffer.from('#!x\n1') },
  ];
  const archive = packCpio(entries);
  assert.deepEqual(archive, packCpio(entries));
  assert.equal(archive.length % 4, 0);
  const field = (at: number, index: number): number =>
    parseInt(archive.toString('latin1', at + 6 + index * 8, at + 14 + index * 8), 16);
  assert.equal(archive.toString('latin1', 0, 6), '070701');
  assert.equal(field(0, 1), 0o040755);
  const second = archive.indexOf('070701', 6, 'latin1');
  assert.equal(field(second, 1), 0o100755);
  assert.equal(field(second, 6), 5);
  assert.equal(archive.toString('latin1', second + 110, second + 115), 'init\0');
  assert.equal(archive.toString('latin1', second + 116, second + 121), '#!x\n1');
  assert.ok(archive.includes('TRAILER!!!\0'));
});
