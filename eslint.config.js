import tseslint from 'typescript-eslint';

/**
 * Only the host room may start processes; only the daemon and the clients may look at the process they run in.
 * Everything else is told what it needs, so that it can be tested without a machine.
 */
const processGlobals = ['env', 'argv', 'exit', 'on', 'once', 'exitCode'].map((property) => ({
  object: 'process',
  property,
  message: `process.${property} belongs to the daemon and clients rooms; pass the value in`,
}));

/** Launchers and the scripts that run before anything is installed: plain JavaScript for any Node from 18. */
const plain = ['bin/hatch', 'bin/hatchd', '**/*.mjs', '**/*.cjs'];
const nodeGlobals = [
  'process',
  'console',
  'fetch',
  'URL',
  'Buffer',
  'setTimeout',
  'setInterval',
  'clearInterval',
  'clearTimeout',
  'AbortSignal',
];
const commonJs = ['require', 'module', '__dirname'];
const readonly = (names) => Object.fromEntries(names.map((name) => [name, 'readonly']));

/** Doubles of whole programs: they have a command line, an environment and an end of their own, and start programs. */
const doubles = 'src/vmm/firecracker/testing/**';
/** The process that starts programs for the daemon: a program of its own, too. */
const launcher = 'src/host/launcher-main.ts';

export default tseslint.config(
  { ignores: ['node_modules/**', 'dist/**', 'data/**', 'eslint.config.js'] },
  {
    files: plain,
    languageOptions: { ecmaVersion: 2022, sourceType: 'module', globals: readonly(nodeGlobals) },
    rules: {
      'no-undef': 'error',
      'no-unused-vars': ['error', { caughtErrors: 'none' }],
      'prefer-const': 'error',
      'max-lines': ['error', { max: 400 }],
      eqeqeq: 'error',
    },
  },
  {
    files: ['bin/hatch', 'bin/hatchd', '**/*.cjs'],
    languageOptions: { sourceType: 'commonjs', globals: readonly([...nodeGlobals, ...commonJs]) },
  },
  ...tseslint.configs.recommendedTypeChecked.map((config) => ({ ...config, files: ['**/*.ts'] })),
  {
    files: ['**/*.ts'],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/no-non-null-assertion': 'error',
      '@typescript-eslint/no-floating-promises': [
        'error',
        {
          allowForKnownSafeCalls: [
            {
              from: 'package',
              package: 'node:test',
              name: ['test', 'describe', 'it', 'suite', 'before', 'after', 'beforeEach', 'afterEach'],
            },
          ],
        },
      ],
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/require-await': 'off',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_' }],
      'max-lines': ['error', { max: 400 }],
      'no-console': 'error',
      eqeqeq: 'error',
    },
  },
  {
    files: ['src/**/*.ts'],
    ignores: ['src/host/**', doubles, 'src/**/*.test.ts'],
    rules: {
      'no-restricted-imports': [
        'error',
        {
          paths: ['node:child_process', 'child_process'].map((name) => ({
            name,
            message: 'only src/host may start processes',
          })),
        },
      ],
    },
  },
  {
    files: ['src/**/*.ts'],
    ignores: ['src/daemon/**', 'src/clients/**', doubles, launcher, 'src/**/*.test.ts'],
    rules: { 'no-restricted-properties': ['error', ...processGlobals] },
  },
  {
    files: ['src/**/*.ts'],
    ignores: ['src/clients/**', doubles, 'src/**/*.test.ts'],
    rules: {
      '@typescript-eslint/no-restricted-imports': [
        'error',
        {
          paths: ['node:http', 'node:https', 'node:http2'].map((name) => ({
            name,
            allowTypeImports: true,
            message: 'it loads megabytes in each thread; src/base/node-http.ts has what is needed',
          })),
        },
      ],
    },
  },
  {
    files: ['src/clients/cli/**', 'src/daemon/**', 'scripts/**', 'bench/**', 'test/**'],
    rules: { 'no-console': 'off' },
  },
);
