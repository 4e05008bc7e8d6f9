import { errorFields, type Logger } from '../base/logger.ts';
import { createServer } from '../base/node-http.ts';
import { METRICS_TYPE, type Meter } from '../api/meter.ts';
import type { Values } from './config.ts';
import { listen } from './listening.ts';
import type { Shutdown } from './shutdown.ts';

/** Prometheus asks each of its targets every so many seconds, one after the other. */
const MOST_CONNECTIONS = 100;

/** Serves `/metrics` without a key where HATCH_METRICS_ADDR says, if it does. Throws in a sentence when nothing can listen there. */
export async function listenForMetrics(
  { HATCH_METRICS_ADDR: place }: Pick<Values, 'HATCH_METRICS_ADDR'>,
  { meter, log }: { readonly meter: Pick<Meter, 'text'>; readonly log: Logger },
  shutdown: Shutdown,
): Promise<void> {
  if (place === undefined) return;
  const server = createServer((request, response) => {
    const end = (status: number, text: string, type = 'text/plain; charset=utf-8'): void => {
      response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(text) });
      response.end(request.method === 'HEAD' ? undefined : text);
    };
    if (request.url?.split('?', 1)[0] !== '/metrics') return end(404, 'Only /metrics is here.\n');
    if (request.method !== 'GET' && request.method !== 'HEAD') return end(405, 'Only GET is taken here.\n');
    meter.text().then(
      (text) => end(200, text, METRICS_TYPE),
      (error: unknown) => {
        log.error(errorFields(error), 'could not tell the figures');
        end(500, 'The figures could not be told; the log says why.\n');
      },
    );
  });
  server.maxConnections = MOST_CONNECTIONS;
  await listen(server, 'HATCH_METRICS_ADDR', place);
  server.on('error', (error) => log.warn(errorFields(error), 'could not take a connection'));
  shutdown.add('metrics', async () => {
    server.close();
    server.closeAllConnections();
  });
  log.info({ addr: `${place.host}:${place.port}` }, 'figures for Prometheus are told');
}
