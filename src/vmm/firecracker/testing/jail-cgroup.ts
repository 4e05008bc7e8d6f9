import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { JailerRefused } from './jail-refused.ts';
import { osError } from './musl.ts';

/** One `--cgroup FILE=VALUE`. */
interface Property {
  readonly file: string;
  readonly value: string;
}

interface Group {
  readonly location: string;
  readonly properties: Property[];
}

/**
 * The cgroups a jail asks for, checked and entered as the jailer does it. FC_DOUBLE_PROC_MOUNTS names another /proc/mounts, so
 * that a test can give it a hierarchy of plain folders: what the jailer writes is in them afterwards. Of version 1 the
 * inheritance of a parent's settings is not played.
 */
export class JailCgroups {
  readonly #version: number;
  readonly #mounts: string;
  readonly #groups = new Map<string, Group>();

  /** Throws JailerRefused. */
  constructor(version: number, procMounts: string) {
    this.#version = version;
    try {
      this.#mounts = readFileSync(procMounts, 'utf8');
    } catch (error) {
      throw new JailerRefused('FileOpen', `Failed to open file ${procMounts}: ${osError(error)}`);
    }
    const hierarchies = this.#lines(version === 2 ? 'cgroup2' : 'cgroup');
    if (hierarchies.length === 0 || version < 1 || version > 2)
      throw hierarchies.length === 0
        ? new JailerRefused(
            'CgroupHierarchyMissing',
            'Hierarchy not found: No hierarchy found for this cgroup version.',
          )
        : new JailerRefused('CgroupInvalidVersion', `${version} is an invalid cgroup version specifier`);
  }

  #lines(type: string): readonly { readonly folder: string; readonly options: string }[] {
    return this.#mounts
      .split('\n')
      .map((line) => line.split(' '))
      .filter(([, , found]) => found === type)
      .map(([, folder = '', , options = '']) => ({ folder, options }));
  }

  /** Where the one hierarchy of version 2 is. */
  get unified(): string {
    return this.#lines('cgroup2')[0]?.folder ?? '';
  }

  /** Takes `FILE=VALUE` for the group `<parent>/<id>`. Throws JailerRefused. */
  add(argument: string, parent: string, id: string): void {
    const [file = '', value = '', ...more] = argument.split('=');
    if (value === '' || more.length > 0)
      throw new JailerRefused('CgroupFormat', `Invalid format for cgroups: ${argument}`);
    if (leaves(file)) throw new JailerRefused('CgroupInvalidFile', `Cgroup invalid file: ${argument}`);
    const [controller = '', ...rest] = file.split('.');
    if (rest.length === 0) throw new JailerRefused('CgroupInvalidFile', `Cgroup invalid file: ${file}`);
    const hierarchy = this.#hierarchyOf(controller);
    if (hierarchy === undefined)
      throw new JailerRefused('CgroupControllerUnavailable', `Controller ${controller} is unavailable`);
    const key = this.#version === 2 ? 'unified' : controller;
    const group = this.#groups.get(key) ?? { location: join(hierarchy, parent, id), properties: [] };
    group.properties.push({ file, value });
    this.#groups.set(key, group);
  }

  #hierarchyOf(controller: string): string | undefined {
    if (this.#version === 1)
      return this.#lines('cgroup').find(({ options }) => options.split(',').includes(controller))?.folder;
    let available = '';
    try {
      available = readFileSync(join(this.unified, 'cgroup.controllers'), 'utf8');
    } catch {
      // Nothing is.
    }
    return available.trim().split(' ').includes(controller) ? this.unified : undefined;
  }

  /** Makes the groups and enters them. Throws JailerRefused. */
  enter(pid: number): void {
    for (const { location, properties } of this.#groups.values()) {
      try {
        mkdirSync(location, { recursive: true });
      } catch (error) {
        throw new JailerRefused('CreateDir', `Failed to create directory ${location}: ${osError(error)}`);
      }
      const enabled = new Set<string>();
      for (const { file, value } of properties) {
        const [controller = ''] = file.split('.');
        if (this.#version === 2 && !enabled.has(controller)) enable(dirname(location), controller);
        enabled.add(controller);
        put(join(location, file), value);
      }
    }
    for (const { location } of this.#groups.values())
      put(join(location, this.#version === 2 ? 'cgroup.procs' : 'tasks'), String(pid));
  }

  /** Without any `--cgroup`, version 2 enters the parent itself, if it is there. Throws JailerRefused. */
  enterParent(parent: string, pid: number): void {
    const location = join(this.unified, parent);
    if (!existsSync(location)) return;
    try {
      writeFileSync(join(location, 'cgroup.procs'), String(pid));
    } catch (error) {
      throw new JailerRefused(
        'CgroupMove',
        `Failed to move process to cgroup (${location}): ${osError(error)}.\n` +
          `Hint: If you intended to create a child cgroup under ${location}, pass any --cgroup parameters.`,
      );
    }
  }
}

/** Whether a path is absolute or has a part that goes elsewhere. */
export function leaves(path: string): boolean {
  // As Rust parts a path: a `.` counts at its beginning only.
  return path.startsWith('/') || path === '.' || path.startsWith('./') || path.split('/').includes('..');
}

/** A controller is at hand in a group when all above hand it down. */
function enable(folder: string, controller: string): void {
  const control = join(folder, 'cgroup.subtree_control');
  if (!existsSync(control)) return;
  if (dirname(folder) !== folder) enable(dirname(folder), controller);
  put(control, `+${controller}`);
}

function put(path: string, value: string): void {
  try {
    writeFileSync(path, `${value}\n`);
  } catch (error) {
    throw new JailerRefused('Write', `Failed to write to ${path}: ${osError(error)}`);
  }
}
