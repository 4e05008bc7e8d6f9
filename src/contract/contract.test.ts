import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { TSchema } from 'typebox';
import { Compile } from 'typebox/compile';
import { looksLikeId, newId } from '../base/ids.ts';
import { SCOPES } from '../model/records.ts';
import { OPERATION_NAMES, VM_STATES } from '../model/vm.ts';
import { Name, UserData } from './common.ts';
import { ERRORS } from './errors.ts';
import { ExecVm } from './exec.ts';
import { Scope } from './key.ts';
import { SCHEMAS } from './schemas.ts';
import { CreateVm, Vm, VmParams, VmState } from './vm.ts';

const accepts = (schema: TSchema, value: unknown): boolean => Compile(schema).Check(value);
const takes = (field: string, value: unknown): boolean => accepts(CreateVm, { [field]: value });

test('the contract and the model know the same states, operations and scopes', () => {
  for (const state of VM_STATES) assert.ok(accepts(VmState, state), state);
  for (const scope of SCOPES) assert.ok(accepts(Scope, scope), scope);
  for (const operation of Object.values(OPERATION_NAMES))
    assert.ok(accepts(Vm.properties.operation, operation), operation);
  for (const nonsense of ['', 'paused', 'Running']) assert.ok(!accepts(VmState, nonsense));
});

test('every named schema has a name of its own, refuses unknown fields, and its examples fit it', () => {
  const names = new Set<unknown>();
  for (const schema of SCHEMAS) {
    const {
      $id,
      additionalProperties,
      examples = [],
    } = { ...schema } as {
      $id?: string;
      additionalProperties?: boolean;
      examples?: unknown[];
    };
    assert.ok($id !== undefined && !names.has($id), `named once: ${$id}`);
    names.add($id);
    assert.equal(additionalProperties, false, $id);
    for (const example of examples)
      assert.deepEqual(Compile(schema).Errors(example), [], `${$id}: ${JSON.stringify(example)}`);
  }
});

test('a name is never one that looks like an id, and every id of ours finds its way through the path', () => {
  fc.assert(
    fc.property(
      fc.oneof(fc.stringMatching(/^[a-z0-9-]{0,65}$/), fc.stringMatching(/^(vm|img|acct|rt)-[a-z]{1,4}$/)),
      (text) => {
        const good = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(text) && !looksLikeId(text);
        assert.equal(accepts(Name, text), good, text);
      },
    ),
  );
  for (const bad of ['', 'Web', 'web_1', '-web', 'web-', 'a'.repeat(64), 'web\n', 'wéb', 'vm-abc123'])
    assert.ok(!takes('name', bad), JSON.stringify(bad));
  assert.ok(accepts(VmParams, { id: newId('vm') }));
});

test('an address is dotted decimal without leading zeros', () => {
  for (const good of ['192.168.241.50', '0.0.0.0', '255.255.255.255', '10.0.0.1'])
    assert.ok(takes('guest_ip', good), good);
  const bad = [
    '192.168.241.010',
    '192.168.241',
    '192.168.241.256',
    '192.168.241.50\n',
    ' 192.168.241.50',
    '::1',
    '0xC0A8F132',
    '1.2.3.4/24',
  ];
  for (const text of bad) assert.ok(!takes('guest_ip', text), JSON.stringify(text));
});

test('a MAC is six pairs, of one machine, and not all zero', () => {
  for (const good of ['02:fc:00:00:00:32', '02:FC:00:00:00:AB', '00:00:00:00:00:01'])
    assert.ok(takes('guest_mac', good), good);
  const bad = [
    '00:00:00:00:00:00',
    '01:fc:00:00:00:32',
    'ff:ff:ff:ff:ff:ff',
    '02-fc-00-00-00-32',
    '02:fc:00:00:00',
    '02:fc:00:00:00:32\n',
    '02:fc:00:00:00:32,x',
    '02:fc:00:00:00:3g',
  ];
  for (const text of bad) assert.ok(!takes('guest_mac', text), JSON.stringify(text));
});

