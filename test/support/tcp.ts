import { once } from 'node:events';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';

/** Servers and sockets on loopback, all of which (127/8) is this machine's. */

/** A guest's port 22, played on a loopback address of its own. */
export interface PlayedGuest {
  readonly ip: string;
  readonly port: number;
  /** The next connection that reaches it. */
  next(): Promise<Socket>;
  readonly seen: readonly Socket[];
  close(): Promise<void>;
}

/** Listens as a guest would; port 0: any that is free. */
export async function playGuest(ip: string, port = 0): Promise<PlayedGuest> {
  const seen: Socket[] = [];
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => undefined);
    seen.push(socket);
  });
  const at = await listening(server, ip, port);
  return {
    ip,
    port: at,
    seen,
    next: async () => ((await once(server, 'connection')) as [Socket])[0],
    close: () => {
      for (const socket of seen) socket.destroy();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}

/** Has a server listen and gives its port. */
export async function listening(server: Server, host: string, port: number): Promise<number> {
  server.listen({ host, port });
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
}

/** A port nobody listens on at the moment. */
export async function freePort(): Promise<number> {
  const server = createServer();
  const port = await listening(server, '127.0.0.1', 0);
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** All that a socket hears until the other side ends, leaving it open for what it has to say itself. */
export async function hear(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  if (!socket.readableEnded) await once(socket, 'end');
  return Buffer.concat(chunks);
}

/** Resolves when a socket is closed, however it came to that. */
export function gone(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    if (socket.closed) resolve();
    else socket.resume().once('close', () => resolve());
  });
}

/** The next that a socket hears. */
export async function oneChunk(socket: Socket): Promise<string> {
  const [chunk] = (await once(socket, 'data')) as [Buffer];
  return chunk.toString();
}

/** Lets everyone run who has something to do, until it is so; throws when it is not after ten seconds. */
export async function turnsUntil(is: () => boolean | Promise<boolean>): Promise<void> {
  const signal = AbortSignal.timeout(10_000);
  while (!(await is())) {
    signal.throwIfAborted();
    await new Promise((resolve) => setImmediate(resolve));
  }
}
