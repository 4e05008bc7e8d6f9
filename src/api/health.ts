import { Health, Ready } from '../contract/health.ts';
import { Failure } from '../model/failure.ts';
import type { ApiDeps, App } from './app.ts';

/** Whether the process lives, and whether the host can serve. Both are open, for whatever watches the server. */
export function healthRoutes(app: App, { hatch, version }: Pick<ApiDeps, 'hatch' | 'version'>): void {
  app.get(
    '/healthz',
    {
      config: { access: 'open' },
      schema: {
        operationId: 'getHealth',
        tags: ['Server'],
        summary: 'Whether the process lives',
        response: { 200: Health },
      },
    },
    async () => ({ status: 'ok' as const, version }),
  );
  app.get(
    '/readyz',
    {
      config: { access: 'open' },
      schema: {
        operationId: 'getReadiness',
        tags: ['Server'],
        summary: 'Whether the host can serve',
        description:
          'Says 503 with what is missing, in `details.missing`, until store, network and hypervisor are usable.',
        response: { 200: Ready },
      },
    },
    async () => {
      const missing = await hatch.readiness();
      if (missing.length > 0)
        throw new Failure('unavailable', `Not ready: ${missing.map(({ problem }) => problem).join(' ')}`, {
          details: { missing },
        });
      return { status: 'ready' as const };
    },
  );
}
