import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { parse } from 'yaml';
import { bodiesOf, type Bodies } from './bodies.ts';
import { versionOf } from './versions.ts';

interface Definition {
  readonly required?: readonly string[];
  readonly properties: Readonly<Record<string, unknown>>;
}

/** Firecracker's own description of its API. */
const { definitions } = parse(
  readFileSync(join(import.meta.dirname, 'firecracker-api-v1.16.1.yaml'), 'utf8'),
) as { definitions: Readonly<Record<string, Definition>> };

const NAMES: Readonly<Record<Exclude<keyof Bodies, 'mmds' | 'machineUpdate'>, string>> = {
  actions: 'InstanceActionInfo',
  balloon: 'Balloon',
  balloonUpdate: 'BalloonUpdate',
  balloonStatistics: 'BalloonStatsUpdate',
  hinting: 'BalloonStartCmd',
  bootSource: 'BootSource',
  cpuConfig: 'CpuConfig',
  drive: 'Drive',
  driveUpdate: 'PartialDrive',
  entropy: 'EntropyDevice',
  hotplug: 'MemoryHotplugConfig',
  hotplugUpdate: 'MemoryHotplugSizeUpdate',
  logger: 'Logger',
  machine: 'MachineConfiguration',
  metrics: 'Metrics',
  mmdsConfig: 'MmdsConfig',
  network: 'NetworkInterface',
  networkUpdate: 'PartialNetworkInterface',
  pmem: 'Pmem',
  pmemUpdate: 'PartialPmem',
  serial: 'SerialDevice',
  snapshotCreate: 'SnapshotCreateParams',
  snapshotLoad: 'SnapshotLoadParams',
  vm: 'Vm',
  vsock: 'Vsock',
};

/** What the description says wrongly, or for another processor. */
const DIFFERS: Readonly<Record<string, (fields: Record<string, string>) => void>> = {
  // The program has no default for these.
  hotplug: (fields) => (fields['total_size_mib'] = 'required'),
  hotplugUpdate: (fields) => (fields['requested_size_mib'] = 'required'),
  // Of ARM only.
  cpuConfig: (fields) => {
    delete fields['reg_modifiers'];
    delete fields['vcpu_features'];
  },
};

const bodies = bodiesOf(versionOf('v1.16.1'));

test('every body has the fields of the API description, and asks for those that are required there', () => {
  for (const [name, definition] of Object.entries(NAMES)) {
    const found = definitions[definition];
    assert(found, definition);
    const wanted = Object.fromEntries(
      Object.keys(found.properties).map((field) => [
        field,
        found.required?.includes(field) === true ? 'required' : 'optional',
      ]),
    );
    DIFFERS[name]?.(wanted);
    const { known } = bodies[name as keyof typeof NAMES];
    assert.deepEqual({ ...known }, wanted, `${name}, ${definition}`);
  }
});

test('a change of the machine may name whatever makes one', () => {
  assert.deepEqual(Object.keys(bodies.machineUpdate.known ?? {}), Object.keys(bodies.machine.known ?? {}));
  assert(Object.values(bodies.machineUpdate.known ?? {}).every((need) => need === 'optional'));
});
