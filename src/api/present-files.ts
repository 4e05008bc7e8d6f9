import type * as wire from '../contract/saved-file.ts';
import type { FileChange, FileEntry, FileFacts, FileName } from '../model/saved-files.ts';
import { rfc3339 } from './present.ts';

/** A file in a folder of a saved disk, as the API shows it. */
export function presentFile({ name, ...facts }: FileEntry): wire.FileEntry {
  return { ...presentName('name', name), ...presentFacts(facts) };
}

/** A file that changed between two saved disks, as the API shows it. */
export function presentChange({ path, change, differences, before, after }: FileChange): wire.FileChange {
  return {
    ...presentName('path', path),
    change,
    differences: [...differences],
    ...(before ? { before: presentFacts(before) } : {}),
    ...(after ? { after: presentFacts(after) } : {}),
  };
}

/** What a file on a saved disk is, as the API shows it. */
export function presentFacts(of: FileFacts): wire.FileFacts {
  return {
    kind: of.kind,
    size_bytes: of.sizeBytes,
    mode: of.mode.toString(8).padStart(4, '0'),
    uid: of.uid,
    gid: of.gid,
    modified_at: rfc3339(of.modifiedAt),
    ...(of.target ? presentName('target', of.target) : {}),
  };
}

type Named<Field extends string> = Record<Field, string> & Partial<Record<`${Field}_base64`, string>>;

function presentName(field: 'name', name: FileName): Named<'name'>;
function presentName(field: 'path', name: FileName): Named<'path'>;
function presentName(field: 'target', name: FileName): Named<'target'>;
function presentName(field: string, { text, bytes }: FileName): Record<string, string> {
  return {
    [field]: text,
    ...(bytes ? { [`${field}_base64`]: Buffer.from(bytes).toString('base64') } : {}),
  };
}
