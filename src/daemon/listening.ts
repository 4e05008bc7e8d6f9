import { createServer, type Server } from 'node:net';
import { isErrno } from '../base/errno.ts';

/** An address and port of the host. */
export interface Place {
  readonly host: string;
  readonly port: number;
}

/** The settings that say where hatchd listens. */
export type ListenSetting = 'HATCH_HTTP_ADDR' | 'HATCH_PROXY_ADDR' | 'HATCH_METRICS_ADDR';

/** Why nothing can listen where a setting says, in a sentence that says what to do. */
export function whyNotListening(setting: ListenSetting, { host, port }: Place, error: unknown): string {
  const place = `${setting} ${host.includes(':') ? `[${host}]` : host}:${port}`;
  if (isErrno(error, 'EADDRINUSE'))
    return `${place} is used by another program; stop that one, or choose another port.`;
  if (isErrno(error, 'EADDRNOTAVAIL'))
    return `${place} is no address of this host; \`ip address\` shows those it has.`;
  if (isErrno(error, 'ENOTFOUND') || isErrno(error, 'EAI_AGAIN'))
    return `${place} names no host that is known here; give an IP address.`;
  if (isErrno(error, 'EACCES'))
    return `${place} needs a right this user does not have; run hatchd as root, or choose a port above 1023.`;
  return `${place} cannot be listened on: ${error instanceof Error ? error.message : String(error)}.`;
}

/** Has a server listen there, and no other program; resolves when it does. Throws in a sentence when it cannot. */
export async function listen(server: Server, setting: ListenSetting, place: Place): Promise<void> {
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen({ ...place, exclusive: true }, () => {
        server.off('error', reject);
        resolve();
      });
    });
  } catch (error) {
    throw new Error(whyNotListening(setting, place, error), { cause: error });
  }
}

/** Listens for a moment; gives the place, its port chosen where that is 0. Throws in a sentence when nothing can listen there. */
export async function freePlace(setting: ListenSetting, place: Place): Promise<Place> {
  const server = createServer();
  try {
    await listen(server, setting, place);
    const address = server.address();
    return { ...place, port: typeof address === 'object' && address ? address.port : place.port };
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
}

/** Listens for a moment; gives the sentence why that cannot be, undefined when it can. */
export async function tryListening(setting: ListenSetting, place: Place): Promise<string | undefined> {
  return freePlace(setting, place).then(
    () => undefined,
    (error: unknown) => (error instanceof Error ? error.message : String(error)),
  );
}
