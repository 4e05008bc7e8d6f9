/**
 * The arrows between the rooms of src/: each room and the rooms it may import. docs/map.md says what lives in each.
 * Type-only imports count (tsPreCompilationDeps).
 */
const ROOMS = {
  base: [],
  contract: [],
  model: ['base', 'contract'],
  host: ['base'],
  store: ['base', 'model', 'host'],
  vmm: ['base', 'model', 'host'],
  net: ['base', 'model', 'host'],
  guest: ['base', 'model', 'host'],
  ops: ['base', 'model', 'host', 'store', 'vmm', 'net', 'guest'],
  api: ['base', 'contract', 'model', 'ops'],
  gateway: ['base', 'contract', 'model', 'ops'],
  daemon: ['base', 'contract', 'model', 'host', 'store', 'vmm', 'net', 'guest', 'ops', 'api', 'gateway'],
  clients: ['base', 'contract'],
};

const rules = Object.entries(ROOMS).map(([room, allowed]) => ({
  name: `${room}-may-import`,
  comment: `src/${room} may import: ${[...allowed].join(', ') || 'nothing of ours'}`,
  severity: 'error',
  // Tests may use any room's testing helpers and test/support: they are outside the house.
  from: { path: `^src/${room}/`, pathNot: '\\.test\\.ts$' },
  to: { path: '^(src|test|scripts|bench)/', pathNot: `^src/(${[room, ...allowed].join('|')})/` },
}));

module.exports = {
  forbidden: [
    ...rules,
    {
      name: 'only-host-starts-processes',
      // The doubles of Firecracker and its jailer are programs themselves, and become or ask others as those do.
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/(host|vmm/firecracker/testing)/|\\.test\\.ts$' },
      to: { path: '^(node:)?child_process$' },
    },
    { name: 'no-cycles', severity: 'error', from: { path: '^src/' }, to: { circular: true } },
    {
      name: 'no-unknown-room',
      severity: 'error',
      from: { path: `^src/(?!(${Object.keys(ROOMS).join('|')})/)` },
      to: {},
    },
  ],
  options: {
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    doNotFollow: { path: 'node_modules' },
    detectJSDocImports: false,
    enhancedResolveOptions: { extensions: ['.ts', '.js', '.mjs', '.json'] },
  },
};
