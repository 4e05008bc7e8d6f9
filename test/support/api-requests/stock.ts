import assert from 'node:assert/strict';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../../src/base/clock.ts';
import { until } from '../../../src/base/until.ts';
import { makeExt4 } from '../../../src/guest/saved-disk/testing.ts';
import { endFakeGuest, runningGuests } from '../../../src/vmm/fake/state.ts';
import type { FakeDaemon } from '../fake-daemon.ts';
import { fields } from './values.ts';

/** Whose key a request is sent with. */
export const ROLES = [
  'everything',
  'read',
  'write',
  'admin',
  'operator',
  'stranger',
  'revoked',
  'unknown',
  'none',
] as const;
export type Role = (typeof ROLES)[number];

/** More than these are removed: they are what requests made. */
const MOST = { vms: 14, snapshots: 5 };
/** The names of keys that requests are sent with: no request is about them. */
const OWN_KEYS = new Set<unknown>(['admin', 'role']);

/** How snapshots are called whose disk can be looked into. */
const DISK = 'disk-';

type Row = Readonly<Record<string, unknown>>;
type There = Readonly<
  Record<'vms' | 'snapshots' | 'routes' | 'images' | 'templates' | 'keys', readonly Row[]>
>;

/**
 * What there is of everything, for requests to be about: VMs in every state they stay in, snapshots, routes, images, templates, keys and
 * accounts. Requests use it up; `fill` brings back what is missing.
 */
export class Stock {
  readonly #hatch: FakeDaemon;
  readonly #keys = new Map<Role, string | null>();
  #things = new Map<string, readonly string[]>();
  #made = 0;
  readonly #disk: Buffer;
  /** A snapshot as a file. */
  file: Buffer = Buffer.alloc(0);

  private constructor(hatch: FakeDaemon, disk: Buffer) {
    this.#hatch = hatch;
    this.#disk = disk;
  }

  /** Makes all of it. */
  static async of(hatch: FakeDaemon): Promise<Stock> {
    const stock = new Stock(hatch, await aDisk(hatch.daemon.data.root));
    await stock.#makeKeys();
    await stock.fill();
    const path = `/snapshots/${stock.resolve('@snapshot#0')}/export`;
    const exported = await fetch(`${hatch.daemon.url}${path}`, {
      headers: { authorization: `Bearer ${hatch.key}` },
    });
    assert.equal(exported.status, 200);
    stock.file = Buffer.from(await exported.arrayBuffer());
    return stock;
  }

  /** The key of a role; null: none is sent. */
  key(role: Role): string | null {
    return this.#keys.get(role) ?? null;
  }

  /** A text, with what stands for something in stock replaced by its id, or its name where it has one. */
  resolve(text: string): string {
    const [, kind, at = '0'] = /^@([a-z]+(?:\.[a-z]+)?)#(\d+)$/.exec(text) ?? [];
    if (kind === undefined) return text;
    if (kind === 'new') return `new-${++this.#made}`;
    const things = this.#things.get(kind) ?? [];
    return things[Number(at) % Math.max(1, things.length)] ?? 'none-of-them';
  }

