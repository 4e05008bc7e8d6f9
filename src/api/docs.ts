import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import type { App } from './app.ts';
import { describeRoute, nameSchemas, relaxBodies, schemaName } from './openapi.ts';

const ABOUT = `Hatch makes, runs and removes microVMs: real Linux guests in real virtual machines.

Every call but the open ones needs an API key, as \`Authorization: Bearer KEY\` or \`X-API-Key: KEY\`. Bodies are JSON; an
unknown field is refused, and nothing is coerced. Times are RFC 3339 in UTC. Lists are arrays, newest first, in pages: the
\`Link\` header has the next. Every error has the same shape, and its \`code\` is never renamed.`;

/** Everything the page needs comes from this server; styles are set from script by Swagger UI itself. */
const PAGE_POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; " +
  "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** Collects the routes made from here on for the description. */
export async function describeRoutes(app: App, version: string): Promise<void> {
  nameSchemas(app);
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Hatch',
        version,
        description: ABOUT,
        license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
      },
      servers: [{ url: '/', description: 'This server.' }],
      tags: [
        { name: 'VMs', description: 'Make them, run them, remove them.' },
        { name: 'Inside a VM', description: 'Commands, console, events.' },
        { name: 'Sleep', description: 'Why VMs sleep and stay awake.' },
        { name: 'Snapshots', description: 'Sleep, wake, copy; whole VMs as they were in one moment.' },
        { name: 'Routes', description: 'Host names that lead to ports of guests.' },
        { name: 'Images', description: 'What VMs boot from.' },
        { name: 'Templates', description: 'Settings to make VMs with.' },
        { name: 'Accounts', description: 'Who may do what, and how much of it.' },
        { name: 'Server', description: 'How the server itself is.' },
      ],
      components: {
        securitySchemes: {
          bearer: { type: 'http', scheme: 'bearer', description: 'An API key.' },
          apiKey: { type: 'apiKey', in: 'header', name: 'X-API-Key', description: 'An API key.' },
        },
      },
    },
    transform: describeRoute,
    transformObject: relaxBodies,
    refResolver: { buildLocalReference: (json, _base, _fragment, index) => schemaName(json, index) },
  });
}

/** `/openapi.json`, and `/docs`: the description for people, out of the package, without any other host. */
export async function docsRoutes(app: App): Promise<void> {
  app.get('/openapi.json', { config: { access: 'open' }, schema: { hide: true } }, async () => app.swagger());
  await app.register(swaggerUi, {
    routePrefix: '/docs',
    staticCSP: PAGE_POLICY,
    uiConfig: { docExpansion: 'list', deepLinking: true, persistAuthorization: true, tryItOutEnabled: true },
    theme: { title: 'Hatch' },
  });
}
