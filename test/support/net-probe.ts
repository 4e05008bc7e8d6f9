import { createSocket } from 'node:dgram';
import { connect, createServer, type Socket } from 'node:net';
import { randomBytes } from 'node:crypto';
import { createInterface } from 'node:readline';

/**
 * What a guest or a host on the internet does in tests of the network, run by Node inside a namespace. Each command prints JSON
 * lines. `serve PORT...`: TCP and UDP on every address, answers with who asked. `tcp IP PORT MS` and `udp IP PORT MS`: what was
 * answered, or null. `hold IP PORT`: sends each line of its input on one connection, prints each answer. `dhcp MAC MS`: asks for
 * an address under that hardware address; the offer that was acknowledged, or null. `decline MAC IP`: refuses an address.
 */
const [command, ...args] = process.argv.slice(2);
const say = (value: unknown): void => console.log(JSON.stringify(value));

async function serve(port: number): Promise<void> {
  const answer = (socket: Socket): void => {
    socket.on('error', () => undefined);
    socket.on('data', (data) => socket.write(`${socket.remoteAddress} said ${data.toString()}`));
  };
  await new Promise<void>((resolve) => createServer(answer).listen(port, '0.0.0.0', resolve));
  const udp = createSocket('udp4');
  udp.on('message', (data, from) =>
    udp.send(`${from.address} said ${data.toString()}`, from.port, from.address),
  );
  await new Promise<void>((resolve) => udp.bind(port, '0.0.0.0', resolve));
}

function askTcp(host: string, port: number, ms: number): Promise<string | null> {
  return new Promise((resolve) => {
    const socket = connect({ host, port });
    setTimeout(() => resolve(null), ms);
    socket.on('error', () => resolve(null));
    socket.on('connect', () => socket.write('hello\n'));
    socket.on('data', (data) => resolve(data.toString().trim()));
  });
}

function askUdp(host: string, port: number, ms: number): Promise<string | null> {
  return new Promise((resolve) => {
    const socket = createSocket('udp4');
    setTimeout(() => resolve(null), ms);
    socket.on('error', () => resolve(null));
    socket.on('message', (data) => resolve(data.toString().trim()));
    socket.send('hello\n', port, host);
  });
}

function hold(host: string, port: number): void {
  const socket = connect({ host, port });
  socket.on('connect', () => say('ready'));
  socket.on('data', (data) => say(data.toString().trim()));
  socket.on('error', (error) => {
    say({ error: error.message });
    process.exit(1);
  });
  createInterface({ input: process.stdin }).on('line', (line) => socket.write(`${line}\n`));
}

/** DHCP messages (RFC 2131): 236 bytes, the magic cookie, options. */
const COOKIE = Buffer.from([99, 130, 83, 99]);
const [DISCOVER, REQUEST, DECLINE] = [1, 3, 4];

function message(kind: number, xid: Buffer, mac: string, options: readonly [number, Buffer][]): Buffer {
  const head = Buffer.alloc(236);
  head.set([1, 1, 6, 0], 0);
  head.set(xid, 4);
  // Answers come as broadcasts: without an address the kernel would not hand us others.
  head.writeUInt16BE(0x8000, 10);
  head.set(Buffer.from(mac.replaceAll(':', ''), 'hex'), 28);
  const coded = [[53, Buffer.from([kind])] as const, ...options].map(([code, value]) =>
    Buffer.concat([Buffer.from([code, value.length]), value]),
  );
  return Buffer.concat([head, COOKIE, ...coded, Buffer.from([255])]);
}

function optionsOf(data: Buffer): Map<number, Buffer> {
  const found = new Map<number, Buffer>();
  for (let at = 240; at < data.length && data[at] !== 255;) {
    const length = data[at + 1] ?? 0;
    found.set(data[at] ?? 0, data.subarray(at + 2, at + 2 + length));
    at += 2 + length;
  }
  return found;
}

const dotted = (bytes: Uint8Array | undefined): string | null => (bytes ? [...bytes].join('.') : null);

function lease(mac: string, ms: number): Promise<object | null> {
  return new Promise((resolve) => {
    const socket = createSocket('udp4');
    const xid = randomBytes(4);
    setTimeout(() => resolve(null), ms);
    socket.on('message', (data) => {
      if (data.compare(xid, 0, 4, 4, 8) !== 0) return;
      const options = optionsOf(data);
      const [kind] = options.get(53) ?? [];
      const server = options.get(54) ?? Buffer.alloc(4);
      if (kind === 2) {
        const ask = message(REQUEST, xid, mac, [
          [50, data.subarray(16, 20)],
          [54, server],
        ]);
        socket.send(ask, 67, '255.255.255.255');
      } else if (kind === 5) {
        resolve({
          ip: dotted(data.subarray(16, 20)),
          router: dotted(options.get(3)),
          mask: dotted(options.get(1)),
          dns: dotted(options.get(6)),
          server: dotted(server),
        });
      }
    });
    socket.bind(68, '0.0.0.0', () => {
      socket.setBroadcast(true);
      socket.send(message(DISCOVER, xid, mac, [[55, Buffer.from([1, 3, 6])]]), 67, '255.255.255.255');
    });
  });
}

function decline(mac: string, ip: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = createSocket('udp4');
    const address = Buffer.from(ip.split('.').map(Number));
    const options: [number, Buffer][] = [
      [50, address],
      [54, Buffer.from([192, 168, 241, 1])],
    ];
    socket.bind(68, '0.0.0.0', () => {
      socket.setBroadcast(true);
      socket.send(message(DECLINE, randomBytes(4), mac, options), 67, '255.255.255.255', (error) =>
        error ? reject(error) : resolve(),
      );
    });
  });
}

switch (command) {
  case 'serve':
    await Promise.all(args.map((port) => serve(Number(port))));
    say('ready');
    break;
  case 'tcp':
    say(await askTcp(args[0] ?? '', Number(args[1]), Number(args[2])));
    process.exit(0);
  // falls through: process.exit does not return
  case 'udp':
    say(await askUdp(args[0] ?? '', Number(args[1]), Number(args[2])));
    process.exit(0);
  // falls through: process.exit does not return
  case 'hold':
    hold(args[0] ?? '', Number(args[1]));
    break;
  case 'dhcp':
    say(await lease(args[0] ?? '', Number(args[1])));
    process.exit(0);
  // falls through: process.exit does not return
  case 'decline':
    await decline(args[0] ?? '', args[1] ?? '');
    process.exit(0);
  // falls through: process.exit does not return
  default:
    throw new Error(`unknown command ${command}`);
}
