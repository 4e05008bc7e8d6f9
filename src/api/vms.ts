import { Type } from 'typebox';
import { Deleted } from '../contract/common.ts';
import { CreateVm, NoFields, PatchVm, StopVm, Vm, VmListQuery, VmParams, WaitQuery } from '../contract/vm.ts';
import { Failure } from '../model/failure.ts';
import type { ApiDeps, App } from './app.ts';
import { callerOf, demand, READ, WRITE } from './auth.ts';
import { answerPage } from './page.ts';
import { presentVm } from './present.ts';
import { readCreateVm, readLabelFilter, readPatchVm, readWait } from './vm-requests.ts';

const tags = ['VMs'];
const DEFAULT_GRACE_SECONDS = 30;

/** Making, finding, changing and removing VMs, and moving them between their states. */
export function vmRoutes(app: App, { hatch }: Pick<ApiDeps, 'hatch'>): void {
  app.post(
    '/vms',
    {
      config: {
        idempotent: true,
        access: WRITE,
        errors: [
          'quota_exceeded',
          'not_found',
          'already_exists',
          'wrong_state',
          'busy',
          'vmm_failed',
          'no_capacity',
          'timeout',
        ],
      },
      schema: {
        operationId: 'createVm',
        tags,
        summary: 'Make a VM',
        description: 'Answers when the VM runs; with `?wait=ready`, when its guest has answered.',
        querystring: WaitQuery,
        body: CreateVm,
        response: { 201: Vm },
      },
    },
    async (request, reply) => {
      const vm = await hatch.vms.create(
        callerOf(request),
        readCreateVm(request.body),
        readWait(request.query),
      );
      reply.code(201).header('location', `/vms/${vm.id}`);
      return presentVm(vm);
    },
  );

  app.get(
    '/vms',
    {
      config: { access: READ, cached: true },
      schema: {
        operationId: 'listVms',
        tags,
        summary: 'List VMs',
        querystring: VmListQuery,
        response: { 200: Type.Array(Vm) },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { state, label, all = false } = request.query;
      if (all) demand(caller, 'operator', 'A list of all accounts');
      const filter = { state, labels: readLabelFilter(label ?? []), everyone: all };
      const vms = await answerPage(request, reply, (page) => hatch.vms.list(caller, filter, page));
      return vms.map((vm) => (all ? { ...presentVm(vm), account_id: vm.accountId } : presentVm(vm)));
    },
  );

  app.get(
    '/vms/:id',
    {
      config: { access: READ, errors: ['wrong_state', 'timeout'], cached: true },
      schema: {
        operationId: 'getVm',
        tags,
        summary: 'See a VM',
        params: VmParams,
        querystring: WaitQuery,
        response: { 200: Vm },
      },
    },
    async (request) =>
      presentVm(await hatch.vms.get(callerOf(request), request.params.id, readWait(request.query))),
  );

  app.patch(
    '/vms/:id',
    {
      config: { access: WRITE, errors: ['wrong_state', 'busy', 'already_exists', 'quota_exceeded'] },
      schema: {
        operationId: 'patchVm',
        tags,
        summary: 'Change a VM',
        params: VmParams,
        body: PatchVm,
        response: { 200: Vm },
      },
    },
    async (request) =>
      presentVm(await hatch.vms.patch(callerOf(request), request.params.id, readPatchVm(request.body))),
  );

  app.delete(
    '/vms/:id',
    {
      config: { access: WRITE, errors: ['busy', 'vmm_failed'] },
      schema: {
        operationId: 'deleteVm',
        tags,
        summary: 'Remove a VM for good',
        description:
          'From any state; what is under way on it is cancelled. Its disk, addresses and port go with it.',
        params: VmParams,
        response: { 200: Deleted },
      },
    },
    async (request) => {
      await hatch.vms.delete(callerOf(request), request.params.id);
      return { status: 'deleted' as const };
    },
  );

  app.get(
    '/vms/:id/user-data',
    {
      config: { access: WRITE, text: 'The user data, byte for byte.' },
      schema: {
        operationId: 'getVmUserData',
        tags,
        summary: 'Read a VM’s user data',
        description: 'It may hold secrets, so it stands nowhere else. 404 when the VM was made without any.',
        params: VmParams,
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      const text = await hatch.vms.userData(callerOf(request), id);
      if (text === null)
        throw new Failure('not_found', `There is no user data: VM "${id}" was made without any.`, {
          details: { vm: id },
        });
      return reply.type('text/plain; charset=utf-8').send(text);
    },
  );

  app.post(
    '/vms/:id/start',
    {
      config: {
        access: WRITE,
        errors: ['wrong_state', 'busy', 'vmm_failed', 'no_capacity', 'timeout'],
      },
      schema: {
        operationId: 'startVm',
        tags,
        summary: 'Start a VM',
        description:
          'From `stopped`, or from `error` when its disk is whole. It keeps its addresses and its disk.',
        params: VmParams,
        querystring: WaitQuery,
        body: NoFields,
        response: { 200: Vm },
      },
    },
    async (request) =>
      presentVm(await hatch.vms.start(callerOf(request), request.params.id, readWait(request.query))),
  );

  app.post(
    '/vms/:id/stop',
    {
      config: { access: WRITE, errors: ['wrong_state', 'busy', 'vmm_failed'] },
      schema: {
        operationId: 'stopVm',
        tags,
        summary: 'Stop a VM',
        description:
          'Asks the guest to shut down and answers when it has; after `grace_seconds` it is killed, and `state_reason` says ' +
          'so. Addresses, port and disk stay. On a stopped VM nothing is done.',
        params: VmParams,
        body: StopVm,
        response: { 200: Vm },
      },
    },
    async (request) => {
      const { grace_seconds: graceSeconds = DEFAULT_GRACE_SECONDS } = request.body;
      return presentVm(await hatch.vms.stop(callerOf(request), request.params.id, { graceSeconds }));
    },
  );

  app.post(
    '/vms/:id/reboot',
    {
      config: { access: WRITE, errors: ['wrong_state', 'busy', 'vmm_failed', 'timeout'] },
      schema: {
        operationId: 'rebootVm',
        tags,
        summary: 'Reboot a running VM',
        params: VmParams,
        querystring: WaitQuery,
        body: NoFields,
        response: { 200: Vm },
      },
    },
    async (request) =>
      presentVm(await hatch.vms.reboot(callerOf(request), request.params.id, readWait(request.query))),
  );
}
