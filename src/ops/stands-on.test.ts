import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { newId } from '../base/ids.ts';
import { Failure } from '../model/failure.ts';
import type { Layer } from '../model/records.ts';
import { mustStandOnItsOwn } from './stands-on.ts';

let layers: string;
before(async () => {
  layers = await mkdtemp(join(tmpdir(), 'hatch-stands-'));
});
after(() => rm(layers, { recursive: true }));

const EXTERNAL_DATA_FILE = 4n;

/** A qcow2 header, version 3, with the name of a backing file where the format wants it: anywhere after the header. */
function qcow2(backing: string | null, features = 0n): Buffer {
  const header = Buffer.alloc(512);
  header.write('QFI\xfb', 'latin1');
  header.writeUInt32BE(3, 4);
  header.writeBigUInt64BE(1n << 30n, 24);
  header.writeBigUInt64BE(features, 72);
  if (backing !== null) {
    header.writeBigUInt64BE(200n, 8);
    header.writeUInt32BE(Buffer.byteLength(backing), 16);
    header.write(backing, 200);
  }
  return header;
}

/** Looks at a disk with this header, whose row stands on `below`. */
async function looked(header: Buffer, below: Layer | null, format: Layer['format'] = 'qcow2'): Promise<void> {
  const id = newId('layer');
  await mkdir(join(layers, id));
  const path = join(layers, id, `disk.${format}`);
  await writeFile(path, header);
  const store = { layers: { get: async (one: string) => (one === below?.id ? below : null) } };
  await mustStandOnItsOwn({ store }, { id, format, parentId: below?.id ?? null }, path);
}

async function layer(): Promise<Layer> {
  const id = newId('layer');
  const path = join(layers, id, 'disk.qcow2');
  await mkdir(join(layers, id));
  await writeFile(path, '');
  return { id, path } as Layer;
}

test('a disk may stand on what its row does, on the image beside it, or on nothing', async () => {
  const below = await layer();
  // As it was named from the VM's folder, which lies as deep.
  const name = `../../${layers.split('/').at(-1) ?? ''}/${below.id}/disk.qcow2`;
  await looked(qcow2(name), below);
  await looked(qcow2('base'), null);
  await looked(qcow2('base'), below);
  await looked(qcow2(null), null);
  // Of a raw disk the guest's own bytes say nothing.
  await looked(qcow2('/etc/shadow'), null, 'raw');
});

test('one whose hypervisor has written another name into it is not used', async () => {
  const [below, another] = [await layer(), await layer()];
  for (const [header, row] of [
    [qcow2('/etc/shadow'), null],
    [qcow2('/etc/shadow'), below],
    [qcow2('../../../etc/shadow'), below],
    [qcow2(another.path), below],
    [qcow2(below.path), null],
    [qcow2('json:{"driver":"file","filename":"/etc/shadow"}'), below],
    [qcow2('nbd://127.0.0.1/x'), null],
    [qcow2('./base/../x'), below],
    [qcow2('base', EXTERNAL_DATA_FILE), null],
  ] as const)
    await assert.rejects(
      looked(header, row),
      (error) => error instanceof Failure && error.code === 'vmm_failed' && !/shadow/.test(error.message),
    );
});
