import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { parse } from 'yaml';
import { newId } from '../../base/ids.ts';
import type { MachineSpec } from '../driver.ts';
import type { ApiRequest } from './api.ts';
import {
  action,
  bootSteps,
  canMoveClock,
  createSnapshot,
  loadSnapshot,
  processSteps,
  vmState,
} from './boot.ts';
import { featuresOf } from './versions.ts';

type Node = Readonly<Record<string, unknown>>;

const isNode = (value: unknown): value is Node =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const nodeIn = (value: unknown, name: string): Node => {
  const found = isNode(value) ? value[name] : undefined;
  return isNode(found) ? found : {};
};

const file = join(import.meta.dirname, 'testing/firecracker-api-v1.16.1.yaml');
const description: unknown = parse(await readFile(file, 'utf8'));

/** What of a request Firecracker's description does not have; empty when all of it is described. */
function undescribed({ method, path, body }: ApiRequest): readonly string[] {
  const operation = Object.entries(nodeIn(description, 'paths'))
    .filter(([template]) => new RegExp(`^${template.replaceAll(/\{\w+\}/g, '\\w+')}$`).test(path))
    .map(([, methods]) => nodeIn(methods, method.toLowerCase()))
    .find((found) => Object.keys(found).length > 0);
  if (!operation) return [`${method} ${path} is not described`];
  const parameters: unknown = operation['parameters'];
  const schema = (Array.isArray(parameters) ? parameters : [])
    .filter((one) => isNode(one) && one['in'] === 'body')
    .map((one) => nodeIn(one, 'schema'))[0];
  if (!schema) return body === undefined ? [] : [`${method} ${path} takes no body`];
  return mismatches(body, schema, path);
}

function mismatches(value: unknown, schema: Node, at: string): readonly string[] {
  const ref = schema['$ref'];
  if (typeof ref === 'string')
    return mismatches(value, nodeIn(nodeIn(description, 'definitions'), ref.split('/').at(-1) ?? ''), at);
  const allowed = schema['enum'];
  if (Array.isArray(allowed) && !allowed.includes(value)) return [`${at} may not be ${String(value)}`];
  switch (schema['type']) {
    case 'string':
      return typeof value === 'string' ? [] : [`${at} must be a string`];
    case 'boolean':
      return typeof value === 'boolean' ? [] : [`${at} must be true or false`];
    case 'integer':
      return Number.isInteger(value) ? [] : [`${at} must be a whole number`];
    case 'array':
      return Array.isArray(value)
        ? value.flatMap((item, i) => mismatches(item, nodeIn(schema, 'items'), `${at}[${i}]`))
        : [`${at} must be a list`];
    default: {
      if (!isNode(value)) return [`${at} must be an object`];
      const properties = nodeIn(schema, 'properties');
      const required = Array.isArray(schema['required']) ? schema['required'] : [];
      return [
        ...required.filter((name) => !(String(name) in value)).map((name) => `${at} lacks ${String(name)}`),
        ...Object.entries(value).flatMap(([name, inner]) =>
          name in properties
            ? mismatches(inner, nodeIn(properties, name), `${at}.${name}`)
            : [`${at} has no ${name}`],
        ),
      ];
    }
  }
}

const spec: MachineSpec = {
  vmId: newId('vm'),
  folder: '/vms/one',
  vcpuCount: 2,
  memMib: 512,
  kernel: 'vmlinux',
  initrd: 'initrd',
  bootArgs: 'console=ttyS0',
  disks: [
    { path: 'disk.raw', format: 'raw', readOnly: false },
    { path: 'seed.iso', format: 'raw', readOnly: true },
  ],
  network: { tap: 'tap0', mac: '02:fc:00:00:00:01' },
  machineType: null,
};

const withKvmClock = { bootArgs: 'console=ttyS0 clocksource=kvm-clock root=/dev/vda' };

for (const minor of [13, 14, 15, 16]) {
  test(`every request for 1.${minor} stands in Firecracker's own description`, () => {
    const features = featuresOf({ minor });
    const requests: readonly ApiRequest[] = [
      ...bootSteps(spec, features).map(({ request }) => request),
      ...bootSteps({ ...spec, network: null, initrd: null }, features).map(({ request }) => request),
      ...processSteps(features).map(({ request }) => request),
      loadSnapshot(spec, { resume: true, features, moveClock: false }),
      loadSnapshot(
        { network: null },
        { resume: false, features, moveClock: canMoveClock(withKvmClock, features) },
      ),
      createSnapshot(),
      vmState('Paused'),
      vmState('Resumed'),
      action('SendCtrlAltDel'),
      action('FlushMetrics'),
      { method: 'GET', path: '/' },
    ];
    assert.deepEqual(requests.flatMap(undescribed), []);
  });
}

test('what the description does not have is found: path, field, type, a value that is none', () => {
  const wrong: readonly ApiRequest[] = [
    { method: 'PUT', path: '/snapshots/create', body: {} },
    { method: 'PUT', path: '/vsock', body: { guest_cid: 3, uds_path: 'v', extra: 1 } },
    { method: 'PUT', path: '/vsock', body: { guest_cid: '3', uds_path: 'v' } },
    { method: 'PUT', path: '/vsock', body: { guest_cid: 3 } },
    { method: 'PATCH', path: '/vm', body: { state: 'Asleep' } },
  ];
  for (const request of wrong) assert.equal(undescribed(request).length, 1, JSON.stringify(request));
});

test('a boot is told in its order: logger first, start last, the root disk before the others', () => {
  const names = bootSteps(spec, featuresOf({ minor: 16 })).map(({ name }) => name);
  assert.deepEqual(names, [
    ...['logger', 'metrics', 'serial', 'machine-config', 'boot-source'],
    ...['drive 0', 'drive 1', 'network', 'vsock', 'entropy', 'start'],
  ]);
  assert.equal(
    bootSteps(spec, featuresOf({ minor: 13 })).some(({ name }) => name === 'serial'),
    false,
  );
});

test('a guest’s clock is moved on at load since 1.16, and only where the guest reads the clock that can be moved', () => {
  assert.equal(canMoveClock(withKvmClock, featuresOf({ minor: 16 })), process.arch === 'x64');
  assert.equal(canMoveClock(withKvmClock, featuresOf({ minor: 15 })), false);
  for (const bootArgs of [
    'console=ttyS0',
    'clocksource=tsc',
    'x.clocksource=kvm-clock',
    'clocksource=kvm-clocks',
  ])
    assert.equal(canMoveClock({ bootArgs }, featuresOf({ minor: 16 })), false, bootArgs);
  const features = featuresOf({ minor: 16 });
  const body = (moveClock: boolean): ApiRequest['body'] =>
    loadSnapshot(spec, { resume: true, features, moveClock }).body;
  assert.equal(body(true)?.['clock_realtime'], true);
  assert.equal('clock_realtime' in (body(false) ?? {}), false);
});
