import { isErrno } from '../../base/errno.ts';
import { systemClock } from '../../base/clock.ts';
import { until } from '../../base/until.ts';
import { isAlive } from '../../host/process.ts';
import type { VmmProcess } from '../../model/vm.ts';
import { VmmError } from '../driver.ts';
import { socketPath } from '../processes.ts';
import { EVENTS_SOCKET, QMP_SOCKET } from './command-line.ts';
import { Qmp, type QmpEvent } from './qmp.ts';

/** The ways to speak with a QEMU that runs. */
export interface Monitors {
  /** Gives what the command returns. Throws VmmError. */
  execute(command: string, args?: Readonly<Record<string, unknown>>): Promise<unknown>;
  /** Hears every event from the connection's first moment on; to be called once. */
  listen(onEvent: (event: QmpEvent) => void): void;
  /** Resolves when QEMU has ended, after its last event was heard; also after `close`. */
  readonly closed: Promise<void>;
  /** Ends the connections; QEMU goes on. */
  close(): void;
}

/**
 * Connects to a QEMU as soon as it listens. Two connections: what is written to a socket whose other end has just closed
 * breaks it, and what had come in and was not yet read is lost (write(2), EPIPE). A question in the moment of QEMU's end would
 * so lose the SHUTDOWN event that says why it ended; on the connection for events nothing is asked.
 */
export async function connectMonitors(process: VmmProcess, signal: AbortSignal): Promise<Monitors> {
  const early: QmpEvent[] = [];
  let hear = (event: QmpEvent): void => void early.push(event);
  const giveUp = new AbortController();
  const either = AbortSignal.any([signal, giveUp.signal]);
  const opening = [
    connectWhenThere(process, QMP_SOCKET, () => undefined, either),
    connectWhenThere(process, EVENTS_SOCKET, (event) => hear(event), either),
  ] as const;
  let asked: Qmp, heard: Qmp;
  try {
    [asked, heard] = await Promise.all(opening);
  } catch (error) {
    giveUp.abort(error);
    for (const one of await Promise.allSettled(opening)) if (one.status === 'fulfilled') one.value.close();
    throw error;
  }
  return {
    execute: (command, args) => asked.execute(command, args),
    listen: (onEvent) => {
      hear = onEvent;
      for (const event of early.splice(0)) onEvent(event);
    },
    closed: heard.closed,
    close: () => {
      asked.close();
      heard.close();
    },
  };
}

function connectWhenThere(
  process: VmmProcess,
  name: string,
  onEvent: (event: QmpEvent) => void,
  signal: AbortSignal,
): Promise<Qmp> {
  return until(
    { clock: systemClock, signal },
    async () => {
      try {
        return await Qmp.connect(socketPath(process, name), onEvent, signal);
      } catch (error) {
        // Not there yet, not listening yet, or too many before us who gave up and whom QEMU has not yet seen off (EAGAIN).
        if (!['ENOENT', 'ECONNREFUSED', 'EAGAIN'].some((code) => isErrno(error, code))) throw error;
        if (!(await isAlive(process))) throw new VmmError('QEMU has ended', { cause: error });
        return undefined;
      }
    },
    { firstMs: 2, mostMs: 5 },
  );
}