test('boot arguments are one line of at most 2048 bytes', () => {
  assert.ok(takes('boot_args', 'console=ttyS0 quiet "a b"'));
  assert.ok(takes('boot_args', 'x'.repeat(2048)));
  for (const bad of ['x'.repeat(2049), 'a\nb', 'a\rb', 'a\tb', 'a\0b', 'é'])
    assert.ok(!takes('boot_args', bad));
});

test('numbers are whole, inside their range, and never text', () => {
  for (const good of [1, 32]) assert.ok(takes('vcpu_count', good));
  for (const bad of [0, 33, -1, 1.5, '2', null, true, Number.NaN, 1e21]) assert.ok(!takes('vcpu_count', bad));
  for (const good of [128, 65536]) assert.ok(takes('mem_mib', good));
  for (const bad of [127, 65537, '512']) assert.ok(!takes('mem_mib', bad));
});

test('an SSH key is one line of a type that is known', () => {
  const body = 'AAAAC3NzaC1lZDI1NTE5AAAAIGJ0bXlrZXlieXRlc2FyZWhlcmVmb3Jyb29t';
  for (const good of [
    `ssh-ed25519 ${body}`,
    `ssh-ed25519 ${body} me@example.com`,
    `ssh-rsa ${body}== "quoted $x"`,
  ])
    assert.ok(takes('ssh_authorized_keys', [good]), good);
  const bad = [
    '',
    'ssh-ed25519',
    body,
    `ssh-dss ${body}`,
    `ssh-ed25519 ${body}\n`,
    `ssh-ed25519 ${body} a\nssh-rsa ${body}`,
    `command="x" ssh-rsa ${body}`,
  ];
  for (const text of bad) assert.ok(!takes('ssh_authorized_keys', [text]), JSON.stringify(text));
  assert.ok(!takes('ssh_authorized_keys', Array<string>(33).fill(`ssh-ed25519 ${body}`)));
});

test('labels have sensible keys and one-line values, 32 at most', () => {
  assert.ok(takes('labels', { tier: 'web', 'example.com/owner': '', a: 'é' }));
  const bad = [
    { '': 'x' },
    { 'a=b': 'x' },
    { a: 'x\ny' },
    { a: 1 },
    { a: null },
    { _a: 'x' },
    { ['a'.repeat(64)]: 'x' },
    { a: 'x'.repeat(256) },
    [],
  ];
  for (const labels of bad) assert.ok(!takes('labels', labels), JSON.stringify(labels));
  const many = Object.fromEntries(Array.from({ length: 33 }, (_, i) => [`l${i}`, 'x']));
  assert.ok(!takes('labels', many));
});

test('autostart is true or false', () => {
  assert.ok(takes('autostart', true) && takes('autostart', false));
  for (const bad of ['true', 1, null]) assert.ok(!takes('autostart', bad));
});

test('user data may have 256 KiB', () => {
  assert.ok(accepts(UserData, 'x'.repeat(262_144)));
  assert.ok(!accepts(UserData, 'x'.repeat(262_145)));
});

test('a command is a line or a list of arguments, without NUL', () => {
  for (const good of ['ls', ['ls', '-l'], ['ls', '']]) assert.ok(accepts(ExecVm, { command: good }));
  for (const bad of ['', [], ['a\0'], 'a\0', 3, null, [1]]) assert.ok(!accepts(ExecVm, { command: bad }));
  for (const env of [{ 'A-B': 'x' }, { '1A': 'x' }, { A: 'x\0' }, { A: 1 }])
    assert.ok(!accepts(ExecVm, { command: 'ls', env }));
});

test('every error has the status of its kind and says what it means', () => {
  for (const [code, kind] of Object.entries(ERRORS)) {
    assert.match(code, /^[a-z]+(_[a-z]+)*$/);
    assert.ok(kind.status >= 400 && kind.status < 600 && kind.meaning.endsWith('.'), code);
    assert.equal(kind.fault === 'caller', kind.status < 500, code);
  }
});
