import assert from 'node:assert/strict';
import { test } from 'node:test';
import { VmmError, type SavedMachine } from '../driver.ts';
import { mustFit } from './fit.ts';

const here = { accel: 'tcg', machineType: 'pc-q35-7.2' };
const spec = { vcpuCount: 2, memMib: 512 };
const saved: SavedMachine = {
  driver: 'qemu',
  version: '7.2.22',
  machineType: 'pc-q35-7.2',
  accel: 'tcg',
  vcpuCount: 2,
  memMib: 512,
  statePath: '/state',
  memoryPath: null,
};

for (const [what, change] of Object.entries<Partial<SavedMachine>>({
  'another driver': { driver: 'firecracker' },
  'another accelerator': { accel: 'kvm' },
  'another number of processors': { vcpuCount: 1 },
  'another amount of memory': { memMib: 1024 },
  'a machine of a newer minor version': { machineType: 'pc-q35-7.3' },
  'a machine of a newer major version, by its number': { machineType: 'pc-q35-10.0' },
  'a machine of a newer patch version': { machineType: 'pc-q35-7.2.1' },
  'a machine of another kind': { machineType: 'pc-i440fx-7.2' },
})) {
  test(`a state of ${what} is refused as incompatible`, () => {
    assert.throws(
      () => mustFit(here, spec, { ...saved, ...change }),
      (error) => error instanceof VmmError && error.kind === 'incompatible',
    );
  });
}

test('a state of this machine fits, and so does an older one', () => {
  mustFit(here, spec, saved);
  mustFit(here, spec, { ...saved, machineType: 'pc-q35-6.2' });
  mustFit({ ...here, machineType: 'pc-q35-10.0' }, spec, { ...saved, machineType: 'pc-q35-9.2' });
  mustFit(here, spec, { ...saved, version: '7.2.1' });
});
