import { Type, type Static } from 'typebox';
import { Everyone, madeId, orNull, PAGE_FIELDS, Time, VmId } from './common.ts';

const LABEL = '^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$';

/** Names under the proxy's base domain that no route may have: people would take them for the server's own. */
export const RESERVED_SUBDOMAINS: ReadonlySet<string> = new Set(
  (
    'api www admin app dashboard mail smtp ftp ssh ns1 ns2 status docs help support billing login auth oauth cdn static ' +
    'assets media hatch console panel grafana prometheus traefik minio postgres db redis internal'
  ).split(' '),
);

/** Whether a route may have this name under the proxy's base domain, if nobody else has it. */
export function isSubdomain(text: string): boolean {
  return new RegExp(LABEL).test(text) && !RESERVED_SUBDOMAINS.has(text);
}

/** Those of RFC 9110, RFC 5789 and WebDAV (RFC 4918, RFC 3253, RFC 5323, RFC 8144): a route that is to wake for one of another name never does. */
const METHODS =
  'GET HEAD POST PUT PATCH DELETE OPTIONS PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK SEARCH REPORT'.split(
    ' ',
  );

export const RouteId = madeId('rt', 'The id of a route.');

const Subdomain = Type.String({
  pattern: LABEL,
  'x-rule': 'a name of 1 to 63 lower-case letters, digits and inner dashes',
  description:
    'The name under the proxy’s base domain: 1 to 63 lower-case letters, digits and inner dashes; one of all accounts has it. ' +
    `Reserved: ${[...RESERVED_SUBDOMAINS].join(', ')}. Neither this nor \`domain\`: one is made.`,
  examples: ['web'],
});
const Domain = Type.String({
  maxLength: 253,
  description:
    'In place of `subdomain`: a host name of your own, which DNS leads to the proxy; kept in lower case. No address, no wildcard, ' +
    'nothing under the proxy’s base domain; a name with other than ASCII letters as punycode (`xn--...`).',
  examples: ['shop.example.com'],
});
const TargetPort = Type.Integer({
  minimum: 1,
  maximum: 65535,
  description: 'The guest’s TCP port it leads to.',
  examples: [8080],
});
const AutoWake = Type.Boolean({
  default: true,
  description: 'Whether a request wakes the VM when it sleeps.',
});

export const WakeRules = Type.Object(
  {
    methods: Type.Optional(
      Type.Array(
        Type.String({
          pattern: `^(?:${METHODS.join('|')})$`,
          'x-rule': `an HTTP method in capital letters: ${METHODS.join(', ')}`,
        }),
        { minItems: 1, maxItems: 32, uniqueItems: true, description: 'Only these HTTP methods.' },
      ),
    ),
    paths: Type.Optional(
      Type.Array(
        Type.String({
          maxLength: 512,
          pattern: '^/[!"$->@-~]*$',
          'x-rule': 'a path in printable ASCII that begins with a slash, without "?" and "#", such as /api/*',
        }),
        {
          minItems: 1,
          maxItems: 32,
          uniqueItems: true,
          description:
            'Only these paths, whole and without their query; `*` stands for any characters, slashes too.',
        },
      ),
    ),
    cidrs: Type.Optional(
      Type.Array(Type.String({ maxLength: 64 }), {
        minItems: 1,
        maxItems: 64,
        description: 'Only clients in these networks, IPv4 or IPv6.',
      }),
    ),
    daily_budget: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: 1_000_000,
        description: 'At most so many wakes by this route a day (UTC).',
      }),
    ),
  },
  {
    $id: 'WakeRules',
    additionalProperties: false,
    description:
      'Which requests wake the VM; all that is given must hold. What does not match is answered 503 while it sleeps.',
    examples: [{ methods: ['GET', 'POST'], paths: ['/api/*'], cidrs: ['203.0.113.0/24'], daily_budget: 20 }],
  },
);
export type WakeRules = Static<typeof WakeRules>;

export const CreateRoute = Type.Object(
  {
    subdomain: Type.Optional(Subdomain),
    domain: Type.Optional(Domain),
    target_port: TargetPort,
    auto_wake: Type.Optional(AutoWake),
    wake: Type.Optional(WakeRules),
  },
  {
    $id: 'CreateRoute',
    additionalProperties: false,
    examples: [
      { subdomain: 'web', target_port: 8080 },
      { domain: 'shop.example.com', target_port: 80, auto_wake: false },
    ],
  },
);
export type CreateRoute = Static<typeof CreateRoute>;

export const PatchRoute = Type.Object(
  {
    target_port: Type.Optional(TargetPort),
    auto_wake: Type.Optional(AutoWake),
    wake: Type.Optional(orNull(WakeRules)),
  },
  {
    $id: 'PatchRoute',
    additionalProperties: false,
    description:
      'What is to change; `wake` replaces all of its rules, null takes them away. Another name is another route.',
    examples: [{ target_port: 3000 }, { wake: null }],
  },
);
export type PatchRoute = Static<typeof PatchRoute>;

export const Route = Type.Object(
  {
    id: RouteId,
    vm_id: VmId,
    subdomain: Type.Optional(Type.String()),
    domain: Type.Optional(Type.String()),
    url: Type.String({ description: 'Where the proxy answers for it.' }),
    target_port: TargetPort,
    auto_wake: AutoWake,
    wake: Type.Optional(WakeRules),
    created_at: Time,
    updated_at: Time,
  },
  {
    $id: 'Route',
    additionalProperties: false,
    description:
      'A host name that leads to a port of a VM’s guest; it has either `subdomain` or `domain`. It goes with its VM.',
    examples: [
      {
        id: 'rt-abc123def456',
        vm_id: 'vm-abc123def456',
        subdomain: 'web',
        url: 'http://web.hatch.localhost:9090',
        target_port: 8080,
        auto_wake: true,
        created_at: '2026-03-06T10:30:00Z',
        updated_at: '2026-03-06T10:30:00Z',
      },
    ],
  },
);
export type Route = Static<typeof Route>;

export const RouteParams = Type.Object({ id: RouteId }, { additionalProperties: false });

export const RouteListQuery = Type.Object(
  { ...PAGE_FIELDS, all: Type.Optional(Everyone) },
  { additionalProperties: false },
);
