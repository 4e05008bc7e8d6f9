import { connect, type Socket } from 'node:net';
import { abortReason } from '../base/clock.ts';

/** Unix stream sockets (unix(7)), and one JSON object a line over them, as QMP speaks. */

/**
 * Connects to a unix socket. Rejects with the system's error, or the signal's reason when it aborts first. What breaks the
 * connection later closes it and ends nothing else, also before whoever asked for it listens.
 */
export function connectUnix(path: string, signal: AbortSignal): Promise<Socket> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(abortReason(signal));
    const socket = connect(path);
    const onAbort = (): void => {
      socket.destroy();
      reject(abortReason(signal));
    };
    signal.addEventListener('abort', onAbort, { once: true });
    socket.once('connect', () => {
      signal.removeEventListener('abort', onAbort);
      resolve(socket);
    });
    socket.on('error', (error) => {
      signal.removeEventListener('abort', onAbort);
      reject(error);
    });
  });
}

/** A line longer than this ends the connection: no peer of ours has anything that long to say. */
const MOST_LINE = 16 * 1024 * 1024;

/** Talks JSON lines over a socket until either side ends it. */
export class JsonLines {
  readonly #socket: Socket;
  #pending = '';
  /** Resolves once, when the connection has ended, with what ended it if anything did. */
  readonly closed: Promise<Error | undefined>;

  constructor(socket: Socket, onMessage: (message: unknown) => void) {
    this.#socket = socket;
    socket.setEncoding('utf8');
    let cause: Error | undefined;
    socket.on('data', (text: string) => {
      const lines = (this.#pending + text).split('\n');
      this.#pending = lines.pop() ?? '';
      if (this.#pending.length > MOST_LINE) socket.destroy(new Error('a line of the peer is too long'));
      for (const line of lines) {
        if (line.trim() === '') continue;
        try {
          onMessage(JSON.parse(line));
        } catch (error) {
          socket.destroy(new Error('the peer does not speak JSON', { cause: error }));
        }
      }
    });
    socket.on('error', (error) => (cause = error));
    this.closed = new Promise((resolve) => socket.once('close', () => resolve(cause)));
  }

  send(message: object): void {
    if (!this.#socket.destroyed) this.#socket.write(`${JSON.stringify(message)}\n`);
  }

  end(): void {
    this.#socket.destroy();
  }
}
