import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

/**
 * `silent-crowd.ts PORT COUNT [WORDS]`, with a channel to its parent: opens so many connections to a port of 127.0.0.1 and says nothing on
 * any of them, or these words and nothing more. When all were taken, and for each message from then on, it sends `{open}`: how many of them the other side has left open.
 */
const [port = '', count = '', words = ''] = process.argv.slice(2);
/** A listener has so many wait to be taken, and a little more. */
const AT_ONCE = 200;

const open = new Set<Socket>();
for (let opened = 0; opened < Number(count); opened += AT_ONCE)
  await Promise.all(
    Array.from({ length: Math.min(AT_ONCE, Number(count) - opened) }, async () => {
      const socket = connect(Number(port), '127.0.0.1');
      open.add(socket);
      socket.once('close', () => open.delete(socket));
      await once(socket, 'connect');
      // Reset, most of them.
      socket.on('error', () => undefined);
      socket.resume();
      if (words !== '') socket.write(words);
    }),
  );
process.on('message', () => process.send?.({ open: open.size }));
process.send?.({ open: open.size });
