import { parentPort, workerData } from 'node:worker_threads';
import { systemClock } from '../../../base/clock.ts';
import { errorFields, type Logger } from '../../../base/logger.ts';
import { openProxy } from '../proxy.ts';
import { RemoteVisits } from './remote-visits.ts';
import type { FromThread, ThreadData, ToThread } from './messages.ts';

/** The program of one thread of the proxy (threads.ts): a door of its own at the port all of them have. */
const port = parentPort;
if (!port) throw new Error('this is a thread of hatchd');
// As threads.ts gives it.
const { options, place, edition } = workerData as ThreadData;
const tell = (message: FromThread): void => port.postMessage(message);

const logging = (more: object): Logger => ({
  debug: () => undefined,
  info: () => undefined,
  warn: (fields, message) => tell({ kind: 'log', level: 'warn', fields: { ...more, ...fields }, message }),
  error: (fields, message) => tell({ kind: 'log', level: 'error', fields: { ...more, ...fields }, message }),
  child: (fields) => logging({ ...more, ...fields }),
});
const log = logging({});
const visits = new RemoteVisits({ tell, clock: systemClock, edition });
const door = openProxy({ visits, log, clock: systemClock }, options);

port.on('message', (message: ToThread) => {
  switch (message.kind) {
    case 'renew':
      return renew(message);
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

function renew({ id, certificate }: Extract<ToThread, { readonly kind: 'renew' }>): void {
  let wrong: string | undefined;
  try {
    door.renew(certificate);
  } catch (error) {
    wrong = error instanceof Error ? error.message : String(error);
  }
  tell({ kind: 'renewed', id, wrong });
}
