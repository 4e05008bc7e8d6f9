import { Readable } from 'node:stream';
import { errorFields } from '../base/logger.ts';
import { ConsoleQuery, VmParams } from '../contract/vm.ts';
import type { ApiDeps, App } from './app.ts';
import { callerOf, READ } from './auth.ts';
import type { Streams } from './lifecycle.ts';

const DEFAULT_TAIL_BYTES = 65_536;

/** A VM's serial console, as text. */
export function consoleRoutes(
  app: App,
  { hatch, log, streams }: Pick<ApiDeps, 'hatch' | 'log'> & { readonly streams: Streams },
): void {
  app.get(
    '/vms/:id/console',
    {
      config: { access: READ, text: 'What the guest wrote to its serial console.' },
      schema: {
        operationId: 'getVmConsole',
        tags: ['Inside a VM'],
        summary: 'Read the serial console',
        description: 'The last `tail` bytes; with `follow=true` also what comes, until the caller hangs up.',
        params: VmParams,
        querystring: ConsoleQuery,
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { id } = request.params;
      const { tail = DEFAULT_TAIL_BYTES, follow = false } = request.query;
      const start = await hatch.vms.console(caller, id, tail);
      reply.type('text/plain; charset=utf-8');
      if (!follow || request.method === 'HEAD') return reply.send(start.text);

      const signal = streams.begin(reply);
      const text = async function* (): AsyncGenerator<string> {
        // The head of the answer leaves at once, also while the guest is silent.
        reply.raw.flushHeaders();
        if (start.text !== '') yield start.text;
        try {
          for await (const more of hatch.vms.followConsole(caller, id, start.offset, signal)) {
            if (signal.aborted) return;
            if (more !== '') yield more;
          }
        } catch (error) {
          // An aborted stream ends as one that has nothing more; a broken one is cut off, for the caller to notice.
          if (signal.aborted) return;
          log.warn({ request_id: request.id, vm: id, ...errorFields(error) }, 'console stream broke');
          throw error;
        }
      };
      return reply.send(Readable.from(text(), { objectMode: false }));
    },
  );
}
