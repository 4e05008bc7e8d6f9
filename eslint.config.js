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

export default tseslint.config(
  { ignores: ['node_modules/**', 'data/**', 'bin/**', '**/*.mjs', 'eslint.config.js', '.dependency-cruiser.cjs'] },
  ...tseslint.configs.recommendedTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/no-non-null-assertion': 'error',
      '@typescript-eslint/no-floating-promises': ['error', { allowForKnownSafeCalls: [{ from: 'package', package: 'node:test', name: ['test', 'describe', 'it', 'suite', 'before', 'after', 'beforeEach', 'afterEach'] }] }],
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
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
    ignores: ['src/host/**', 'src/**/*.test.ts'],
    rules: {
      'no-restricted-imports': [
        'error',
        { paths: ['node:child_process', 'child_process'].map((name) => ({ name, message: 'only src/host may start processes' })) },
      ],
    },
  },
  {
    files: ['src/**/*.ts'],
    ignores: ['src/daemon/**', 'src/clients/**', 'src/**/*.test.ts'],
    rules: { 'no-restricted-properties': ['error', ...processGlobals] },
  },
  { files: ['src/clients/cli/**', 'src/daemon/**', 'scripts/**', 'bench/**', 'test/**'], rules: { 'no-console': 'off' } },
);
