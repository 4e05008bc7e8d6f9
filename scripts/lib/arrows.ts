import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { cruise, type ICruiseOptions } from 'dependency-cruiser';
import extractDepcruiseConfig from 'dependency-cruiser/config-utl/extract-depcruise-config';

/** One import that the arrows of .dependency-cruiser.cjs forbid. */
export interface Violation {
  readonly rule: string;
  readonly from: string;
  readonly to: string;
}

export interface Arrows {
  /** Files under src/ that were read, relative to the root. */
  readonly modules: readonly string[];
  readonly violations: readonly Violation[];
}

/** Follows every import under `<root>/src`, type-only ones included, by the rules of `config` (a path). */
export async function readArrows(root: string, config: string): Promise<Arrows> {
  const { options, ...ruleSet } = await extractDepcruiseConfig(config);
  const settings: ICruiseOptions = { ...options, ruleSet, validate: true, baseDir: root };
  const { output } = await cruise(['src'], settings);
  if (typeof output === 'string') throw new Error('dependency-cruiser gave a text where a result was due');
  return {
    modules: output.modules.map((module) => module.source).filter((source) => source.startsWith('src/')),
    violations: output.summary.violations.map(({ rule, from, to }) => ({ rule: rule.name, from, to })),
  };
}

/** Wrong imports of each kind, and the rule that must find it. */
const PLANTED: readonly { readonly rule: string; readonly path: string; readonly content: string }[] = [
  {
    rule: 'model-may-import',
    path: 'src/model/types-only.ts',
    content: "import type { Verb } from '../ops/verb.ts';\nexport type Mine = Verb;\n",
  },
  { rule: 'api-may-import', path: 'src/api/value.ts', content: "import '../store/rows.ts';\n" },
  { rule: 'clients-may-import', path: 'src/clients/lazy.ts', content: "void import('../model/pure.ts');\n" },
  {
    rule: 'only-host-starts-processes',
    path: 'src/ops/verb.ts',
    content: "import 'node:child_process';\nexport type Verb = 'go';\n",
  },
  { rule: 'no-cycles', path: 'src/store/rows.ts', content: "import './round.ts';\n" },
  { rule: 'no-unknown-room', path: 'src/attic/box.ts', content: "import '../model/pure.ts';\n" },
];
const AROUND = [
  { path: 'src/store/round.ts', content: "import './rows.ts';\n" },
  { path: 'src/model/pure.ts', content: 'export const pure = 1;\n' },
  { path: 'tsconfig.json', content: '{}\n' },
];

/**
 * Makes a small house with one wrong import of each kind in a temporary folder, and gives back the rules that did not find
 * theirs: a gate that finds nothing anywhere would call this clean too.
 */
export async function blindRules(config: string): Promise<readonly string[]> {
  const root = await mkdtemp(join(tmpdir(), 'hatch-arrows-'));
  try {
    for (const { path, content } of [...PLANTED, ...AROUND]) {
      await mkdir(dirname(join(root, path)), { recursive: true });
      await writeFile(join(root, path), content);
    }
    const { violations } = await readArrows(root, config);
    return PLANTED.filter(
      ({ rule, path }) =>
        !violations.some((found) => found.rule === rule && (found.from === path || found.to === path)),
    ).map(({ rule, path }) => `${rule} (${path})`);
  } finally {
    await rm(root, { recursive: true, force: true });
  }
}

/** The .ts files under `<root>/<folder>`, relative to the root, in order. */
export async function typescriptFiles(root: string, folder: string): Promise<readonly string[]> {
  const entries = await readdir(join(root, folder), { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1))
    .sort();
}
