import { Type } from 'typebox';
import { Deleted, ListQuery } from '../contract/common.ts';
import {
  ForkVm,
  PatchSnapshot,
  RestoreVm,
  Snapshot,
  SnapshotListQuery,
  SnapshotParams,
  SnapshotVm,
  StoredQuery,
} from '../contract/snapshot.ts';
import { NoFields, Vm, VmParams, WaitQuery } from '../contract/vm.ts';
import type { ApiDeps, App } from './app.ts';
import { callerOf, demand, READ, WRITE } from './auth.ts';
import { answerPage } from './page.ts';
import { presentSnapshot, presentVm } from './present.ts';
import { readStoredWait, readWait } from './vm-requests.ts';

const tags = ['Snapshots'];
const SAVING = ['wrong_state', 'busy', 'already_exists', 'quota_exceeded', 'no_space', 'vmm_failed'] as const;

/** Saving VMs, waking and copying them, and the snapshots that are there. */
export function snapshotRoutes(app: App, { hatch }: Pick<ApiDeps, 'hatch'>): void {
  saving(app, hatch);

  app.get(
    '/vms/:id/snapshots',
    {
      config: { access: READ },
      schema: {
        operationId: 'listVmSnapshots',
        tags,
        summary: 'List a VM’s snapshots',
        params: VmParams,
        querystring: ListQuery,
        response: { 200: Type.Array(Snapshot) },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { id: vm } = request.params;
      const found = await answerPage(request, reply, (page) => hatch.snapshots.list(caller, { vm }, page));
      return found.map((one) => presentSnapshot(one, hatch.snapshots.transfer(one.id)));
    },
  );

  app.get(
    '/snapshots',
    {
      config: { access: READ },
      schema: {
        operationId: 'listSnapshots',
        tags,
        summary: 'List snapshots',
        querystring: SnapshotListQuery,
        response: { 200: Type.Array(Snapshot) },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { all = false } = request.query;
      if (all) demand(caller, 'operator', 'A list of all accounts');
      const found = await answerPage(request, reply, (page) =>
        hatch.snapshots.list(caller, { everyone: all }, page),
      );
      return found.map((one) => presentSnapshot(one, hatch.snapshots.transfer(one.id)));
    },
  );

  app.get(
    '/snapshots/:id',
    {
      config: { access: READ, errors: ['timeout'] },
      schema: {
        operationId: 'getSnapshot',
        tags,
        summary: 'See a snapshot',
        params: SnapshotParams,
        querystring: StoredQuery,
        response: { 200: Snapshot },
      },
    },
    async (request) => {
      const waitMs = readStoredWait(request.query);
      const found = await hatch.snapshots.get(callerOf(request), request.params.id, waitMs);
      return presentSnapshot(found, hatch.snapshots.transfer(found.id));
    },
  );

  app.patch(
    '/snapshots/:id',
    {
      config: { access: WRITE, errors: ['already_exists'] },
      schema: {
        operationId: 'patchSnapshot',
        tags,
        summary: 'Name a snapshot',
        params: SnapshotParams,
        body: PatchSnapshot,
        response: { 200: Snapshot },
      },
    },
    async (request) =>
      presentSnapshot(await hatch.snapshots.patch(callerOf(request), request.params.id, request.body)),
  );

  app.post(
    '/snapshots/:id/verify',
    {
      config: {
        access: WRITE,
        errors: ['incompatible_snapshot', 'no_guest_agent', 'no_space', 'vmm_failed', 'timeout'],
      },
      schema: {
        operationId: 'verifySnapshot',
        tags,
        summary: 'Prove that a snapshot can be woken',
        description:
          'Restores it apart from everything, without a network: from the store where it is there, else from its host. Its agent is asked, ' +
          'and all of it destroyed again; `verified_at` is the time of the proof. What does not read in the store is marked `damaged`.',
        params: SnapshotParams,
        body: NoFields,
        response: { 200: Snapshot },
      },
    },
    async (request) => presentSnapshot(await hatch.snapshots.verify(callerOf(request), request.params.id)),
  );

  app.delete(
    '/snapshots/:id',
    {
      config: { access: WRITE, errors: ['in_use', 'busy'] },
      schema: {
        operationId: 'deleteSnapshot',
        tags,
        summary: 'Remove a snapshot for good',
        description:
          'Refused while it is the only way back of a sleeping VM. Copies made of it go on: what they share stays until the ' +
          'last of them is gone.',
        params: SnapshotParams,
        response: { 200: Deleted },
      },
    },
    async (request) => {
      await hatch.snapshots.delete(callerOf(request), request.params.id);
      return { status: 'deleted' as const };
    },
  );
}

function saving(app: App, hatch: ApiDeps['hatch']): void {
  app.post(
    '/vms/:id/snapshot',
    {
      config: { idempotent: true, access: WRITE, errors: [...SAVING, 'timeout'] },
      schema: {
        operationId: 'snapshotVm',
        tags,
        summary: 'Save a running VM',
        description:
          'Memory, disk and devices, as they are in one moment. The VM sleeps afterwards, or goes on with `keep_running`. ' +
          'When it cannot be saved it runs on.',
        params: VmParams,
        querystring: StoredQuery,
        body: SnapshotVm,
        response: { 201: Snapshot },
      },
    },
    async (request, reply) => {
      const { name, keep_running: keepRunning = false } = request.body;
      const storedWithinMs = readStoredWait(request.query);
      const asked = { name, keepRunning, storedWithinMs };
      const snapshot = await hatch.vms.snapshot(callerOf(request), request.params.id, asked);
      reply.code(201).header('location', `/snapshots/${snapshot.id}`);
      return presentSnapshot(snapshot, hatch.snapshots.transfer(snapshot.id));
    },
  );

  app.post(
    '/vms/:id/restore',
    {
      config: {
        access: WRITE,
        errors: [
          'wrong_state',
          'busy',
          'incompatible_snapshot',
          'no_space',
          'no_capacity',
          'vmm_failed',
          'timeout',
        ],
      },
      schema: {
        operationId: 'restoreVm',
        tags,
        summary: 'Wake a sleeping VM, or put it back to a snapshot',
        description:
          'It goes on where it was saved, under the same identity, its clock set. A stopped VM needs `snapshot_id` and ' +
          '`discard`: what is on its disk now is lost.',
        params: VmParams,
        querystring: WaitQuery,
        body: RestoreVm,
        response: { 200: Vm },
      },
    },
    async (request) => {
      const { snapshot_id: snapshot, discard } = request.body;
      const asked = { snapshot, discard };
      return presentVm(
        await hatch.vms.restore(callerOf(request), request.params.id, asked, readWait(request.query)),
      );
    },
  );

  app.post(
    '/vms/:id/fork',
    {
      config: {
        idempotent: true,
        access: WRITE,
        errors: [...SAVING, 'no_guest_agent', 'incompatible_snapshot', 'no_capacity', 'timeout'],
      },
      schema: {
        operationId: 'forkVm',
        tags,
        summary: 'Copy a running or sleeping VM',
        description:
          'Each copy goes on from the same moment under an identity of its own: id, address, MAC, SSH port, host name, ' +
          'machine id, host keys, random state and clock. `users` and `runcmd` do not run again.',
        params: VmParams,
        querystring: WaitQuery,
        body: ForkVm,
        response: { 201: Type.Array(Vm) },
      },
    },
    async (request, reply) => {
      const { count = 1, name, keep_running: keepRunning = true } = request.body;
      const asked = { count, name, keepRunning };
      const made = await hatch.vms.fork(callerOf(request), request.params.id, asked, readWait(request.query));
      reply.code(201);
      return made.map(presentVm);
    },
  );
}
