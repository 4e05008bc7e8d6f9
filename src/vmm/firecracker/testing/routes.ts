import { bodiesOf, type Bodies } from './bodies.ts';
import { Refused, type Call } from './calls.ts';
import { SerdeError } from './json-text.ts';
import { read, type Shape } from './shape.ts';
import type { Version } from './versions.ts';

export interface HttpRequest {
  readonly method: 'GET' | 'PUT' | 'PATCH' | 'DELETE';
  readonly path: string;
  /** undefined where it has none, which is not the same as an empty one. */
  readonly body: string | undefined;
}

/** A call, and whether it used what is deprecated. */
export interface Parsed {
  readonly call: Call;
  readonly deprecated: boolean;
}

/** The parse layer of a release's API: reads requests before any state is looked at. What it gives throws Refused. */
export function parserOf(version: Version): (request: HttpRequest) => Parsed {
  const bodies = bodiesOf(version);
  return (request) => {
    try {
      return parse(request, bodies, version);
    } catch (error) {
      if (error instanceof SerdeError) throw deserializing(error.message);
      throw error;
    }
  };
}

function deserializing(message: string): Refused {
  return new Refused(`An error occurred when deserializing the json body of a request: ${message}.`);
}

const EMPTY = {
  GET: 'GET request cannot have a body.',
  PUT: 'Empty PUT request.',
  PATCH: 'Empty PATCH request.',
  DELETE: 'Empty Delete request.',
} as const;

function parse(request: HttpRequest, bodies: Bodies, version: Version): Parsed {
  const { method, body } = request;
  const tokens = request.path.replace(/^\/+/, '').split('/');
  if (tokens.at(-1) === '') tokens.pop();
  const [path = '', second] = tokens;
  const unknown = (): Refused => new Refused(`Invalid request method and/or path: ${method} ${path}.`);
  const known = KNOWN[method];
  const exists = known.includes(path) && !(!version.has14 && NEW_IN_14.includes(path));
  switch (method) {
    case 'GET': {
      if (body !== undefined) throw new Refused(EMPTY.GET);
      if (!exists) throw unknown();
      return plainCall(get(path, tokens, unknown));
    }
    case 'DELETE':
      if (body !== undefined) throw new Refused(EMPTY.DELETE);
      if (!exists || !version.has16) throw unknown();
      return plainCall({ name: 'delete', kind: deviceOf(path), id: checkedId(second) });
    case 'PUT':
      if (body === undefined) throw new Refused(EMPTY.PUT);
      if (!exists) throw unknown();
      return put(path, second, body, bodies, unknown);
    case 'PATCH':
      if (body === undefined && path !== 'balloon') throw new Refused(EMPTY.PATCH);
      if (!exists) throw unknown();
      return patch(path, tokens, body, bodies, unknown);
  }
}

const KNOWN: Readonly<Record<HttpRequest['method'], readonly string[]>> = {
  GET: ['', 'balloon', 'version', 'vm', 'machine-config', 'mmds', 'hotplug'],
  PUT: [
    ...['actions', 'balloon', 'boot-source', 'cpu-config', 'drives', 'pmem', 'logger', 'serial'],
    ...['machine-config', 'metrics', 'mmds', 'network-interfaces', 'snapshot', 'vsock', 'entropy', 'hotplug'],
  ],
  PATCH: ['balloon', 'drives', 'machine-config', 'mmds', 'network-interfaces', 'pmem', 'vm', 'hotplug'],
  DELETE: ['drives', 'pmem', 'network-interfaces'],
};
const NEW_IN_14 = ['serial', 'pmem', 'hotplug'];

function plainCall(call: Call): Parsed {
  return { call, deprecated: false };
}

function deviceOf(path: string): 'drive' | 'network' | 'pmem' {
  return path === 'drives' ? 'drive' : path === 'pmem' ? 'pmem' : 'network';
}

function checkedId(id: string | undefined): string {
  if (id === undefined || id === '') throw new Refused('The ID cannot be empty.');
  if (!/^[\p{L}\p{N}_]+$/u.test(id))
    throw new Refused('API Resource IDs can only contain alphanumeric characters and underscores.');
  return id;
}

/** Reads the body of a device, whose id must be the path's. */
function device<T>(shape: Shape<T>, id: string | undefined, body: string, idOf: (body: T) => string): T {
  const wanted = checkedId(id);
  const found = read(shape, body);
  if (idOf(found) !== wanted) throw new Refused('The id from the path does not match the id from the body!');
  return found;
}

function interfaceOf<T extends { readonly iface_id: string }>(
  shape: Shape<T>,
  id: string | undefined,
  body: string,
): T {
  const wanted = checkedId(id);
  const found = read(shape, body);
  if (found.iface_id !== wanted)
    throw new Refused(
      `The id from the path [${wanted}] does not match the id from the body [${found.iface_id}]!`,
    );
  return found;
}

function get(path: string, tokens: readonly string[], unknown: () => Refused): Call {
  const [, second, third] = tokens;
  switch (path) {
    case '':
      return { name: 'getInfo' };
    case 'version':
      return { name: 'getVersion' };
    case 'machine-config':
      return { name: 'getMachine' };
    case 'mmds':
      return { name: 'getMmds' };
    case 'vm':
      if (second === 'config') return { name: 'getVmConfig' };
      throw unknown();
    case 'hotplug':
      if (second === 'memory') return { name: 'getHotplug' };
      throw unknown();
    default:
      if (second === undefined) return { name: 'getBalloon' };
      if (second === 'statistics') return { name: 'getBalloonStatistics' };
      if (second !== 'hinting') throw new Refused(`Unrecognized GET request path \`${second}\`.`);
      if (third === 'status') return { name: 'getHinting' };
      throw new Refused(`Unrecognized GET request path \`/hinting/${third ?? ''}\`.`);
  }
}

