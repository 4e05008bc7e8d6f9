import type { Saved } from './chunk-store.ts';
import { parseManifestId, parsePackId, type ManifestId, type PackId, type PackRef } from './format.ts';

/** The lines of a spool's journal: JSON, one a line. */
export interface BeginLine {
  readonly kind: 'begin';
  readonly version: 1;
  /** What is saved, so that nobody goes on with another save. */
  readonly fingerprint: string;
  readonly manifest: ManifestId;
  readonly createdAt: number;
}

export interface PackLine {
  readonly kind: 'pack';
  readonly pack: PackId;
  readonly bytes: number;
  readonly sha256: string;
  readonly sealed: boolean;
}

export interface ManifestLine {
  readonly kind: 'manifest';
  readonly bytes: number;
  readonly sha256: string;
  readonly reused: readonly PackRef[];
  readonly sizes: Saved['sizes'];
}

export type Line = BeginLine | PackLine | ManifestLine;

/** The lines up to the first that is not whole, and how many bytes they take. */
export function parseJournal(text: string): { readonly lines: readonly Line[]; readonly length: number } {
  const lines: Line[] = [];
  let length = 0;
  for (const part of text.split('\n').slice(0, -1)) {
    const line = parseLine(part);
    // The first line, and only it, begins.
    if (!line || (line.kind === 'begin') !== (lines.length === 0)) break;
    lines.push(line);
    length += Buffer.byteLength(part) + 1;
  }
  return { lines, length };
}

function parseLine(text: string): Line | undefined {
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch {
    return undefined;
  }
  const fields = fieldsOf(raw);
  switch (fields['kind']) {
    case 'begin': {
      const { version, fingerprint, manifest, createdAt } = fields;
      const id = typeof manifest === 'string' ? parseManifestId(manifest) : undefined;
      if (version !== 1 || typeof fingerprint !== 'string' || !id || !isCount(createdAt)) return undefined;
      return { kind: 'begin', version, fingerprint, manifest: id, createdAt };
    }
    case 'pack': {
      const { pack, bytes, sha256, sealed } = fields;
      const id = typeof pack === 'string' ? parsePackId(pack) : undefined;
      if (!id || !isCount(bytes) || typeof sha256 !== 'string' || typeof sealed !== 'boolean')
        return undefined;
      return { kind: 'pack', pack: id, bytes, sha256, sealed };
    }
    case 'manifest': {
      const { bytes, sha256, reused } = fields;
      const { logical, data, fresh, stored } = fieldsOf(fields['sizes']);
      if (!isCount(bytes) || typeof sha256 !== 'string' || !Array.isArray(reused)) return undefined;
      if (!isCount(logical) || !isCount(data) || !isCount(fresh) || !isCount(stored)) return undefined;
      const packs = reused.map(parsePack);
      if (!packs.every((pack) => pack !== undefined)) return undefined;
      return { kind: 'manifest', bytes, sha256, reused: packs, sizes: { logical, data, fresh, stored } };
    }
    default:
      return undefined;
  }
}

function parsePack(raw: unknown): PackRef | undefined {
  const { account, id, bytes, sealed } = fieldsOf(raw);
  const pack = typeof id === 'string' ? parsePackId(id) : undefined;
  if (typeof account !== 'string' || !pack || !isCount(bytes) || typeof sealed !== 'boolean')
    return undefined;
  return { account, id: pack, bytes, sealed };
}

function fieldsOf(raw: unknown): Readonly<Record<string, unknown>> {
  return typeof raw === 'object' && raw !== null ? { ...raw } : {};
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}
