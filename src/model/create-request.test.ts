import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { DEFAULT_IDLE, mergeCreate, mergeIdle, type TemplateDefaults } from './create-request.ts';
import { Failure } from './failure.ts';

const defaults = { imageId: 'img-default', vcpuCount: 1, memMib: 512, idle: DEFAULT_IDLE };
const template: TemplateDefaults = {
  imageId: 'img-web',
  vcpuCount: 2,
  memMib: 2048,
  diskMib: 8192,
  userData: '#cloud-config\n{}\n',
  bootArgs: 'quiet',
  idle: { ...DEFAULT_IDLE, timeoutSeconds: 60, action: 'stop', connections: 'quiet', cpuBelow: 5 },
  labels: { tier: 'web', env: 'test' },
};

const fieldOf = (work: () => unknown): unknown => {
  try {
    work();
  } catch (error) {
    if (error instanceof Failure && error.code === 'invalid_request') return error.details['field'];
    throw error;
  }
  return undefined;
};

test('an empty request is a networked VM of the default image and size', () => {
  assert.deepEqual(mergeCreate({}, null, defaults), {
    name: null,
    imageId: 'img-default',
    vcpuCount: 1,
    memMib: 512,
    diskMib: null,
    bootArgs: null,
    userData: null,
    idle: null,
    autostart: false,
    labels: {},
    enableNetwork: true,
    guestIp: null,
    guestMac: null,
    sshAuthorizedKeys: [],
  });
});

test('a template serves where the request is silent, and an explicit value always wins', () => {
  const silent = mergeCreate({}, template, defaults);
  assert.deepEqual(
    [silent.imageId, silent.vcpuCount, silent.memMib, silent.diskMib, silent.bootArgs, silent.userData],
    ['img-web', 2, 2048, 8192, 'quiet', '#cloud-config\n{}\n'],
  );
  assert.deepEqual(silent.idle, template.idle);
  const said = mergeCreate(
    { imageId: 'img-default', vcpuCount: 1, memMib: 512, bootArgs: '', userData: '#!/bin/sh' },
    template,
    defaults,
  );
  assert.deepEqual(
    [said.imageId, said.vcpuCount, said.memMib, said.diskMib, said.bootArgs, said.userData],
    ['img-default', 1, 512, 8192, '', '#!/bin/sh'],
  );
});

test('an empty user_data takes the template’s away', () => {
  assert.equal(mergeCreate({ userData: '' }, template, defaults).userData, null);
});

test('labels are put together, and idle field by field', () => {
  const merged = mergeCreate({ labels: { env: 'live' }, idle: { pinned: true } }, template, defaults);
  assert.deepEqual(merged.labels, { tier: 'web', env: 'live' });
  assert.deepEqual(merged.idle, {
    timeoutSeconds: 60,
    action: 'stop',
    connections: 'quiet',
    pinned: true,
    cpuBelow: 5,
    keepAwake: [],
  });
  assert.equal(mergeIdle({ ...DEFAULT_IDLE, cpuBelow: 5 }, { cpuBelow: null }).cpuBelow, null);
  assert.deepEqual(mergeIdle(DEFAULT_IDLE, { timeoutSeconds: 5 }), { ...DEFAULT_IDLE, timeoutSeconds: 5 });
});

test('more than 32 labels together are refused', () => {
  const labels = Object.fromEntries(Array.from({ length: 31 }, (_, i) => [`l${i}`, 'x']));
  assert.equal(
    fieldOf(() => mergeCreate({ labels }, template, defaults)),
    'labels',
  );
  assert.equal(
    fieldOf(() => mergeCreate({ labels: { ...labels, env: 'x' } }, null, defaults)),
    undefined,
  );
});

test('a VM without a network takes no address', () => {
  const off = { enableNetwork: false };
  assert.equal(
    fieldOf(() => mergeCreate({ ...off, guestIp: '192.168.241.50' }, null, defaults)),
    'guest_ip',
  );
  assert.equal(
    fieldOf(() => mergeCreate({ ...off, guestMac: '02:fc:00:00:00:32' }, null, defaults)),
    'guest_mac',
  );
  assert.equal(mergeCreate(off, null, defaults).enableNetwork, false);
});

test('a MAC is lower-cased', () => {
  assert.equal(mergeCreate({ guestMac: '02:FC:00:00:00:AB' }, null, defaults).guestMac, '02:fc:00:00:00:ab');
});

test('for every field that a template has: request, then template, then default', () => {
  const some = <T>(values: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
    fc.option(values, { nil: undefined });
  const number = fc.integer({ min: 1, max: 32 });
  fc.assert(
    fc.property(some(number), fc.option(number), some(fc.string()), fc.option(fc.string()), (a, b, c, d) => {
      const merged = mergeCreate(
        { vcpuCount: a, memMib: a, diskMib: a, bootArgs: c },
        { ...template, vcpuCount: b, memMib: b, diskMib: b, bootArgs: d },
        defaults,
      );
      assert.equal(merged.vcpuCount, a ?? b ?? 1);
      assert.equal(merged.memMib, a ?? b ?? 512);
      assert.equal(merged.diskMib, a ?? b);
      assert.equal(merged.bootArgs, c ?? d);
    }),
  );
});
