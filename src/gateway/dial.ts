import { once } from 'node:events';
import { connect, type Socket, type TcpNetConnectOpts } from 'node:net';

/** Connects to a port of a guest. Rejects with the system's error, or the signal's reason when it aborts first; then nothing is left. */
export async function dial(
  to: Pick<TcpNetConnectOpts, 'host' | 'port' | 'allowHalfOpen' | 'noDelay'>,
  signal: AbortSignal,
): Promise<Socket> {
  const socket = connect(to);
  socket.on('error', () => undefined);
  try {
    await once(socket, 'connect', { signal });
    return socket;
  } catch (error) {
    socket.destroy();
    throw signal.aborted ? signal.reason : error;
  }
}
