import { once } from 'node:events';
import { request, type IncomingMessage } from 'node:http';
import { connect } from 'node:net';

const TIMEOUT_MS = 60_000;

export interface FirstByte {
  /** From before the connection was made, in milliseconds. */
  readonly ms: number;
  /** How long the proxy says that it waited for the wake, in milliseconds; undefined: it did not, or there was none. */
  readonly wakeMs: number | undefined;
}

/** The first word of an answer over a connection of its own. Throws unless all of it is a page. */
export async function firstByteOfPage(
  at: { readonly host: string; readonly port: number },
  name = at.host,
): Promise<FirstByte> {
  const from = performance.now();
  const asked = request({ ...at, headers: { host: name }, agent: false, timeout: TIMEOUT_MS });
  asked.on('timeout', () => asked.destroy(new Error(`${name} did not answer in ${TIMEOUT_MS} ms`)));
  asked.end();
  const [answer] = (await once(asked, 'response')) as [IncomingMessage];
  const ms = performance.now() - from;
  const page = (await answer.setEncoding('utf8').toArray()).join('');
  if (answer.statusCode !== 200) throw new Error(`${name} answered ${answer.statusCode ?? 0}: ${page}`);
  const said = answer.headers['hatch-wake-ms'];
  return { ms, wakeMs: said === undefined ? undefined : Number(said) };
}

/** The first word of an SSH server, to a client that says its own at once, as OpenSSH's does. */
export async function firstByteOfSsh(at: {
  readonly host: string;
  readonly port: number;
}): Promise<FirstByte> {
  const from = performance.now();
  const socket = connect(at);
  try {
    socket.write('SSH-2.0-bench\r\n');
    const [said] = (await once(socket, 'data', { signal: AbortSignal.timeout(TIMEOUT_MS) })) as [Buffer];
    const ms = performance.now() - from;
    if (!said.toString('latin1').startsWith('SSH-2.0-'))
      throw new Error(`an SSH server said: ${said.toString()}`);
    return { ms, wakeMs: undefined };
  } finally {
    socket.destroy();
  }
}
