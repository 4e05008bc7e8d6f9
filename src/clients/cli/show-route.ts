import type { Route, WakeRules } from '../../contract/route.ts';
import { formatFields, formatTable } from './table.ts';
import { age } from './words.ts';

/** Routes as a table, or what to do when there are none, of VM `vm` where one was named. `now` in milliseconds. */
export function showRoutes(routes: readonly Route[], now: number, vm?: string): string {
  if (routes.length === 0)
    return vm === undefined
      ? 'No routes yet. Make one: hatch route add <vm> --port 8080'
      : `VM ${vm} has no routes yet. Make one: hatch route add ${vm} --port 8080`;
  return formatTable(
    ['ID', 'URL', 'VM', 'PORT', 'WAKES', 'AGE'],
    routes.map((one) => [
      one.id,
      one.url,
      one.vm_id,
      one.target_port,
      one.auto_wake ? (one.wake === undefined ? 'yes' : 'by rules') : 'no',
      age(one.created_at, now),
    ]),
  );
}

/** All that is known of one route, a line each. */
export function showRoute(one: Route, now: number): string {
  return formatFields({
    Id: one.id,
    URL: one.url,
    VM: one.vm_id,
    Port: one.target_port,
    Wakes: one.auto_wake ? (one.wake === undefined ? 'yes, at any request' : rulesOf(one.wake)) : 'no',
    Made: `${age(one.created_at, now)} ago`,
  });
}

/** The rules in words: `GET, POST; /api/*; from 10.0.0.0/8; 5 times a day`. */
function rulesOf({ methods, paths, cidrs, daily_budget: budget }: WakeRules): string {
  const parts = [
    methods?.join(', '),
    paths?.join(', '),
    cidrs && `from ${cidrs.join(', ')}`,
    budget === undefined ? undefined : `${budget} times a day`,
  ];
  return parts.filter((part) => part !== undefined).join('; ');
}
