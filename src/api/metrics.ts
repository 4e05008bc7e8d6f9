import { VmMetrics } from '../contract/metrics.ts';
import { VmParams } from '../contract/vm.ts';
import type { ApiDeps, App } from './app.ts';
import { callerOf, OPERATOR, READ } from './auth.ts';
import { METRICS_TYPE } from './meter.ts';
import { presentMetrics } from './present.ts';

/** What a VM has used of its host, and what the server has done. */
export function metricsRoutes(app: App, { hatch, meter }: Pick<ApiDeps, 'hatch' | 'meter'>): void {
  app.get(
    '/metrics',
    {
      config: { access: OPERATOR, text: 'The figures, in the text format of Prometheus.' },
      schema: {
        operationId: 'getMetrics',
        tags: ['Server'],
        summary: 'Figures of this server for Prometheus',
        description:
          'Requests, operations, wakes and sleeps since it started; VMs by their states, the memory and the disk of the host as they are.',
      },
    },
    async (_request, reply) => {
      reply.type(METRICS_TYPE);
      return reply.send(await meter.text());
    },
  );

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
