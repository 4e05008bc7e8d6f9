import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

/**
 * What happens to a connection: passed on; passed on and cut after so many bytes in one direction; answered with these bytes at
 * once the request's head is there; or taken and never answered.
 */
export type Fate =
  | 'pass'
  | 'silent'
  | { readonly cut: 'sent' | 'received'; readonly after: number }
  | { readonly answer: string };

/** A TCP proxy on loopback in front of a server, that treats each connection as the test wants. */
export interface TcpFront {
  readonly url: string;
  /** Connections that came so far. */
  readonly seen: number;
  /** The next connections' fates, one after the other; then `always`. */
  treat(always: Fate, ...first: readonly Fate[]): void;
  close(): Promise<void>;
}

/** Opens it in front of a port of loopback. */
export async function openTcpFront(port: number): Promise<TcpFront> {
  const sockets = new Set<Socket>();
  let fates: Fate[] = [];
  let rest: Fate = 'pass';
  let seen = 0;
  const keep = (socket: Socket): Socket => {
    sockets.add(socket);
    socket.on('error', () => socket.destroy());
    return socket.on('close', () => sockets.delete(socket));
  };
  const server = createServer((inner) => {
    keep(inner);
    seen += 1;
    const fate = fates.shift() ?? rest;
    if (fate === 'silent') return void inner.resume();
    if (typeof fate === 'object' && 'answer' in fate)
      return void inner.once('data', () => inner.end(fate.answer));
    const outer = keep(connect(port, '127.0.0.1'));
    inner.on('close', () => outer.destroy());
    outer.on('close', () => inner.destroy());
    inner.pipe(outer).pipe(inner);
    if (fate === 'pass') return;
    let count = 0;
    (fate.cut === 'sent' ? inner : outer).on('data', (piece: Buffer) => {
      count += piece.length;
      if (count >= fate.after) inner.destroy();
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port: own } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${own}`,
    get seen() {
      return seen;
    },
    treat(always, ...first) {
      rest = always;
      fates = [...first];
    },
    close: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}
