import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ArgumentError, Arguments, wrongId, type ArgumentSpec } from './arguments.ts';

const SPECS: Readonly<Record<string, ArgumentSpec>> = {
  id: { takes: 'value', required: true },
  flag: { takes: 'nothing', forbids: ['other'] },
  other: { takes: 'nothing' },
  needs: { takes: 'nothing', requires: 'other' },
  many: { takes: 'values' },
};

function refusal(...argv: readonly string[]): readonly string[] {
  try {
    new Arguments(argv, SPECS);
  } catch (error) {
    if (error instanceof ArgumentError) return [error.debug, error.message];
    throw error;
  }
  return [];
}

test('values, flags, lists, and what comes after two dashes', () => {
  const args = new Arguments(['--many', 'a=1', '--id', 'x', '--many', 'b=2', '--', '--id', 'y'], SPECS);
  assert.deepEqual([args.value('id'), args.values('many'), args.has('flag')], ['x', ['a=1', 'b=2'], false]);
  assert.deepEqual(args.extra, ['--id', 'y']);
});

test('what is wrong is said in both forms', () => {
  for (const [argv, debug, message] of [
    [[], 'MissingArgument("id")', "Argument 'id' required, but not found."],
    [['--id'], 'MissingValue("id")', "The argument 'id' requires a value, but none was supplied."],
    [['--id', '--flag'], 'MissingValue("id")', "The argument 'id' requires a value, but none was supplied."],
    [['--id', 'x', '--id', 'y'], 'DuplicateArgument("id")', "The argument 'id' was provided more than once."],
    [
      ['--id=x'],
      'UnexpectedArgument("id=x")',
      "Found argument 'id=x' which wasn't expected, or isn't valid in this context.",
    ],
    [
      ['x'],
      'UnexpectedArgument("x")',
      "Found argument 'x' which wasn't expected, or isn't valid in this context.",
    ],
    [['--id', 'x', '--needs'], 'MissingArgument("other")', "Argument 'other' required, but not found."],
    [
      ['--id', 'x', '--flag', '--other'],
      'ForbiddenArgument("flag", "other")',
      "Argument 'other' cannot be used together with argument 'flag'.",
    ],
  ] as const)
    assert.deepEqual(refusal(...argv), [debug, message], argv.join(' '));
});

test('with --help or --version nothing else is looked at', () => {
  assert.equal(new Arguments(['--nonsense', '-h'], SPECS).has('help'), true);
  assert.equal(new Arguments(['--nonsense', '--version'], SPECS).has('version'), true);
  assert.deepEqual(refusal('--', '--version'), [
    'MissingArgument("id")',
    "Argument 'id' required, but not found.",
  ]);
});

test('the id of an instance is letters, digits and hyphens, up to 64 of them', () => {
  assert.equal(wrongId('vm-0123'), undefined);
  assert.equal(wrongId('x'.repeat(64)), undefined);
  assert.deepEqual(wrongId('vm_0'), {
    debug: "InvalidChar('_', 2)",
    display: 'Invalid char (_) at position 2',
  });
  assert.equal(wrongId('')?.debug, 'InvalidLen(0, 1, 64)');
  assert.equal(wrongId('x'.repeat(65))?.debug, 'InvalidLen(65, 1, 64)');
});
