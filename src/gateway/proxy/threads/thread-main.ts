import { parentPort, workerData, type MessagePort } from 'node:worker_threads';
import { systemClock } from '../../../base/clock.ts';
import { errorFields, type Logger } from '../../../base/logger.ts';
import type { Certificate, Door } from '../door.ts';
import { openProxy } from '../proxy.ts';
import { RemoteVisits } from './remote-visits.ts';
import type { FromThread, ThreadData, ToThread } from './messages.ts';

/** The program of one thread of the proxy (threads.ts): a door of its own at the port all of them have. `data`: as threads.ts gives it. */
function main(port: MessagePort, { options, place, edition }: ThreadData): void {
  const tell = (message: FromThread): void => port.postMessage(message);
  const log = logging(tell);
  const visits = new RemoteVisits({ tell, clock: systemClock, edition });
  const door = openProxy({ visits, log, clock: systemClock }, options);

  port.on('message', (message: ToThread) => {
    switch (message.kind) {
      case 'renew':
        return tell({ kind: 'renewed', id: message.id, wrong: renew(door, message.certificate) });
      case 'close':
        door.close();
        return tell({ kind: 'closed' });
      default:
        visits.hear(message);
    }
  });

  let listens = false;
  door.server.on('error', (error: NodeJS.ErrnoException) => {
    if (listens) log.warn(errorFields(error), 'could not take a connection');
    else tell({ kind: 'not_listening', message: error.message, code: error.code });
  });
  door.server.listen({ ...place, reusePort: true }, () => {
    listens = true;
    tell({ kind: 'listening' });
  });
}

/** A logger whose warnings and errors are told to hatchd, which writes them. */
function logging(tell: (message: FromThread) => void, more: object = {}): Logger {
  return {
    debug: () => undefined,
    info: () => undefined,
    warn: (fields, message) => tell({ kind: 'log', level: 'warn', fields: { ...more, ...fields }, message }),
    error: (fields, message) =>
      tell({ kind: 'log', level: 'error', fields: { ...more, ...fields }, message }),
    child: (fields) => logging(tell, { ...more, ...fields }),
  };
}

/** Gives a door another certificate; what is wrong with it, where something is. */
function renew(door: Door, certificate: Certificate): string | undefined {
  try {
    door.renew(certificate);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

// Who imports it into the main thread only wants it compiled.
if (parentPort) main(parentPort, workerData as ThreadData);
