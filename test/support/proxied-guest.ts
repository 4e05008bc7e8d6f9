import { once } from 'node:events';
import {
  createServer,
  request as ask,
  type IncomingMessage,
  type RequestOptions,
  type Server,
  type ServerResponse,
} from 'node:http';
import { connect, type AddressInfo, type Server as NetServer, type Socket } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import { systemClock } from '../../src/base/clock.ts';
import { newId, type VmId } from '../../src/base/ids.ts';
import { silent } from '../../src/base/logger.ts';
import type { Door } from '../../src/gateway/proxy/door.ts';
import { openProxy, type ProxyOptions } from '../../src/gateway/proxy/proxy.ts';
import { ActivityTracker } from '../../src/ops/activity.ts';
import type { GuestLife } from '../../src/ops/guest-lives.ts';
import type { Arrival, Visit, Visits } from '../../src/ops/visits.ts';
import type { Route } from '../../src/model/route.ts';

export type Handler = (request: IncomingMessage, response: ServerResponse) => void;
export type Arrive = Visits['arrive'];

export interface Got {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly trailers: IncomingMessage['trailers'];
  readonly body: string;
}

/** The proxy over real sockets, in front of a guest that is a server of the test's own: `web.hatch.localhost` and `shop.example.com`. */
export interface ProxiedGuest {
  readonly vmId: VmId;
  /** Who uses the guest's VM. */
  readonly activity: ActivityTracker;
  readonly door: Door;
  /** Where the proxy listens, at 127.0.0.1. */
  readonly port: number;
  readonly guest: Server;
  /** The requests the guest has seen. */
  readonly seen: IncomingMessage[];
  /** What the guest answers with. */
  handle: Handler;
  /** How its VM is found. */
  arrive: Arrive;
  /** The guest's port; another server of the test's may be put in its place. */
  targetPort: number;
  /** The life of the guest; ended by `end`, and followed by another. */
  life: GuestLife & { end(): void };
  /** A visit that has come, and counts as a use. */
  arrived(by: Visit['by'], wokenMs?: number): Arrival;
  /** Sends a request and gives its whole answer. */
  get(path: string, options?: RequestOptions & { readonly body?: string | Buffer }): Promise<Got>;
  /** What a request that is sent by hand needs besides its path. */
  sending(more?: RequestOptions): RequestOptions;
  /** Sends these bytes and gives all that comes back until the connection ends. */
  raw(bytes: string): Promise<string>;
  /** Resolves when nobody uses the VM any more; rejects when that is not soon. */
  unused(): Promise<void>;
  close(): void;
}

/** Opens both; `closed.hatch.localhost` leads to a port nobody listens at, other names to nothing. */
export async function openProxiedGuest(more: Partial<ProxyOptions> = {}): Promise<ProxiedGuest> {
  const vmId = newId('vm');
  const activity = new ActivityTracker({ clock: systemClock });
  const seen: IncomingMessage[] = [];
  const guest = createServer((request, response) => {
    seen.push(request);
    opened.handle(request, response);
  });
  await listening(guest);
  const deaf = createServer();
  await listening(deaf);
  const closed = portOf(deaf);
  deaf.close();
  const visits = {
    known: ({ subdomain }: { subdomain: string | null }) =>
      subdomain === 'web' ? routeOf(vmId, opened.targetPort) : undefined,
    arriveAtOnce: (_route: Route, { by }: Visit) => (opened.arrive === running ? arrived(by) : undefined),
    find: async ({ subdomain, domain }: { subdomain: string | null; domain: string | null }) =>
      subdomain === 'web' || domain === 'shop.example.com'
        ? routeOf(vmId, opened.targetPort)
        : subdomain === 'closed'
          ? routeOf(vmId, closed)
          : null,
    arrive: (...how: Parameters<Arrive>) => opened.arrive(...how),
  } as unknown as Visits;
  const door = openProxy(
    { visits, log: silent, clock: systemClock },
    { baseDomain: 'hatch.localhost', wakeTimeoutMs: 3000, trustedProxies: ['127.0.0.2/32'], ...more },
  );
  await listening(door.server);
  const port = portOf(door.server);
  const arrived: ProxiedGuest['arrived'] = (by, wokenMs) => ({
    ip: '127.0.0.1',
    wokenMs,
    use: activity.begin(vmId, by),
    life: opened.life,
  });
  const sending: ProxiedGuest['sending'] = ({ headers, ...more } = {}) => ({
    host: '127.0.0.1',
    port,
    agent: false,
    headers: { host: 'web.hatch.localhost', ...(headers as Record<string, string>) },
    ...more,
  });
  const running: Arrive = async (_route, { by }) => arrived(by);
  const opened: ProxiedGuest = {
    vmId,
    activity,
    door,
    port,
    guest,
    seen,
    handle: (_request, response) => response.end('fine'),
    arrive: running,
    targetPort: portOf(guest),
    life: newLife(),
    arrived,
    sending,
    get: async (path, { body, ...options } = {}) => {
      const sent = ask(sending({ path, ...options }));
      sent.end(body);
      const [answer] = (await once(sent, 'response')) as [IncomingMessage];
      answer.setEncoding('latin1');
      let text = '';
      for await (const piece of answer) text += piece as string;
      return {
        status: answer.statusCode ?? 0,
        headers: answer.headers,
        trailers: answer.trailers,
        body: text,
      };
    },
    raw: async (bytes) => {
      const socket = connect(port, '127.0.0.1');
      socket.write(bytes, 'latin1');
      return allOf(socket);
    },
    unused: async () => {
      const within = AbortSignal.timeout(5000);
      while (activity.of(vmId).open.length > 0) {
        within.throwIfAborted();
        await setImmediate();
      }
    },
    close: () => {
      door.close();
      guest.close();
      guest.closeAllConnections();
    },
  };
  return opened;
}

/** Resolves when a server listens at a free port of 127.0.0.1. */
export function listening(server: NetServer): Promise<unknown> {
  server.listen(0, '127.0.0.1');
  return once(server, 'listening');
}

export function portOf(server: NetServer): number {
  return (server.address() as AddressInfo).port;
}

/** All that comes from a socket until it closes. */
export async function allOf(socket: Socket): Promise<string> {
  let said = '';
  socket.setEncoding('latin1').on('data', (piece: string) => (said += piece));
  socket.on('error', () => undefined);
  await once(socket, 'close', { signal: AbortSignal.timeout(10_000) });
  return said;
}

/** The life of a guest that has just begun. */
export function newLife(): GuestLife & { end(): void } {
  const done: (() => void)[] = [];
  const life = {
    isOver: false,
    hasMachine: true,
    whenOver: (what: () => void) => void done.push(what),
    end: () => {
      life.isOver = true;
      for (const one of done) one();
    },
  };
  return life;
}

function routeOf(vmId: VmId, targetPort: number): Route {
  return {
    id: newId('rt'),
    accountId: newId('acct'),
    vmId,
    subdomain: 'web',
    domain: null,
    targetPort,
    autoWake: true,
    wake: { methods: ['GET', 'POST'] },
    createdAt: 0,
    updatedAt: 0,
  };
}