function put(
  path: string,
  second: string | undefined,
  body: string,
  bodies: Bodies,
  unknown: () => Refused,
): Parsed {
  switch (path) {
    case 'actions':
      return plainCall({ name: 'actions', body: read(bodies.actions, body) });
    case 'balloon':
      return plainCall({ name: 'balloon', body: read(bodies.balloon, body) });
    case 'boot-source':
      return plainCall({ name: 'bootSource', body: read(bodies.bootSource, body) });
    case 'cpu-config':
      return plainCall({ name: 'cpuConfig', body: read(bodies.cpuConfig, body) });
    case 'drives':
      return plainCall({ name: 'drive', body: device(bodies.drive, second, body, (it) => it.drive_id) });
    case 'pmem':
      return plainCall({ name: 'pmem', body: device(bodies.pmem, second, body, (it) => it.id) });
    case 'logger':
      return plainCall({ name: 'logger', body: read(bodies.logger, body) });
    case 'serial':
      return plainCall({ name: 'serial', body: read(bodies.serial, body) });
    case 'machine-config': {
      const found = read(bodies.machine, body);
      return { call: { name: 'machine', body: found }, deprecated: found.cpu_template !== null };
    }
    case 'metrics':
      return plainCall({ name: 'metrics', body: read(bodies.metrics, body) });
    case 'network-interfaces':
      return plainCall({ name: 'network', body: interfaceOf(bodies.network, second, body) });
    case 'vsock': {
      const found = read(bodies.vsock, body);
      return { call: { name: 'vsock', body: found }, deprecated: found.vsock_id !== null };
    }
    case 'entropy':
      return plainCall({ name: 'entropy', body: read(bodies.entropy, body) });
    case 'hotplug':
      if (second !== 'memory') throw unknown();
      return plainCall({ name: 'hotplug', body: read(bodies.hotplug, body) });
    case 'mmds': {
      if (second === undefined) return plainCall({ name: 'mmds', body: read(bodies.mmds, body) });
      if (second !== 'config') throw new Refused(`Unrecognized PUT request path \`${second}\`.`);
      const found = read(bodies.mmdsConfig, body);
      return { call: { name: 'mmdsConfig', body: found }, deprecated: found.version === 'V1' };
    }
    default:
      return snapshot(second, body, bodies);
  }
}

function snapshot(what: string | undefined, body: string, bodies: Bodies): Parsed {
  if (what === undefined) throw new Refused('Missing snapshot operation type.');
  if (what === 'create')
    return plainCall({ name: 'snapshotCreate', body: read(bodies.snapshotCreate, body) });
  if (what !== 'load') throw new Refused(`Invalid request method and/or path: PUT /snapshot/${what}.`);
  const found = read(bodies.snapshotLoad, body);
  if (found.mem_backend !== null && found.mem_file_path !== null)
    throw deserializing('too many fields: either `mem_backend` or `mem_file_path` exclusively is required');
  if (found.mem_backend === null && found.mem_file_path === null)
    throw deserializing('missing field: either `mem_backend` or `mem_file_path` is required');
  return {
    call: { name: 'snapshotLoad', body: found },
    deprecated: found.mem_file_path !== null || found.enable_diff_snapshots,
  };
}

function patch(
  path: string,
  tokens: readonly string[],
  body: string | undefined,
  bodies: Bodies,
  unknown: () => Refused,
): Parsed {
  const [, second, third] = tokens;
  if (path === 'balloon' && second === 'hinting') {
    if (third === 'stop') return plainCall({ name: 'stopHinting' });
    if (third !== 'start') throw new Refused(`Unrecognized PATCH request path \`/hinting/${third ?? ''}\`.`);
    if (body !== undefined) read(bodies.hinting, body);
    return plainCall({ name: 'startHinting' });
  }
  if (body === undefined) throw new Refused(EMPTY.PATCH);
  switch (path) {
    case 'balloon':
      return second === 'statistics'
        ? plainCall({ name: 'balloonStatistics', body: read(bodies.balloonStatistics, body) })
        : plainCall({ name: 'balloonUpdate', body: read(bodies.balloonUpdate, body) });
    case 'drives':
      return plainCall({
        name: 'driveUpdate',
        body: device(bodies.driveUpdate, second, body, (it) => it.drive_id),
      });
    case 'pmem':
      return plainCall({ name: 'pmemUpdate', body: device(bodies.pmemUpdate, second, body, (it) => it.id) });
    case 'network-interfaces':
      return plainCall({ name: 'networkUpdate', body: interfaceOf(bodies.networkUpdate, second, body) });
    case 'machine-config': {
      const found = read(bodies.machineUpdate, body);
      if (Object.values(found).every((value) => value === null)) throw new Refused(EMPTY.PATCH);
      return { call: { name: 'machineUpdate', body: found }, deprecated: found.cpu_template !== null };
    }
    case 'mmds':
      return plainCall({ name: 'patchMmds', body: read(bodies.mmds, body) });
    case 'vm':
      return plainCall({ name: 'vm', body: read(bodies.vm, body) });
    default:
      if (second !== 'memory') throw unknown();
      return plainCall({ name: 'hotplugUpdate', body: read(bodies.hotplugUpdate, body) });
  }
}
