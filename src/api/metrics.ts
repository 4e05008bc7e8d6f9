import { VmMetrics } from '../contract/metrics.ts';
import { VmParams } from '../contract/vm.ts';
import type { ApiDeps, App } from './app.ts';
import { callerOf, READ } from './auth.ts';
import { presentMetrics } from './present.ts';

/** What a VM has used of its host. */
export function metricsRoutes(app: App, { hatch }: Pick<ApiDeps, 'hatch'>): void {
  app.get(
    '/vms/:id/metrics',
    {
      config: { access: READ, errors: ['wrong_state', 'busy', 'vmm_failed', 'timeout'] },
      schema: {
        operationId: 'getVmMetrics',
        tags: ['Inside a VM'],
        summary: 'See what a running VM has used',
        description:
          'Processor time, memory, disk and network, counted by the host: nothing is asked of the guest. The counters begin anew ' +
          'when the VM is started.',
        params: VmParams,
        response: { 200: VmMetrics },
      },
    },
    async (request) => presentMetrics(await hatch.vms.metrics(callerOf(request), request.params.id)),
  );
}