  /** Brings back what is missing, and removes what is too much. */
  async fill(): Promise<void> {
    while (await this.#change(await this.#look()));
  }

  /** Sees what there is, and notes what requests may be about. */
  async #look(): Promise<There> {
    const [vms, snapshots, routes, images, templates, keys, events, accounts] = await Promise.all(
      ['vms', 'snapshots', 'routes', 'images', 'templates', 'keys', 'events?limit=20', 'accounts'].map(
        (kind) => this.#list(`/${kind}`),
      ),
    );
    assert.ok(vms && snapshots && routes && images && templates && keys && events && accounts);
    const asleep = new Set(vms.filter(({ state }) => state === 'snapshotted').map(({ id }) => id));
    const there = {
      vms,
      // Of those that sleep it is the only way back.
      snapshots: snapshots.filter(({ vm_id: vm }) => !asleep.has(vm)),
      routes,
      images: images.filter(({ id }) => id !== 'img-default'),
      templates,
      keys: keys.filter(({ revoked_at: at, name }) => at === undefined && !OWN_KEYS.has(name)),
    };
    const ids = (rows: readonly Row[]): string[] => rows.map(({ id }) => String(id));
    const names = (rows: readonly Row[]): string[] => rows.map(({ id, name }) => String(name ?? id));
    this.#things = new Map([
      ['vm', names(vms)],
      ['vm.networked', ids(vms.filter(hasNetwork))],
      ['vm.told', ids(vms.filter(isTold))],
      ...['running', 'stopped', 'snapshotted', 'error'].map(
        (state) => [`vm.${state}`, ids(vms.filter((vm) => vm['state'] === state))] as const,
      ),
      ['snapshot', names(there.snapshots)],
      ['snapshot.disk', ids(there.snapshots.filter(hasDisk))],
      ['route', ids(routes)],
      ['event', ids(events)],
      ['account', ids(accounts.filter(({ name }) => name !== 'default'))],
      ['image', ids(there.images)],
      ['template', ids(templates)],
      ['key', ids(there.keys)],
    ]);
    return there;
  }

  /** Does something about what is missing or too much; whether anything was. */
  async #change({ vms, snapshots, routes, images, templates, keys }: There): Promise<boolean> {
    const count = (state: string): number => vms.filter((vm) => vm['state'] === state).length;
    const todo: (() => Promise<unknown>)[] = [];
    for (const { id } of vms.slice(MOST.vms)) todo.push(() => this.#ask('DELETE', `/vms/${String(id)}`));
    if (!vms.slice(0, MOST.vms).some(isTold))
      todo.push(() => this.#makeVm({ user_data: '#!/bin/sh\n', labels: { told: 'yes' } }));
    if (count('running') < 2) todo.push(() => this.#makeVm({ name: `stock-${++this.#made}` }));
    if (count('running') < 3) todo.push(() => this.#makeVm({ enable_network: false }));
    if (count('stopped') < 1)
      todo.push(async () => this.#ask('POST', `/vms/${await this.#makeVm()}/stop`, { grace_seconds: 0 }));
    if (count('snapshotted') < 1)
      todo.push(async () => this.#ask('POST', `/vms/${await this.#makeVm()}/snapshot`, {}));
    if (count('error') < 1) todo.push(async () => this.#crash(await this.#makeVm()));
    for (const { id } of snapshots.filter((one) => !hasDisk(one)).slice(MOST.snapshots))
      todo.push(() => this.#ask('DELETE', `/snapshots/${String(id)}`));
    for (let at = snapshots.filter(hasDisk).length; at < 2; at++) todo.push(() => this.#save());
    const first = vms.find(hasNetwork);
    if (routes.length === 0 && first)
      todo.push(() => this.#ask('POST', `/vms/${String(first['id'])}/routes`, { target_port: 80 }));
    for (let at = images.length; at < 2; at++)
      todo.push(() =>
        this.#ask('POST', '/images', { name: `stock-${++this.#made}`, kernel_path: '/k', rootfs_path: '/r' }),
      );
    for (let at = templates.length; at < 2; at++)
      todo.push(() => this.#ask('POST', '/templates', { name: `stock-${++this.#made}` }));
    if (keys.length === 0) todo.push(() => this.#ask('POST', '/keys', { name: 'spare', scopes: ['read'] }));
    for (const each of todo) await each();
    return todo.length > 0;
  }

  /** Saves a VM whose disk can be looked into, as a real one's; those of pretended guests cannot. */
  async #save(): Promise<void> {
    const vm = await this.#makeVm();
    await writeFile(join(this.#hatch.daemon.world.settings.vmsFolder, vm, 'disk.raw'), this.#disk);
    await this.#ask('POST', `/vms/${vm}/snapshot`, { name: `${DISK}${++this.#made}`, keep_running: true });
  }

  async #makeKeys(): Promise<void> {
    this.#keys.set('everything', this.#hatch.key).set('none', null).set('unknown', 'hatch_unknown');
    const make = async (role: Role, body: object): Promise<Row> => {
      const made = await this.#ask('POST', '/keys', { name: 'role', ...body });
      this.#keys.set(role, String(made['secret']));
      return made;
    };
    for (const scope of ['read', 'write', 'admin', 'operator'] as const)
      await make(scope, { scopes: [scope] });
    const { id } = await this.#ask('POST', '/accounts', { name: 'strangers' });
    await make('stranger', { account_id: id, scopes: ['read', 'write', 'admin'] });
    const revoked = await make('revoked', { scopes: ['read', 'write', 'admin', 'operator'] });
    await this.#ask('DELETE', `/keys/${String(revoked['id'])}`);
  }

  async #makeVm(body: object = {}): Promise<string> {
    return String((await this.#ask('POST', '/vms?wait=ready', body))['id']);
  }

  /** Ends the VM's hypervisor, and waits until it is known. */
  async #crash(id: string): Promise<void> {
    const { store, settings } = this.#hatch.daemon.world;
    for (const { vmId, folder } of await runningGuests(settings.vmsFolder))
      if (vmId === id)
        await endFakeGuest(folder, { kind: 'crashed', exitCode: null, signal: 'SIGKILL', message: '' });
    await until({ clock: systemClock, signal: AbortSignal.timeout(20_000) }, async () => {
      const vms = await store.vms.ofHost(settings.hostId);
      return vms.some((vm) => vm.id === id && vm.state === 'error') ? true : undefined;
    });
  }

  async #list(path: string): Promise<Row[]> {
    const { body } = await this.#hatch.call('GET', path);
    assert.ok(Array.isArray(body), path);
    return body.map(fields);
  }

  async #ask(method: 'POST' | 'PATCH' | 'DELETE', path: string, body?: object): Promise<Row> {
    const answer = await this.#hatch.call(method, path, body);
    assert.ok(answer.status < 300, `${method} ${path}: ${JSON.stringify(answer.body)}`);
    return fields(answer.body);
  }
}

/** A small ext4 with a file in it. */
async function aDisk(folder: string): Promise<Buffer> {
  const [from, path] = [join(folder, 'content'), join(folder, 'disk.ext4')];
  await mkdir(join(from, 'etc'), { recursive: true });
  await writeFile(join(from, 'etc/hostname'), 'web\n');
  await makeExt4(path, { from, size: '256k', args: ['-O', '^has_journal'] });
  return readFile(path);
}

function isTold({ labels }: Row): boolean {
  return fields(labels)['told'] === 'yes';
}

function hasDisk({ name }: Row): boolean {
  return String(name).startsWith(DISK);
}

function hasNetwork({ guest_ip: ip }: Row): boolean {
  return ip !== undefined;
}
