import { createHash, randomBytes } from 'node:crypto';
import type { Clock } from '../base/clock.ts';
import { newId, parseImageId, parseTemplateId, type AccountId } from '../base/ids.ts';
import { DEFAULT_IDLE, mergeCreate, mergeIdle } from '../model/create-request.ts';
import { Failure, invalid, notFound } from '../model/failure.ts';
import type { Account, ApiKey, HatchEvent, Image, Quotas, Scope, Template } from '../model/records.ts';
import { checkUserData } from '../model/user-data.ts';
import type { Vm } from '../model/vm.ts';
import { fakeIdle } from './fake-idle.ts';
import { fakeGuestFiles, type FakeGuestFiles } from './fake-guest-files.ts';
import { fakeEvents } from './fake-events.ts';
import { pageOf } from './fake-page.ts';
import { NOTHING, templateFields } from './fake-templates.ts';
import { fakeRoutes } from './fake-routes.ts';
import { fakeSnapshots, type FakeSnapshots } from './fake-snapshots.ts';
import type { Caller, Hatch } from '../ops/hatch.ts';

const USED = { uptimeSeconds: 61.004, cpuSeconds: 14, rssBytes: 8192, blockReadBytes: 9, blockWriteBytes: 5 };
const TRAFFIC = { receivedBytes: 1500, receivedPackets: 3, sentBytes: 700, sentPackets: 2 };

type ExecCommand = Parameters<Hatch['vms']['exec']>[2];

/** What a test may look at and change behind the API's back. */
export interface FakeHatch extends Hatch {
  readonly vmRows: Map<string, Vm & { readonly userData: string | null }>;
  readonly snapshotRows: FakeSnapshots['rows'];
  readonly transfers: FakeSnapshots['transfers'];
  readonly disk: FakeSnapshots['disk'];
  readonly inside: FakeGuestFiles;
  readonly commands: ExecCommand[];
  /** What `GET /readyz` finds missing. */
  problems: Awaited<ReturnType<Hatch['readiness']>>;
  /** A guest writes to its console. */
  writeConsole(text: string): void;
  /** Holds back whoever makes or starts a VM from now on; `reached` resolves when the first of them is there. */
  hold(): { readonly reached: Promise<void>; readonly letGo: () => void };
  /** A key with these scopes, in this account (the first one when left out). */
  makeKey(scopes: readonly Scope[], accountId?: AccountId): string;
  readonly accountRows: Account[];
}

/**
 * A Hatch that keeps everything in memory and has no guests: enough to test the API room with. It honours accounts, names,
 * pages and the states of VMs.
 */
