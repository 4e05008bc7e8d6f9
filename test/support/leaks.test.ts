import assert from 'node:assert/strict';
import { test } from 'node:test';
import { leaks, type HostSnapshot } from './leaks.ts';

const bare: HostSnapshot = {
  processes: [],
  links: ['lo'],
  namespaces: [],
  tables: ['table inet other'],
  mounts: ['/'],
};

test('a machine left as it was has no leak, and what went away is none', () => {
  assert.deepEqual(leaks(bare, bare), []);
  assert.deepEqual(leaks({ ...bare, links: ['lo', 'eth0'] }, bare), []);
});

test('each thing that is new is named with its kind', () => {
  const after: HostSnapshot = {
    processes: ['12 (started 34) dnsmasq -k'],
    links: ['lo', 'vm-abc123def456'],
    namespaces: ['hx'],
    tables: ['table inet other', 'table inet hatch'],
    mounts: ['/', '/run/netns/hx'],
  };
  assert.deepEqual(leaks(bare, after), [
    'process 12 (started 34) dnsmasq -k',
    'link vm-abc123def456',
    'network namespace hx',
    'nftables table inet hatch',
    'mount /run/netns/hx',
  ]);
});
