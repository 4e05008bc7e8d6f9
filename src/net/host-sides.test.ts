import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CommandFailed, type Run } from '../host/run.ts';
import { strangersChains } from './forward.ts';
import { NetError } from './network.ts';
import { guestResolvers } from './resolvers.ts';
import { asNetError, checkTools } from './tools.ts';

test("resolvers on loopback or the host's own addresses are passed over, for those systemd knows", () => {
  const [stub, real] = [
    '# made\nnameserver 127.0.0.53\noptions edns0\n',
    'nameserver 203.0.113.1\nnameserver 203.0.113.1\nnameserver fe80::1\n',
  ];
  assert.deepEqual(guestResolvers([stub, real]), ['203.0.113.1']);
  assert.deepEqual(guestResolvers([real, stub]), ['203.0.113.1']);
  assert.deepEqual(guestResolvers(['nameserver 203.0.113.2', undefined], new Set(['203.0.113.2'])), []);
  assert.deepEqual(guestResolvers([stub, undefined]), []);
  assert.deepEqual(guestResolvers(['nameserver 1.1.1.1\n nameserver\t9.9.9.9\n; nameserver 8.8.8.8']), [
    '1.1.1.1',
    '9.9.9.9',
  ]);
});

test('only firewalls that drop what they do not know get our rules, in the chain made for that', () => {
  const base = (
    family: string,
    table: string,
    name: string,
    hook: string,
    policy: string,
  ): { chain: Record<string, unknown> } => ({
    chain: { family, table, name, hook, policy },
  });
  const listing = [
    base('ip', 'filter', 'INPUT', 'input', 'accept'),
    base('ip', 'filter', 'FORWARD', 'forward', 'drop'),
    { chain: { family: 'ip', table: 'filter', name: 'DOCKER-USER' } },
    base('inet', 'ufw', 'in', 'input', 'drop'),
    base('inet', 'firewalld', 'filter_FORWARD', 'forward', 'accept'),
    base('inet', 'hatch', 'forward', 'forward', 'drop'),
    base('inet', 'hatch_lab', 'forward', 'forward', 'drop'),
    base('ip6', 'filter', 'FORWARD', 'forward', 'drop'),
    base('ip', 'nat', 'POSTROUTING', 'postrouting', 'drop'),
  ];
  assert.deepEqual(
    strangersChains(listing, 'hatch').map(({ table, name, hook }) => `${table} ${name} ${hook}`),
    ['filter DOCKER-USER forward', 'ufw in input', 'firewalld filter_FORWARD forward'],
  );
});

test('a missing program is named with the package it is in', async () => {
  for (const [program, name] of [
    ['ip', 'iproute2'],
    ['nft', 'nftables'],
    ['dnsmasq', 'dnsmasq-base'],
    ['dhcp_release', 'dnsmasq-utils'],
  ] as const) {
    const run: Run = async (argv) => {
      if (argv[0] === program) throw new CommandFailed(argv, 'is not installed', { missing: true });
      return { stdout: '', stderr: '', exitCode: 0 };
    };
    await assert.rejects(
      checkTools(run),
      (error: unknown) =>
        error instanceof NetError &&
        error.kind === 'missing' &&
        error.message.includes(`${program} is not installed; install the package ${name}`),
    );
  }
});

test('a full disk and a missing right are told apart from other failures', () => {
  const kindOf = (error: unknown): unknown => {
    const known = asNetError(error);
    return known instanceof NetError ? known.kind : known;
  };
  const failed = (stderrTail: string): CommandFailed =>
    new CommandFailed(['nft'], 'ended with exit code 1', { exitCode: 1, stderrTail });
  assert.equal(kindOf(failed('Operation not permitted (you must be root)')), 'no_permission');
  assert.equal(kindOf(failed('write: No space left on device')), 'no_space');
  assert.equal(kindOf(failed('syntax error')), 'failed');
  assert.equal(kindOf(Object.assign(new Error('full'), { code: 'ENOSPC' })), 'no_space');
  assert.equal(kindOf(Object.assign(new Error('closed'), { code: 'EACCES' })), 'no_permission');
  const defect = new TypeError('a defect of ours');
  assert.equal(kindOf(defect), defect);
});