export function fakeHatch(clock: Clock): FakeHatch {
  const accounts: Account[] = [];
  const keys: (ApiKey & { readonly hash: string })[] = [];
  const vms: FakeHatch['vmRows'] = new Map();
  const images: Image[] = [];
  const templates: Template[] = [];
  const events: HatchEvent[] = [];
  const commands: ExecCommand[] = [];
  const lines: string[] = [];
  let news = Promise.withResolvers<void>();
  let gate = (): Promise<void> => Promise.resolve();

  const hash = (secret: string): string => createHash('sha256').update(secret).digest('hex');
  const newAccount = (name: string, quotas: Partial<Quotas>): Account => {
    const account = {
      id: newId('acct'),
      name,
      quotas: { vms: null, vcpus: null, memMib: null, ...quotas },
      createdAt: clock.now(),
    };
    accounts.push(account);
    return account;
  };
  const newKey = (accountId: AccountId, name: string, scopes: readonly Scope[], expiresAt: number | null) => {
    const secret = `hatch_${randomBytes(32).toString('base64url')}`;
    const key = {
      id: newId('key'),
      accountId,
      name,
      scopes,
      prefix: secret.slice(0, 10),
      expiresAt,
      revokedAt: null,
      lastUsedAt: null,
      createdAt: clock.now(),
    };
    keys.push({ ...key, hash: hash(secret) });
    return { key, secret };
  };
  const own = (caller: Caller, idOrName: string): Vm & { readonly userData: string | null } => {
    const found = [...vms.values()].find(
      (vm) => vm.accountId === caller.accountId && (vm.id === idOrName || vm.name === idOrName),
    );
    if (!found) throw notFound('vm', idOrName);
    return found;
  };
  const change = (vm: Vm & { readonly userData: string | null }, to: Partial<Vm>): Vm => {
    const changed = { ...vm, ...to, updatedAt: clock.now() };
    vms.set(vm.id, changed);
    return changed;
  };
  const newNetwork = (ip: string | null = null, mac: string | null = null): NonNullable<Vm['network']> => {
    const at = vms.size + 10;
    return {
      ip: ip ?? `192.168.241.${at}`,
      mac: mac ?? `02:fc:00:00:00:${at.toString(16).padStart(2, '0')}`,
      sshPort: 2190 + at,
    };
  };
  const saved = fakeSnapshots({ clock, rows: vms, own, change, newNetwork });
  const routed = fakeRoutes({ clock, own });
  const inside = fakeGuestFiles({ clock, own });
  const tell = (vm: Vm, kind: string): void => {
    events.push({
      id: newId('evt'),
      seq: events.length,
      accountId: vm.accountId,
      vmId: vm.id,
      kind,
      message: `The VM is ${vm.state}.`,
      data: { state: vm.state },
      at: clock.now(),
    });
  };
  const ownTemplate = (caller: Caller, id: string): Template => {
    const found = templates.find((each) => each.accountId === caller.accountId && each.id === id);
    if (!found) throw notFound('template', id);
    return found;
  };
  const imageOf = (id: string): Image => {
    const found = images.find((each) => each.id === id);
    if (!found) throw notFound('image', id);
    return found;
  };
  const addImage = (accountId: AccountId, name: string, kernelPath: string, rootfsPath: string): Image => {
    const id = parseImageId(`img-${name}`);
    if (!id) throw new Error(`not a name: ${name}`);
    if (images.some((image) => image.id === id))
      throw new Failure('already_exists', `There is an image "${id}" already.`, {
        details: { field: 'name' },
      });
    const image: Image = {
      accountId,
      id,
      kernelPath,
      vmlinuxPath: null,
      initrdPath: null,
      rootfsPath,
      rootfsFormat: 'raw',
      bootArgs: null,
      defaultUser: 'hatch',
      agent: true,
      sizeBytes: 1024,
      sha256: null,
      createdAt: clock.now(),
    };
    images.push(image);
    return image;
  };

  const first = newAccount('default', {});
  addImage(first.id, 'default', '/secret/host/vmlinuz', '/secret/host/rootfs');

  const hatch: FakeHatch = {
    vmRows: vms,
    snapshotRows: saved.rows,
    transfers: saved.transfers,
    disk: saved.disk,
    accountRows: accounts,
    inside,
    commands,
    problems: [],
    writeConsole: (text) => {
      lines.push(text);
      news.resolve();
      news = Promise.withResolvers();
    },
    hold: () => {
      const held = Promise.withResolvers<void>();
      const reached = Promise.withResolvers<void>();
      gate = () => {
        reached.resolve();
        return held.promise;
      };
      return { reached: reached.promise, letGo: held.resolve };
    },
    makeKey: (scopes, accountId = first.id) => newKey(accountId, 'test', scopes, null).secret,
    vms: {
      create: async (caller, request) => {
        await gate();
        if (request.snapshotId !== undefined) return saved.copy(caller, request, request.snapshotId);
        const template = request.templateId === undefined ? null : ownTemplate(caller, request.templateId);
        const merged = mergeCreate(request, template, {
          imageId: 'img-default',
          vcpuCount: 1,
          memMib: 512,
          idle: DEFAULT_IDLE,
        });
        if (merged.userData !== null) checkUserData(merged.userData);
        if (merged.name !== null && [...vms.values()].some((vm) => vm.name === merged.name))
          throw new Failure('already_exists', 'The name is taken.', { details: { field: 'name' } });
        const vm = {
          id: newId('vm'),
          accountId: caller.accountId,
          hostId: 'host-1',
          epoch: 1,
          name: merged.name,
          imageId: imageOf(merged.imageId).id,
          templateId: template?.id ?? null,
          parentSnapshotId: null,
          state: 'running',
          stateReason: null,
          stoppedBy: null,
          vcpuCount: merged.vcpuCount,
          memMib: merged.memMib,
          diskMib: merged.diskMib,
          bootArgs: merged.bootArgs,
          network: merged.enableNetwork ? newNetwork(merged.guestIp, merged.guestMac) : null,
          sshAuthorizedKeys: merged.sshAuthorizedKeys,
          idle: merged.idle,
          autostart: merged.autostart,
          labels: merged.labels,
          readyAt: null,
          lastActiveAt: null,
          leasedUntil: null,
          vmm: 'fake',
          accel: 'none',
          process: { pid: 4711, startTime: '1', bootId: 'b' },
          layerId: newId('layer'),
          instanceId: request.name ?? 'vm',
          snapshotId: null,
          memoryLayerId: null,
          operation: null,
          createdAt: clock.now(),
          updatedAt: clock.now(),
          userData: merged.userData,
        } as const;
        vms.set(vm.id, vm);
        tell(vm, 'vm.created');
        return vm;
      },
      get: async (caller, id, wait) => {
        const vm = own(caller, id);
        if (wait?.until === 'ready' && vm.readyAt === null)
          throw new Failure('timeout', `The guest did not answer within ${wait.timeoutMs / 1000} s.`);
        return vm;
      },
      list: async (caller, filter, page) =>
        pageOf(
          [...vms.values()].filter(
            (vm) =>
              (filter.everyone === true || vm.accountId === caller.accountId) &&
              (filter.state === undefined || vm.state === filter.state) &&
              Object.entries(filter.labels ?? {}).every(([key, value]) => vm.labels[key] === value),
          ),
          page,
        ),
      patch: async (caller, id, { idle, ...patch }) =>
        change(own(caller, id), {
          ...Object.fromEntries(Object.entries(patch).filter(([, value]) => value !== undefined)),
          ...(idle === undefined ? {} : { idle: idle && mergeIdle(DEFAULT_IDLE, idle) }),
        }),
      userData: async (caller, id) => own(caller, id).userData,
      start: async (caller, id) => {
        await gate();
        const vm = own(caller, id);
        if (vm.state !== 'stopped')
          throw new Failure('wrong_state', `The VM is ${vm.state}; it can be started when stopped.`, {
            details: { state: vm.state, allowed: ['stop', 'reboot', 'delete'] },
          });
        return change(vm, { state: 'running' });
      },
      stop: async (caller, id, { graceSeconds }) => {
        const at = clock.now();
        const forced = { code: 'forced_stop', message: 'The guest did not shut down; it was killed.', at };
        return change(own(caller, id), { state: 'stopped', stateReason: graceSeconds === 0 ? forced : null });
      },
      reboot: async (caller, id) => own(caller, id),
      ...saved.saving,
      ...inside.calls,
      delete: async (caller, id) => {
        const vm = own(caller, id);
        vms.delete(vm.id);
        saved.forget(vm);
        routed.forget(vm);
      },
      exec: async (caller, id, command) => {
        own(caller, id);
        commands.push(command);
        return { exitCode: 0, stdout: 'out', stderr: '', truncated: false, timedOut: false };
      },
      metrics: async (caller, id) => {
        const { id: vmId, memMib, network } = own(caller, id);
        return { vmId, memMib, at: clock.now(), machine: USED, traffic: network && TRAFFIC };
      },
      console: async (caller, id, tailBytes) => {
        own(caller, id);
        return { text: tailBytes === 0 ? '' : lines.join('').slice(-tailBytes), offset: lines.length };
      },
      followConsole: async function* (caller, id, offset, signal) {
        own(caller, id);
        const aborted = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
        for (let at = offset; !signal.aborted; at++) {
          while (at >= lines.length) {
            await Promise.race([news.promise, aborted]);
            if (signal.aborted) return;
          }
          yield lines[at] ?? '';
        }
      },
    },
    snapshots: saved.snapshots,
    routes: routed.routes,
    idle: fakeIdle({
      clock,
      own,
      all: ({ accountId }) => [...vms.values()].filter((vm) => vm.accountId === accountId),
    }),
    images: {
      create: async (caller, request) =>
        addImage(caller.accountId, request.name, request.kernelPath, request.rootfsPath),
      get: async (_caller, id) => imageOf(id),
      list: async (_caller, page) => pageOf(images, page),
      delete: async (_caller, id) => {
        const users = [...vms.values()].filter((vm) => vm.imageId === id).map((vm) => vm.id);
        if (users.length > 0) throw new Failure('in_use', 'VMs use this image.', { details: { vms: users } });
        images.splice(images.indexOf(imageOf(id)), 1);
      },
    },
    templates: {
      create: async (caller, name, fields) => {
        const id = parseTemplateId(`tpl-${name}`);
        if (!id) throw new Error(`not a name: ${name}`);
        const times = { createdAt: clock.now(), updatedAt: clock.now() };
        const template = { accountId: caller.accountId, id, ...templateFields(NOTHING, fields), ...times };
        templates.push(template);
        return template;
      },
      get: async (caller, id) => ownTemplate(caller, id),
      list: async (_caller, page) => pageOf(templates, page),
      patch: async (caller, id, fields) => {
        const old = ownTemplate(caller, id);
        const patched = { ...old, ...templateFields(old, fields), updatedAt: clock.now() };
        templates.splice(templates.indexOf(old), 1, patched);
        return patched;
      },
      delete: async (caller, id) => {
        templates.splice(templates.indexOf(ownTemplate(caller, id)), 1);
      },
    },
    accounts: {
      authenticate: async (secret) => {
        const key = keys.find((each) => each.hash === hash(secret) && each.revokedAt === null);
        if (!key || (key.expiresAt !== null && key.expiresAt <= clock.now())) return undefined;
        return { accountId: key.accountId, keyId: key.id, scopes: new Set(key.scopes) };
      },
      isGood: async ({ keyId }) => {
        const key = keys.find(({ id }) => id === keyId);
        return key?.revokedAt === null && (key.expiresAt === null || key.expiresAt > clock.now());
      },
      own: async (caller) => {
        const account = accounts.find(({ id }) => id === caller.accountId) ?? first;
        const mine = [...vms.values()].filter((vm) => vm.accountId === caller.accountId);
        const sum = (of: (vm: Vm) => number): number => mine.reduce((total, vm) => total + of(vm), 0);
        const use = { vms: mine.length, vcpus: sum((vm) => vm.vcpuCount), memMib: sum((vm) => vm.memMib) };
        return { account, limits: { ...account.quotas, vms: account.quotas.vms ?? 50 }, use };
      },
      create: async (_caller, { name, quotas }) => newAccount(name, quotas),
      list: async (_caller, page) => pageOf(accounts, page),
      patch: async (_caller, id, { name, quotas }) => {
        const at = accounts.findIndex((each) => each.id === id);
        const old = accounts[at];
        if (!old) throw notFound('account', id);
        const patched = { ...old, name: name ?? old.name, quotas: { ...old.quotas, ...quotas } };
        accounts.splice(at, 1, patched);
        return patched;
      },
    },
    keys: {
      create: async (caller, { name, scopes, expiresAt, accountId }) => {
        const account = accounts.find(({ id }) => id === (accountId ?? caller.accountId));
        if (!account) throw invalid('account_id', `There is no account "${accountId ?? ''}".`);
        return newKey(account.id, name, scopes, expiresAt ?? null);
      },
      list: async (caller, page, accountId = caller.accountId) =>
        pageOf(
          keys.filter((key) => key.accountId === accountId),
          page,
        ),
      revoke: async (caller, id, accountId = caller.accountId) => {
        const at = keys.findIndex((key) => key.id === id && key.accountId === accountId);
        const key = keys[at];
        if (!key) throw notFound('key', id);
        keys.splice(at, 1, { ...key, revokedAt: clock.now() });
      },
    },
    events: fakeEvents(events, own),
    idempotency: { of: async () => ({ newId, settle: async () => undefined }) },
    readiness: async () => hatch.problems,
    written: () => null,
  };
  return hatch;
}
