import { createServer, type Socket } from 'node:net';

/** A command as it came over the wire. */
export interface QmpCommand {
  readonly execute: string;
  readonly arguments: Readonly<Record<string, unknown>>;
  readonly id: unknown;
}

/** QEMU's side of its machine protocol, without a QEMU: it greets, and answers what it is told to. */
export interface QmpServer {
  /** All commands heard, in their order. */
  readonly heard: readonly QmpCommand[];
  /** What to answer; undefined: nothing. At first everything is answered with nothing in it. */
  answer: (command: QmpCommand) => object | undefined;
  /** Whether it greets whoever connects. */
  greets: boolean;
  /** How many are connected. */
  connected(): number;
  /** Says something to everybody: an object as a line, a text as it is. */
  say(message: object | string): void;
  /** Cuts every connection. */
  hangUp(): void;
  /** Resolves when everybody has gone. */
  alone(): Promise<void>;
  close(): void;
}

const GREETING = { QMP: { version: { qemu: { major: 7, minor: 2, micro: 0 } }, capabilities: ['oob'] } };

/** Listens on a unix socket until it is closed. */
export async function qmpServer(path: string): Promise<QmpServer> {
  const heard: QmpCommand[] = [];
  const sockets = new Set<Socket>();
  let onGone: () => void = () => undefined;
  const listener = createServer((socket) => {
    sockets.add(socket);
    socket.on('close', () => {
      sockets.delete(socket);
      onGone();
    });
    socket.on('error', () => undefined);
    if (server.greets) socket.write(line(GREETING));
    let pending = '';
    socket.setEncoding('utf8').on('data', (text: string) => {
      const lines = (pending + text).split('\n');
      pending = lines.pop() ?? '';
      for (const one of lines) {
        const command = JSON.parse(one) as QmpCommand;
        heard.push(command);
        const answer = server.answer(command);
        if (answer) socket.write(line({ ...answer, id: command.id }));
      }
    });
  });
  await new Promise<void>((resolve, reject) => listener.once('error', reject).listen(path, resolve));
  const server: QmpServer = {
    heard,
    answer: () => ({ return: {} }),
    greets: true,
    connected: () => sockets.size,
    say: (message) => {
      for (const socket of sockets) socket.write(typeof message === 'string' ? message : line(message));
    },
    hangUp: () => {
      for (const socket of sockets) socket.destroy();
    },
    alone: async () => {
      while (sockets.size > 0) await new Promise<void>((resolve) => (onGone = resolve));
    },
    close: () => {
      listener.close();
      server.hangUp();
    },
  };
  return server;
}

function line(message: object): string {
  return `${JSON.stringify(message)}\r\n`;
}
