import { Type } from 'typebox';
import { IdleSimulation, LeaseVm, SimulateIdle, VmLease, VmWhy } from '../contract/idle.ts';
import { VmParams } from '../contract/vm.ts';
import type { ApiDeps, App } from './app.ts';
import { callerOf, READ, WRITE } from './auth.ts';
import { presentLease, presentSimulation, presentWhy } from './present-idle.ts';

const tags = ['Sleep'];

/** Why VMs sleep and stay awake. */
export function idleRoutes(app: App, { hatch }: Pick<ApiDeps, 'hatch'>): void {
  app.post(
    '/vms/:id/lease',
    {
      config: { access: WRITE, errors: ['wrong_state'] },
      schema: {
        operationId: 'leaseVm',
        tags,
        summary: 'Keep a VM awake for a while',
        description:
          'Says that a running VM is busy, for up to an hour at once. A later word takes the place of an earlier one. Whoever works in the ' +
          'guest can say so there.',
        params: VmParams,
        body: LeaseVm,
        response: { 200: VmLease },
      },
    },
    async (request) =>
      presentLease(await hatch.idle.lease(callerOf(request), request.params.id, request.body.seconds)),
  );

  app.get(
    '/vms/:id/why',
    {
      config: { access: READ, errors: ['wrong_state'] },
      schema: {
        operationId: 'whyVm',
        tags,
        summary: 'See why a VM is awake or asleep',
        description:
          'What keeps it awake now or when it will sleep, when and why it last slept and woke, how long visitors waited and what that ' +
          'saved. Asking is no use of the VM.',
        params: VmParams,
        response: { 200: VmWhy },
      },
    },
    async (request) => presentWhy(await hatch.idle.why(callerOf(request), request.params.id)),
  );

  app.post(
    '/idle/simulate',
    {
      config: { access: READ, errors: ['not_found'] },
      schema: {
        operationId: 'simulateIdle',
        tags,
        summary: 'Try another idle timeout',
        description:
          'Replays how VMs were used in the last 30 days: how often they would have slept and woken, and what that would have saved. It ' +
          'changes nothing.',
        body: SimulateIdle,
        response: { 200: Type.Array(IdleSimulation) },
      },
    },
    async (request) => {
      const { timeout_seconds: timeoutSeconds, vm_id: vm } = request.body;
      const simulated = await hatch.idle.simulate(callerOf(request), { timeoutSeconds, vm });
      return simulated.map(presentSimulation);
    },
  );
}
