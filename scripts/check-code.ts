import { join } from 'node:path';
import { ESLint } from 'eslint';
import ts from 'typescript';

/**
 * Types and typed lint from one reading of the code: `tsc --noEmit` and `eslint .` say the same, but each reads and types
 * everything for itself, which is half of the time. Ends with 1 when either finds anything.
 */
const root = join(import.meta.dirname, '..');
const problems: string[] = [];

const program = readProgram();
const diagnostics = ts.getPreEmitDiagnostics(program);
if (diagnostics.length > 0)
  problems.push(
    ts.formatDiagnostics(diagnostics, {
      getCanonicalFileName: (name) => name,
      getCurrentDirectory: () => root,
      getNewLine: () => '\n',
    }),
  );

const eslint = new ESLint({
  cwd: root,
  overrideConfig: {
    files: ['**/*.ts'],
    languageOptions: { parserOptions: { projectService: false, programs: [program] } },
  },
});
const results = await eslint.lintFiles(['.']);
const linted = new Set(results.map((result) => result.filePath));
for (const name of program.getRootFileNames()) if (!linted.has(name)) problems.push(`${name} was not linted`);
if (results.some(({ errorCount, warningCount }) => errorCount + warningCount > 0))
  problems.push(await (await eslint.loadFormatter('stylish')).format(results));

for (const problem of problems) console.error(problem);
if (problems.length > 0) process.exitCode = 1;
else console.log(`${linted.size} files`);

/** The program tsconfig.json describes. Throws when it cannot be read, or describes nothing. */
function readProgram(): ts.Program {
  const config = ts.getParsedCommandLineOfConfigFile(
    join(root, 'tsconfig.json'),
    { incremental: false },
    {
      ...ts.sys,
      onUnRecoverableConfigFileDiagnostic: ({ messageText }) => {
        throw new Error(ts.flattenDiagnosticMessageText(messageText, '\n'));
      },
    },
  );
  if (!config || config.fileNames.length === 0) throw new Error('tsconfig.json names no files');
  return ts.createProgram({ rootNames: config.fileNames, options: config.options });
}
