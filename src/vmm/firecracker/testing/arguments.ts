/** Command lines as Firecracker and the jailer read them (src/utils/src/arg_parser.rs): `--name value` and `--name`, no `=`. */

export interface ArgumentSpec {
  readonly takes: 'nothing' | 'value' | 'values';
  readonly required?: boolean;
  readonly requires?: string;
  readonly forbids?: readonly string[];
}

/** What is wrong with a command line, in Display's words and in Debug's. */
export class ArgumentError extends Error {
  override readonly name = 'ArgumentError';
  readonly debug: string;
  constructor(kind: string, message: string, ...names: readonly string[]) {
    super(message);
    this.debug = `${kind}(${names.map((name) => JSON.stringify(name)).join(', ')})`;
  }
}

export class Arguments {
  /** What comes after `--`. */
  readonly extra: readonly string[];
  readonly #given = new Map<string, readonly string[]>();

  /** Throws ArgumentError. With --help or --version nothing else is looked at. */
  constructor(argv: readonly string[], specs: Readonly<Record<string, ArgumentSpec>>) {
    const parting = argv.indexOf('--');
    const args = parting === -1 ? argv : argv.slice(0, parting);
    this.extra = parting === -1 ? [] : argv.slice(parting + 1);
    const early =
      args.includes('--help') || args.includes('-h') ? 'help' : args.includes('--version') ? 'version' : null;
    if (early !== null) this.#given.set(early, []);
    else this.#read(args, specs);
  }

  #read(args: readonly string[], specs: Readonly<Record<string, ArgumentSpec>>): void {
    for (let at = 0; at < args.length; at++) {
      const arg = args[at] ?? '';
      const name = arg.startsWith('--') ? arg.slice(2) : arg;
      const spec = arg.startsWith('--') && Object.hasOwn(specs, name) ? specs[name] : undefined;
      if (!spec)
        throw new ArgumentError(
          'UnexpectedArgument',
          `Found argument '${name}' which wasn't expected, or isn't valid in this context.`,
          name,
        );
      const before = this.#given.get(name);
      if (before && spec.takes !== 'values')
        throw new ArgumentError(
          'DuplicateArgument',
          `The argument '${name}' was provided more than once.`,
          name,
        );
      if (spec.takes === 'nothing') {
        this.#given.set(name, []);
        continue;
      }
      const value = args[++at];
      if (value === undefined || value.startsWith('--'))
        throw new ArgumentError(
          'MissingValue',
          `The argument '${name}' requires a value, but none was supplied.`,
          name,
        );
      this.#given.set(name, [...(before ?? []), value]);
    }
    // In the order of their names, as they are kept there.
    for (const name of Object.keys(specs).sort()) this.#check(name, specs[name], args);
  }

  #check(name: string, spec: ArgumentSpec | undefined, args: readonly string[]): void {
    const missing = (what: string): ArgumentError =>
      new ArgumentError('MissingArgument', `Argument '${what}' required, but not found.`, what);
    if (!this.#given.has(name)) {
      if (spec?.required) throw missing(name);
      return;
    }
    if (spec?.requires !== undefined && !args.includes(`--${spec.requires}`)) throw missing(spec.requires);
    for (const other of spec?.forbids ?? []) {
      if (args.includes(`--${other}`))
        throw new ArgumentError(
          'ForbiddenArgument',
          `Argument '${other}' cannot be used together with argument '${name}'.`,
          name,
          other,
        );
    }
  }

  has(name: string): boolean {
    return this.#given.has(name);
  }

  value(name: string): string | undefined {
    return this.#given.get(name)?.[0];
  }

  values(name: string): readonly string[] {
    return this.#given.get(name) ?? [];
  }
}

/** What is wrong with an instance's id, in Debug's words; undefined when nothing is. Also the jail's name. */
export function wrongId(id: string): { readonly debug: string; readonly display: string } | undefined {
  const length = Buffer.byteLength(id);
  if (length < 1 || length > 64)
    return {
      debug: `InvalidLen(${length}, 1, 64)`,
      display: `Invalid len (${length});  the length must be between 1 and 64`,
    };
  const at = [...id].findIndex((letter) => !/^[\p{L}\p{N}-]$/u.test(letter));
  if (at === -1) return undefined;
  const letter = [...id][at] ?? '';
  return { debug: `InvalidChar('${letter}', ${at})`, display: `Invalid char (${letter}) at position ${at}` };
}
