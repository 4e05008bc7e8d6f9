import fc from 'fast-check';

/**
 * The plainest request there is for each operation, of things there are: one that must succeed. `@vm.running#0` and the like stand for
 * the id or the name of something in stock (stock.ts).
 */
export interface Plain {
  readonly params?: Readonly<Record<string, string>>;
  readonly query?: readonly (readonly [name: string, value: unknown])[];
  readonly body?: unknown;
  /** The body is a snapshot's file. */
  readonly file?: true;
}

const running = { id: '@vm.running#0' };
const vm = { id: '@vm#0' };
const snapshot = { id: '@snapshot#0' };
const disk = { id: '@snapshot.disk#0' };

export const PLAIN: Readonly<Record<string, Plain>> = {
  createVm: { body: {} },
  listVms: {},
  getVm: { params: vm },
  patchVm: { params: vm, body: { labels: { tier: 'web' } } },
  deleteVm: { params: vm },
  getVmUserData: { params: { id: '@vm.told#0' } },
  startVm: { params: { id: '@vm.stopped#0' } },
  stopVm: { params: running },
  rebootVm: { params: running },
  snapshotVm: { params: running, body: { keep_running: true } },
  restoreVm: { params: { id: '@vm.snapshotted#0' } },
  forkVm: { params: running, body: { count: 1 } },
  listVmSnapshots: { params: vm },
  listSnapshots: {},
  getSnapshot: { params: snapshot },
  patchSnapshot: { params: snapshot, body: { name: null } },
  deleteSnapshot: { params: snapshot },
  verifySnapshot: { params: snapshot },
  listSnapshotFiles: { params: disk, query: [['path', '/']] },
  readSnapshotFile: { params: disk, query: [['path', '/etc/hostname']] },
  diffSnapshots: { params: { ...disk, other: '@snapshot.disk#1' } },
  exportSnapshot: { params: snapshot },
  importSnapshot: { file: true },
  createRoute: { params: { id: '@vm.networked#0' }, body: { target_port: 8080 } },
  listVmRoutes: { params: vm },
  listRoutes: {},
  getRoute: { params: { id: '@route#0' } },
  patchRoute: { params: { id: '@route#0' }, body: { auto_wake: false } },
  deleteRoute: { params: { id: '@route#0' } },
  leaseVm: { params: running, body: { seconds: 60 } },
  whyVm: { params: vm },
  simulateIdle: { body: { timeout_seconds: 600 } },
  execInVm: { params: running, body: { command: 'true' } },
  readVmFile: { params: running, query: [['path', '/etc/hostname']] },
  writeVmFile: { params: running, query: [['path', '/srv/hatch-file']], file: true },
  getVmConsole: { params: vm },
  getMetrics: {},
  getVmMetrics: { params: running },
  listVmEvents: { params: vm },
  listEvents: {},
  createImage: { body: { name: '@new#0', kernel_path: '/k', rootfs_path: '/r' } },
  listImages: {},
  getImage: { params: { id: '@image#0' } },
  deleteImage: { params: { id: '@image#0' } },
  createTemplate: { body: { name: '@new#0' } },
  listTemplates: {},
  getTemplate: { params: { id: '@template#0' } },
  patchTemplate: { params: { id: '@template#0' }, body: { mem_mib: 256 } },
  deleteTemplate: { params: { id: '@template#0' } },
  createKey: { body: { name: 'deploys', scopes: ['read'] } },
  listKeys: {},
  deleteKey: { params: { id: '@key#0' } },
  getOwnAccount: {},
  createAccount: { body: { name: '@new#0' } },
  listAccounts: {},
  patchAccount: { params: { id: '@account#0' }, body: { quotas: { vms: 20 } } },
  getHealth: {},
  getReadiness: {},
};

const of = (...values: readonly unknown[]): fc.Arbitrary<unknown> => fc.constantFrom(...values);
/** Something in stock. */
const stocked = (kind: string): fc.Arbitrary<string> => fc.nat({ max: 7 }).map((at) => `@${kind}#${at}`);

const KNOWN: Readonly<Record<string, fc.Arbitrary<unknown>>> = {
  account_id: stocked('account'),
  boot_args: of('quiet', ''),
  cidrs: of('10.0.0.0/8', '::/0', '10.0.0.0/33'),
  command: of('true', 'echo hello', 'exit 3', ['false'], ['cat', '/etc/hostname'], 'nothing'),
  count: of(1, 2),
  cwd: of('/', '/tmp'),
  disk_mib: fc.integer({ min: 2048, max: 4096 }),
  domain: of('shop.example.com', 'a.hatch.localhost', 'localhost', 'x..y'),
  expires_at: of('2099-03-06T10:30:00Z', '9999-12-31T23:59:59-12:00', '2099-02-30T00:00:00Z'),
  grace_seconds: of(0, 30),
  guest_ip: fc.integer({ min: 0, max: 255 }).map((last) => `192.168.241.${last}`),
  image_id: fc.oneof(fc.constant('img-default'), stocked('image')),
  kernel_path: of('/k', '/..'),
  kind: of('vm.running', 'vm.stopped', 'nothing'),
  label: of('tier=web', 'a='),
  mem_mib: of(128, 256),
  mode: of('0644', '4755'),
  owner: of('hatch', '0', 'nobodyknown'),
  name: fc.oneof(of('web', 'db'), stocked('new')),
  path: of('/', '/etc', '/etc/hostname', '/..//etc/'),
  path_base64: of('Lw==', 'L2V0Yw=='),
  seconds: of(0, 60),
  snapshot_id: stocked('snapshot'),
  stdin: of('', 'hello'),
  template_id: stocked('template'),
  time_zone: of('UTC', 'Europe/Berlin', 'Mars/Olympus'),
  timeout: of(1),
  timeout_seconds: of(1, 5),
  user_data: of('', '#cloud-config\npackages: []\n', '#!/bin/sh\n', '#cloud-config\na: ['),
  vcpu_count: of(1, 2),
  vm_id: stocked('vm'),
};

/** What stands for a field by its name, at this path of the description. */
export function knownAt(path: string): (field: string) => fc.Arbitrary<unknown> | undefined {
  const [, first = ''] = path.split('/');
  const kind = first.replace(/s$/, '');
  const last = path.split('/').at(-1) ?? '';
  return (field) => {
    if (field === 'id' || field === 'other') return stocked(kind);
    if (field === 'after') return stocked(last.replace(/s$/, ''));
    return KNOWN[field];
  };
}
