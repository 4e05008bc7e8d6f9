import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { blindRules, readArrows, typescriptFiles } from './lib/arrows.ts';
import { breaches } from './lib/house-rules.ts';

/**
 * The arrows between the rooms, and the rules of the house that lint does not know. Fails when an import goes against an
 * arrow, when a file was not looked at, and when a wrong import planted elsewhere is not found.
 */
const root = join(import.meta.dirname, '..');
const config = join(root, '.dependency-cruiser.cjs');
const problems: string[] = [];

const [{ modules, violations }, files, blind] = await Promise.all([
  readArrows(root, config),
  typescriptFiles(root, 'src'),
  blindRules(config),
]);
for (const { rule, from, to } of violations) problems.push(`${rule}: ${from} imports ${to}`);
for (const rule of blind) problems.push(`${rule} does not find the wrong import planted for it`);
const seen = new Set(modules);
for (const file of files.filter((file) => !seen.has(file))) problems.push(`${file} was not looked at`);
if (files.length !== seen.size)
  problems.push(`${seen.size} modules were read, but src/ has ${files.length} .ts files`);

const others = await Promise.all(['test', 'scripts', 'bench'].map((folder) => typescriptFiles(root, folder)));
// The rules' own text names what they forbid.
const told = others.flat().filter((path) => !path.startsWith('scripts/lib/house-rules'));
for (const path of [...files, ...told])
  problems.push(...breaches(path, await readFile(join(root, path), 'utf8')));

for (const problem of problems) console.error(problem);
if (problems.length > 0) process.exitCode = 1;
else console.log(`${modules.length} modules, all of src/; every planted violation was found`);
